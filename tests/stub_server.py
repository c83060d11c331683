"""An OpenAI server that computes nothing: known delays, every kind of framing, and faults.

    python -m tests.stub_server --port 0 --ttft 0.05 --tpot 0.01

It prints one line of JSON once it listens: ``{"port": 40123, "pid": 1234}``; until then connections are refused. Token
k of an answer (from 0) is sent at arrival + ttft + k × tpot, each by its own deadline, so that no lateness adds up; a
chunk of several is sent with its last one.
Without delays tokens go out as fast as one core can write, one write a chunk, streams in turns. What it really took is
in the last chunk, as llama-server says it: ``timings.prompt_ms`` from arrival to the first token's write,
``predicted_ms`` from there to the last; ``stub`` has the stamps (CLOCK_MONOTONIC nanoseconds) themselves:
``{"number", "received_ns", "sent_ns": [...]}``. Arrivals are stamped before anything else is done, also when many
streams are being written.

Faults hit requests from ``--fault-from`` on (counted from 0), every ``--fault-every``-th of them, several in turn,
unless the environment has STUB_WITHOUT_FAULTS:
``429``, ``500``, ``garbage`` (no HTTP), ``garbage-json``, ``error-event``, ``early-close`` (before any byte), ``hang``
(no byte ever), ``stall`` (after half of the tokens), ``cut`` (closes there), ``die`` (the process ends there),
``short`` (one token too few), ``long-prompt`` (usage says one input token more), ``no-usage``, ``no-stream``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import heapq
import json
import os
import re
import selectors
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

FAULTS = (
    *("429", "500", "garbage", "garbage-json", "error-event", "early-close", "hang", "stall", "cut", "die"),
    *("short", "long-prompt", "no-usage", "no-stream"),
)
STEPS_BETWEEN_READS = 4
"""So that arrivals are stamped within a fraction of a millisecond while many streams are written."""
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
TEMPLATE_TOKENS = 3
"""What the chat template adds to a prompt."""


@dataclass
class Stream:
    """One answer being sent."""

    connection: Connection
    number: int
    received_ns: int
    input_tokens: int
    output_tokens: int
    chat: bool
    ids: bool
    """Whether token ids are sent with the text, as vLLM does for ``return_token_ids``."""
    usage: bool
    fault: str | None
    origin_s: float
    """What its deadlines count from: its arrival, or the end of its wait for a slot."""
    sent: int = 0
    sent_ns: list[int] = field(default_factory=list)


class Stub:
    """The server's state: options, counters, streams that are written or wait."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.delayed = options.ttft > 0 or options.tpot > 0
        self.requests = 0
        self.running = 0
        self.generated = self.prompted = self.answered = 0
        self.ttft_s = 0.0
        self.waiting: deque[Stream] = deque()
        self._arrivals: deque[tuple[Connection, bytes, bytes, int]] = deque()
        self._writable: deque[Stream] = deque()
        self._due: list[tuple[float, int, Stream]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._working = False
        self._loop = asyncio.get_running_loop()

    def fault(self, number: int) -> str | None:
        after = number - self.options.fault_from
        if (
            self.options.fault is None
            or "STUB_WITHOUT_FAULTS" in os.environ
            or after < 0
            or after % self.options.fault_every
        ):
            return None
        return self.options.fault[after // self.options.fault_every % len(self.options.fault)]

    def arrived(self, connection: Connection, head: bytes, body: bytes, received_ns: int) -> None:
        """Take a request that came, to be answered in its turn."""
        self._arrivals.append((connection, head, body, received_ns))
        self._wake()

    def _wake(self) -> None:
        if not self._working:
            self._working = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        """Some requests and some chunks; then the loop reads before there is more."""
        for _ in range(min(STEPS_BETWEEN_READS, len(self._arrivals))):
            connection, *request = self._arrivals.popleft()
            connection.answer(*request)
        self._write_due()
        self._working = bool(self._arrivals or self._writable or (self._due and self._due[0][0] <= self._loop.time()))
        if self._working:
            self._loop.call_soon(self._work)
        elif self._due:
            self._set_timer()

    def _set_timer(self) -> None:
        due = self._due[0][0]
        if self._timer is None or self._timer.cancelled() or due < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._timer_ended)

    def _timer_ended(self) -> None:
        self._timer = None
        self._wake()

    def _write_due(self) -> None:
        if not self.delayed:
            for _ in range(min(STEPS_BETWEEN_READS, len(self._writable))):
                stream = self._writable.popleft()
                if stream.connection.step(stream):
                    self._writable.append(stream)
                else:
                    self._ended()
            return
        for _ in range(STEPS_BETWEEN_READS):
            if not self._due or self._due[0][0] > self._loop.time():
                return
            stream = heapq.heappop(self._due)[2]
            if stream.connection.step(stream):
                self._plan(stream, min(stream.sent + self.options.tokens_per_chunk, stream.output_tokens) - 1)
            else:
                self._ended()

    def _plan(self, stream: Stream, token: int) -> None:
        due = stream.origin_s + self.options.ttft + self.options.tpot * token
        heapq.heappush(self._due, (due, stream.number, stream))

    def take(self, stream: Stream) -> None:
        """Start an answer, or let it wait for a slot."""
        if self.options.slots and self.running >= self.options.slots:
            self.waiting.append(stream)
            return
        self.running += 1
        if self.delayed:
            self._plan(stream, min(self.options.tokens_per_chunk, stream.output_tokens) - 1)
        else:
            self._writable.append(stream)

    def _ended(self) -> None:
        self.running -= 1
        if self.waiting:
            stream = self.waiting.popleft()
            stream.origin_s = self._loop.time()
            self.take(stream)

    def metrics(self) -> str:
        """A few of vLLM's figures."""
        values = {
            "vllm:num_requests_running": self.running,
            "vllm:num_requests_waiting": len(self.waiting),
            "vllm:prompt_tokens_total": self.prompted,
            "vllm:generation_tokens_total": self.generated,
            "vllm:request_success_total": self.answered,
            "vllm:time_to_first_token_seconds_sum": self.ttft_s,
            "vllm:time_to_first_token_seconds_count": self.answered,
        }
        if self.options.preempts:
            values["vllm:num_preemptions_total"] = self.answered
        if self.options.cached is not None:
            values["vllm:prompt_tokens_cached_total"] = self.options.cached * self.answered
        return "".join(f'{name}{{model_name="{self.options.model}"}} {value}\n' for name, value in values.items())


class Connection(asyncio.Protocol):
    """One client's connection; requests on it are answered in order, one at a time."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._options = stub.options
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received_ns = time.monotonic_ns()
        self._received = self._received + data if self._received else data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end]
        length = _content_length(head)
        if len(self._received) < end + 4 + length:
            return
        body = self._received[end + 4 : end + 4 + length]
        self._received = self._received[end + 4 + length :]
        self._stub.arrived(self, head, body, received_ns)

    def answer(self, head: bytes, body: bytes, received_ns: int) -> None:
        """Begin to answer one request."""
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if method == b"POST":
            self._generate(target.decode(), body, received_ns, head)
        else:
            self._get(target.decode())

    def _get(self, target: str) -> None:
        model = {"id": self._options.model, "object": "model", "max_model_len": self._options.context}
        if self._options.tells_no_context:
            del model["max_model_len"]
        answers = {
            "/health": ("application/json", '{"status":"ok"}'),
            "/metrics": ("text/plain; version=0.0.4", self._stub.metrics()),
            "/v1/models": ("application/json", json.dumps({"object": "list", "data": [model]})),
        }
        if self._options.tells_slots:
            model["owned_by"] = "llamacpp"
            props = {
                "total_slots": self._options.slots,
                "default_generation_settings": {"n_ctx": self._options.context},
            }
            answers["/v1/models"] = ("application/json", json.dumps({"object": "list", "data": [model]}))
            answers["/props"] = ("application/json", json.dumps(props))
        if target in answers:
            kind, text = answers[target]
            self._whole("200 OK", text, kind)
        else:
            self._refuse("404 Not Found", "Not Found")

    def _generate(self, target: str, body: bytes, received_ns: int, head: bytes) -> None:
        number, self._stub.requests = self._stub.requests, self._stub.requests + 1
        asked = json.loads(body)
        chat = target.endswith("/chat/completions")
        if not target.endswith("/completions"):
            return self._refuse("404 Not Found", "Not Found")
        if self._options.key and f"bearer {self._options.key}".encode().lower() not in head.lower():
            return self._refuse("401 Unauthorized", "Incorrect API key provided")
        if asked.get("model") != self._options.model:
            return self._refuse("404 Not Found", f"The model `{asked.get('model')}` does not exist.")
        m = _input_tokens(asked["messages"] if chat else asked["prompt"], chat)
        n = int(asked.get("max_tokens", 16))
        if self._options.context and m + n > self._options.context:
            said = f"This model's maximum context length is {self._options.context} tokens, not {m + n}."
            return self._refuse("400 Bad Request", said)
        fault = self._stub.fault(number)
        if fault and self._failed_at_once(fault):
            return None
        usage = bool(asked.get("stream_options", {}).get("include_usage")) and fault != "no-usage"
        n -= fault == "short"
        ids = bool(asked.get("return_token_ids"))
        self._stub.take(Stream(self, number, received_ns, m, n, chat, ids, usage, fault, received_ns / 1e9))
        return None

    def _failed_at_once(self, fault: str) -> bool:
        """Play faults that leave no stream."""
        if fault == "429":
            self._refuse("429 Too Many Requests", "Rate limit reached, try again in 20 s")
        elif fault == "500":
            self._refuse("500 Internal Server Error", "EngineCore encountered an issue")
        elif fault == "garbage":
            self._transport.write(b"\x00\xff not HTTP at all\r\n\r\n")
            self._transport.close()
        elif fault == "early-close":
            self._transport.close()
        elif fault == "no-stream":
            self._whole("200 OK", '{"choices":[{"text":"a"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
        return fault in ("429", "500", "garbage", "early-close", "no-stream", "hang")

    def _refuse(self, status: str, message: str) -> None:
        code = int(status.split()[0])
        self._whole(status, json.dumps({"error": {"message": message, "type": "StubError", "code": code}}))

    def _whole(self, status: str, text: str, kind: str = "application/json") -> None:
        body = text.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def step(self, stream: Stream) -> bool:
        """Send the next chunk of an answer, the end with the last; False when there is nothing more to send."""
        if self._transport.is_closing():
            return False
        count = min(self._options.tokens_per_chunk, stream.output_tokens - stream.sent)
        out = b"" if stream.sent else self._head(stream)
        if stream.fault in ("stall", "cut", "die", "garbage-json", "error-event") and (
            stream.sent >= stream.output_tokens // 2
        ):
            return self._break(stream, out)
        out += self._event(_piece(stream, count, self._options.empty_text))
        stream.sent += count
        last = stream.sent >= stream.output_tokens
        stream.sent_ns.append(time.monotonic_ns())
        if last:
            out += self._end(stream)
        if self._options.framing != "length":
            self._transport.write(out)
        else:
            self._hold(out, last)
        if last and (self._options.close or self._options.framing == "eof"):
            self._transport.close()
        return not last

    def _break(self, stream: Stream, out: bytes) -> bool:
        """Play faults in mid answer."""
        if stream.fault == "garbage-json":
            out += self._event(b'{"choices": [{"te') + self._end(stream)
        elif stream.fault == "error-event":
            out += self._event(b'{"error": {"message": "the engine died", "code": 500}}') + self._end(stream)
        self._transport.write(out)
        if stream.fault == "cut":
            self._transport.close()
        elif stream.fault == "die":
            os._exit(9)
        return False

    def _head(self, stream: Stream) -> bytes:
        out = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        if self._options.framing == "chunked":
            out += b"Transfer-Encoding: chunked\r\n"
        if self._options.framing == "eof":
            out += b"Connection: close\r\n"
        out += b"" if self._options.framing == "length" else b"\r\n"
        if stream.chat:
            out += self._event(b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}')
        return out

    def _hold(self, out: bytes, last: bool) -> None:
        """With a length in the head nothing can be sent before all of it is known."""
        self._held = getattr(self, "_held", b"") + out
        if last:
            head, body = self._held.split(b"stream\r\n", 1)
            self._transport.write(head + b"stream\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            self._held = b""

    def _end(self, stream: Stream) -> bytes:
        options = self._options
        self._stub.prompted += stream.input_tokens
        self._stub.generated += stream.output_tokens
        sent = stream.sent_ns or [stream.received_ns]
        said: dict[str, Any] = {"object": "chat.completion.chunk" if stream.chat else "text_completion", "choices": []}
        if stream.usage:
            m = stream.input_tokens + (stream.fault == "long-prompt")
            said["usage"] = {"prompt_tokens": m, "completion_tokens": stream.output_tokens}
            if options.cached is not None:
                said["usage"]["prompt_tokens_details"] = {"cached_tokens": options.cached}
        prompt_ms, predicted_ms = (sent[0] - stream.received_ns) / 1e6, (sent[-1] - sent[0]) / 1e6
        self._stub.ttft_s += prompt_ms / 1e3
        self._stub.answered += 1
        said["timings"] = {"prompt_ms": prompt_ms, "predicted_ms": predicted_ms}
        said["stub"] = {"number": stream.number, "received_ns": stream.received_ns, "sent_ns": sent}
        out = self._event(json.dumps(said).encode()) + self._event(b"[DONE]")
        return out + b"0\r\n\r\n" if options.framing == "chunked" else out

    def _event(self, data: bytes) -> bytes:
        event = b"data: " + data + b"\n\n"
        return b"%x\r\n%b\r\n" % (len(event), event) if self._options.framing == "chunked" else event


def _piece(stream: Stream, count: int, empty: bool) -> bytes:
    """The chunk of the next ``count`` tokens."""
    text = b"" if empty else b" a" * count
    if stream.chat:
        return b'{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%b"}}]}' % text
    if stream.ids:
        listed = ",".join(str(7 + stream.sent + k) for k in range(count)).encode()
        return (
            b'{"object":"text_completion","choices":[{"index":0,"text":"%b","token_ids":[%b],"finish_reason":null}]}'
            % (text, listed)
        )
    return b'{"object":"text_completion","choices":[{"index":0,"text":"%b","finish_reason":null}]}' % text


def _input_tokens(prompt: Any, chat: bool) -> int:
    if chat:
        return TEMPLATE_TOKENS + sum(len(message["content"].split()) for message in prompt)
    return len(prompt.split()) if isinstance(prompt, str) else len(prompt)


def _content_length(head: bytes) -> int:
    found = LENGTH.search(head)
    return int(found[1]) if found else 0


def _faults(text: str) -> list[str]:
    listed = text.split(",")
    if not set(listed) <= set(FAULTS):
        raise argparse.ArgumentTypeError(f"choose from {', '.join(FAULTS)}")
    return listed


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stub_server", description="an OpenAI server that computes nothing")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft", type=float, default=0.0, help="seconds from arrival to the first token")
    parser.add_argument("--tpot", type=float, default=0.0, help="seconds between tokens")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--framing", choices=["chunked", "length", "eof"], default="chunked")
    parser.add_argument("--close", action="store_true", help="close after each answer without saying so before")
    parser.add_argument("--empty-text", action="store_true", help="tokens without text, as with detokenize off")
    parser.add_argument("--model", default="stub")
    parser.add_argument("--context", type=int, default=None, help="most input and output tokens together")
    parser.add_argument("--tells-no-context", action="store_true")
    parser.add_argument("--slots", type=int, default=0, help="requests worked on at once; the others wait")
    parser.add_argument("--tells-slots", action="store_true", help="call yourself llama-server and tell the slots")
    parser.add_argument("--preempts", action="store_true", help="count a preemption for each answer")
    parser.add_argument("--cached", type=int, default=None, help="cached input tokens in the usage")
    parser.add_argument("--key", default=None, help="the API key that requests must bring")
    parser.add_argument("--fault", type=_faults, default=None, metavar="FAULT,…")
    parser.add_argument("--fault-from", type=int, default=0)
    parser.add_argument("--fault-every", type=int, default=1)
    parser.add_argument("--core", type=int, default=None, help="the one core to run on (Linux)")
    return parser.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stub = Stub(options)
    server = await loop.create_server(lambda: Connection(stub), "127.0.0.1", options.port, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1], "pid": os.getpid()}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()


def new_loop(options: argparse.Namespace) -> asyncio.AbstractEventLoop:
    """With delays one whose timers are exact to microseconds; epoll's are rounded up to milliseconds."""
    exact = options.ttft > 0 or options.tpot > 0
    return asyncio.SelectorEventLoop(selectors.SelectSelector() if exact else None)


def main() -> None:
    options = parse(sys.argv[1:])
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    gc.disable()
    with asyncio.Runner(loop_factory=lambda: new_loop(options)) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    main()
