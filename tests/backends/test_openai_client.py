"""The client of OpenAI servers against a stub of one: stamps, counts, framings, and every fault."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import BackendError, InvalidConfig, Reply, Request
from backends.openai import client as client_module
from backends.openai.address import parse_url
from backends.openai.client import ClientSettings, OpenAIClient, settings_from_json
from backends.openai.prompts import RequestForm, draw_ids, form_from_json
from backends.openai.stream import Answer, error_message, events, one_line, read_reply
from tests.helpers import ROOT, environment

USAGE = {"stream_options": {"include_usage": True}}
KEY = "sk-not-for-any-eyes"


@contextlib.contextmanager
def stub(*options: str) -> Iterator[str]:
    """The stub as a process; gives its URL."""
    command = [sys.executable, "-m", "tests.stub_server", *options]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.kill()


def made(url: str, exact: bool = True, key: str | None = None, **fields: Any) -> OpenAIClient:
    fields.setdefault("extra", USAGE)
    return OpenAIClient(ClientSettings(url, RequestForm("stub", 0, 32000, **fields), exact), key)


Play = Callable[[OpenAIClient], Coroutine[Any, Any, Any]]


def played(client: OpenAIClient, play: Play, connections: int = 1) -> Any:
    async def run() -> Any:
        await client.open(connections)
        try:
            return await asyncio.wait_for(play(client), 20)
        finally:
            await client.close()

    return asyncio.run(run())


def replies(url: str, request: Request, count: int = 3, **fields: Any) -> list[Reply]:
    """One after the other on one connection."""

    async def play(client: OpenAIClient) -> list[Reply]:
        return [client.read(await client.send(0, request, number)) for number in range(count)]

    return played(made(url, **fields), play)


# What the answers say


@pytest.mark.parametrize("framing", ["chunked", "length", "eof"])
@pytest.mark.parametrize("closing", [[], ["--close"]])
def test_every_framing_gives_the_same_reply(framing: str, closing: list[str]) -> None:
    with stub("--framing", framing, *closing) as url:
        for reply in replies(url, Request(5, 7)):
            assert (reply.input_tokens, reply.output_tokens) == (5, 7)
            assert reply.token_counts == (1,) * 7
            assert reply.counted
            assert reply.start_ns < reply.token_ns[0] <= reply.end_ns == reply.token_ns[-1]
            assert list(reply.token_ns) == sorted(reply.token_ns)
            assert reply.cached_tokens is None


def test_a_server_that_closes_after_each_answer_costs_no_time_in_ttft() -> None:
    with stub("--close", "--ttft", "0.02") as url:
        for reply in replies(url, Request(5, 2), count=6):
            assert reply.token_ns[0] - reply.start_ns < 20e6 + 15e6
            assert reply.said["prompt_s"] >= 0.02


def test_known_delays_are_seen_with_many_in_flight() -> None:
    """Bounds of a machine that others use too; ``scripts/bench/client.py`` has the true figures."""

    async def play(client: OpenAIClient) -> list[Reply]:
        async def one(place: int) -> list[Reply]:
            await asyncio.sleep(place * 0.002)
            return [client.read(await client.send(place, Request(8, 16), place + 100 * k)) for k in range(2)]

        return [reply for some in await asyncio.gather(*map(one, range(100))) for reply in some]

    with stub("--ttft", "0.05", "--tpot", "0.01") as url:
        found = played(made(url), play, connections=100)
    beyond_ms = [(reply.token_ns[0] - reply.start_ns) / 1e6 - 1e3 * reply.said["prompt_s"] for reply in found]
    tpot_ms = [(reply.end_ns - reply.token_ns[0]) / 1e6 / 15 for reply in found]
    assert min(beyond_ms) >= 0
    assert statistics.median(beyond_ms) < 20
    assert statistics.median(tpot_ms) == pytest.approx(10, abs=1)


@pytest.mark.parametrize(
    ("options", "extra", "counts", "counted"),
    [
        (["--tokens-per-chunk", "3"], {}, (2, 2, 3), False),
        (["--tokens-per-chunk", "3"], {"return_token_ids": True}, (3, 3, 1), True),
        (["--empty-text", "--tokens-per-chunk", "3"], {"return_token_ids": True}, (3, 3, 1), True),
        (["--empty-text"], {}, (1,) * 7, True),
    ],
)
def test_tokens_of_a_chunk(options: list[str], extra: dict[str, Any], counts: tuple[int, ...], counted: bool) -> None:
    with stub(*options) as url:
        reply = replies(url, Request(5, 7), count=1, extra=USAGE | extra)[0]
    assert (reply.token_counts, reply.counted, reply.output_tokens) == (counts, counted, 7)


def test_cached_tokens_and_the_servers_own_times_are_kept() -> None:
    with stub("--cached", "1") as url:
        reply = replies(url, Request(5, 2), count=1)[0]
    assert reply.cached_tokens == 1
    assert set(reply.said) == {"prompt_s", "predicted_s"}


def test_chats_take_words_and_count_the_template() -> None:
    words = tuple(f"w{k}" for k in range(500))
    form = {"path": "/v1/chat/completions", "prompt_key": "messages", "words": words, "template_tokens": 3}
    with stub() as url:
        client = OpenAIClient(ClientSettings(url, RequestForm("stub", 0, 500, extra=USAGE, **form)))

        async def play(client: OpenAIClient) -> Reply:
            return client.read(await client.send(0, Request(9, 4), 0))

        reply = played(client, play)
    assert (reply.input_tokens, reply.token_counts) == (9, (1,) * 4)
    with pytest.raises(InvalidConfig, match="ask for at least 4"):
        RequestForm("stub", 0, 500, **form).body(Request(3, 1), 0)


# Events, however they are split

STREAM = (
    b": a comment\r\n\r\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\r\n\r\n'
    b'event: x\nid: 4\ndata: {"choices":\ndata: [{"text":" one"}]}\n\n'
    b'data:{"choices":[{"text":" tw\xc3\xb6"}]}\r\n\r\n'
    b"\n\n: ping\n\n"
    b'data: {"choices":[{"text":" three"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3}}\n\n'
    b"data: [DONE]\n\n"
)
ENDS = [STREAM.index(mark) + len(mark) for mark in (b' one"}]}\n\n', b' tw\xc3\xb6"}]}\r\n\r\n', b' three"}]}\n\n')]
"""Where each event with a token is complete."""


@given(st.sets(st.integers(1, len(STREAM) - 1)))
@settings(max_examples=200, deadline=None)
def test_any_split_gives_the_same_tokens_each_stamped_by_the_read_that_completed_it(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [(1000 + k, STREAM[a:b]) for k, (a, b) in enumerate(itertools.pairwise(edges))]
    reply = read_reply(Answer(Request(4, 3), 500, parts, 200), exact=True)
    completing = [next(1000 + k for k, edge in enumerate(edges[1:]) if edge >= end) for end in ENDS]
    assert list(reply.token_ns) == completing
    assert reply.token_counts == (1, 1, 1)


def test_an_event_without_its_empty_line_counts_at_the_end() -> None:
    assert list(events([(1, b"data: a\n\ndata: b"), (2, b"c")])) == [(1, b"a"), (2, b"bc")]


def answer(*said: dict[str, Any] | bytes, asked: Request = Request(4, 3)) -> Answer:
    data = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in said]
    return Answer(asked, 0, [(k + 1, b"data: " + one + b"\n\n") for k, one in enumerate(data)], 200)


def piece(text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": reason}], **more}


def counted(m: int, n: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": m, "completion_tokens": n}}


END = {"choices": [], **counted(4, 3)}


@pytest.mark.parametrize(
    ("said", "stamps", "counts", "known"),
    [
        # llama-server withholds the bytes of a character: fewer chunks than tokens, and an end without a token.
        ([piece("a"), piece("bc"), piece("", "length"), END], (1, 2), (1, 2), False),
        # vLLM with detokenize off: all texts are empty, the last token says why the output ended.
        ([piece(""), piece(""), piece("", "length"), END], (1, 2, 3), (1, 1, 1), True),
        # Running usage tells the tokens of each chunk.
        ([piece("a", **counted(4, 1)), piece("bc", **counted(4, 3))], (1, 2), (1, 2), True),
        # A chunk without tokens comes first.
        ([piece(""), piece("a"), piece("b"), piece("c"), END], (2, 3, 4), (1, 1, 1), True),
        # llama-server's own interface names its ids beside the text.
        ([{"choices": [{"text": ""}], "tokens": [1, 2, 3]}, END], (1,), (3,), True),
    ],
)
def test_what_counts_as_a_token(
    said: list[dict[str, Any]], stamps: tuple[int, ...], counts: tuple[int, ...], known: bool
) -> None:
    reply = read_reply(answer(*said, b"[DONE]"), exact=True)
    assert (reply.token_ns, reply.token_counts, reply.counted) == (stamps, counts, known)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([piece("a"), counted(4, 2), b"[DONE]"], "counted 4 input and 2 output tokens, not 4 and 3"),
        ([piece("a"), counted(5, 3), b"[DONE]"], "counted 5 input and 3 output tokens, not 4 and 3"),
        ([piece("a"), b"[DONE]"], "sent no usage"),
        ([piece("a")], "ended early, after"),
        ([], "was empty"),
        ([b'{"choices": [{"te'], "what isn't JSON"),
        ([b"[1, 2]"], "isn't an event of an answer"),
        ([b"[" * 200_000], "what isn't JSON"),
        ([{"error": {"message": "out of\nblocks \x1b[31m"}}], r"failed in mid answer: out of blocks \[31m"),
        ([{"usage": {"prompt_tokens": True, "completion_tokens": 3}}], "no count prompt_tokens"),
        ([{"usage": {"prompt_tokens": 4}}], "no count completion_tokens"),
        ([counted(4, 2**63)], "no count completion_tokens"),
        ([*[piece("a")] * 4, END], "counted 3 output tokens but sent 4 pieces"),
        ([END], "counted 3 output tokens but sent 0 pieces"),
        ([counted(4, 0)], "not 4 and 3"),
    ],
)
def test_what_an_answer_may_not_say(said: list[Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        read_reply(answer(*said), exact=True)


def test_compressed_answers_are_named() -> None:
    with pytest.raises(BackendError, match="compresses its answers"):
        read_reply(Answer(Request(4, 3), 0, [(1, b"\x1f\x8b\x08\x00\xd3")], 200), exact=True)


def test_other_sizes_are_read_where_they_are_allowed() -> None:
    reply = read_reply(answer(piece("a"), piece("b"), counted(9, 2), b"[DONE]"), exact=False)
    assert (reply.input_tokens, reply.output_tokens, reply.token_counts) == (9, 2, (1, 1))
    with pytest.raises(BackendError, match="no output token"):
        read_reply(answer(counted(4, 0), b"[DONE]"), exact=False)


def test_what_no_record_can_hold_is_left_out() -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": -(10**30)}}
    timings = {
        "prompt_ms": 20,
        "\x1b[31m_ms": 1,
        "a\ud800_ms": 1,
        "huge_ms": 10**400,
        "no_ms": True,
        "nan_ms": math.nan,
    }
    reply = read_reply(answer(*[piece("a")] * 3, {"usage": usage, "timings": timings}), exact=True)
    assert reply.cached_tokens is None
    assert reply.said == {"prompt_s": 0.02}


@given(st.lists(st.binary(max_size=40), max_size=6))
@settings(max_examples=200, deadline=None)
def test_garbage_is_refused_in_words(parts: list[bytes]) -> None:
    with pytest.raises(BackendError) as refused:
        read_reply(Answer(Request(4, 3), 0, list(enumerate(parts)), 200), exact=True)
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) < 400


# Faults


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("429", "answered 429: Rate limit reached, try again in 20 s"),
        ("500", "answered 500: EngineCore encountered an issue"),
        ("garbage", "isn't HTTP"),
        ("garbage-json", "isn't JSON"),
        ("error-event", "failed in mid answer: the engine died"),
        ("early-close", "closed the connection before it answered"),
        ("cut", "closed the connection in mid answer"),
        ("die", "closed the connection in mid answer"),
        ("short", "counted 5 input and 5 output tokens, not 5 and 6"),
        ("long-prompt", "counted 6 input and 6 output tokens, not 5 and 6"),
        ("no-usage", "sent no usage"),
        ("no-stream", "answered without streaming"),
    ],
)
def test_a_fault_is_one_line_and_the_next_request_works(fault: str, message: str) -> None:
    async def play(client: OpenAIClient) -> None:
        assert client.read(await client.send(0, Request(5, 6), 0)).output_tokens == 6
        with pytest.raises(BackendError, match=message):
            client.read(await client.send(0, Request(5, 6), 1))
        if fault == "die":
            with pytest.raises(BackendError, match=r"connection refused|closed the connection before it answered"):
                await client.send(0, Request(5, 6), 2)
        else:
            assert client.read(await client.send(0, Request(5, 6), 2)).output_tokens == 6

    # Every second request from the second on; one that is closed before its answer is sent twice.
    every = "1000" if fault != "early-close" else "1"
    with stub("--fault", fault, "--fault-from", "1", "--fault-every", every) as url:
        if fault == "early-close":
            with pytest.raises(BackendError, match=message):
                replies(url, Request(5, 6), count=2)
        else:
            played(made(url), play)


@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_a_request_given_up_leaves_nothing_behind(fault: str) -> None:
    async def play(client: OpenAIClient) -> Reply:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.send(0, Request(5, 6), 0), 0.1)
        return client.read(await client.send(0, Request(5, 6), 1))

    with stub("--fault", fault, "--fault-every", "1000") as url:
        assert played(made(url), play).token_counts == (1,) * 6


def test_refusals_of_the_server_are_told() -> None:
    with stub("--context", "64") as url:
        with pytest.raises(BackendError, match="answered 400: This model's maximum context length is 64 tokens"):
            replies(url, Request(60, 6), count=1)
        other = OpenAIClient(ClientSettings(url, RequestForm("other", 0, 100, extra=USAGE)))
        with pytest.raises(BackendError, match="answered 404: The model `other` does not exist"):
            played(other, lambda client: client.send(0, Request(5, 6), 0))


def test_no_server() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BackendError, match=r"no server takes a connection at 127.0.0.1:.*refused"):
            replies(url, Request(5, 6))


def test_the_key_is_sent_and_never_shown() -> None:
    with stub("--key", KEY) as url:

        async def play(client: OpenAIClient) -> Reply:
            return client.read(await client.send(0, Request(5, 6), 0))

        client = made(url, key=KEY)
        assert played(client, play).output_tokens == 6
        assert KEY not in repr(client)
        with pytest.raises(BackendError, match="answered 401"):
            played(made(url, key="wrong"), play)
    for bad in ("", " ", "a\r\nb", "ключ"):
        with pytest.raises(InvalidConfig) as refused:
            made("http://127.0.0.1:1", key=bad)
        assert not bad.strip() or bad not in str(refused.value)


# Servers that no stub plays: raw sockets


@contextlib.contextmanager
def scripted(
    handle: Callable[[socket.socket, int], None], wrap: Callable[[socket.socket], socket.socket] | None = None
):
    """A server whose connections are handled by a function, each in a thread, with their number."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            number = 0
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                try:
                    connection = wrap(connection) if wrap else connection
                except OSError:
                    continue
                threading.Thread(target=handle, args=(connection, number), daemon=True).start()
                number += 1

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]


def received(connection: socket.socket) -> bytes:
    """One request of a few hundred bytes."""
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    return data


WHOLE = (
    b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in (piece("a"), piece("b"), piece("c"), END))
    + b"data: [DONE]\n\n"
)
ANNOUNCED = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: %d\r\n\r\n" % len(WHOLE)


def test_a_connection_closed_while_idle_is_replaced_before_the_stamp() -> None:
    """The server takes one request on each connection, though it announces to keep them."""
    arrived: list[float] = []

    def handle(connection: socket.socket, number: int) -> None:
        with connection:
            if received(connection):
                arrived.append(time.monotonic())
                connection.sendall(ANNOUNCED + WHOLE)

    async def play(client: OpenAIClient) -> list[Reply]:
        return [client.read(await client.send(0, Request(4, 3), number)) for number in range(20)]

    with scripted(handle) as port:
        found = played(made(f"http://127.0.0.1:{port}"), play)
    assert len(arrived) == len(found) == 20, "each request reached the server once"
    for reply, time_s in zip(found, arrived, strict=True):
        assert reply.start_ns / 1e9 <= time_s


def test_a_request_is_never_sent_twice_once_a_byte_came() -> None:
    arrived = []

    def handle(connection: socket.socket, number: int) -> None:
        with connection:
            arrived.append(received(connection))
            connection.sendall(b"HTTP/1.1 200 OK\r\n")

    with scripted(handle) as port, pytest.raises(BackendError, match="in mid answer"):
        replies(f"http://127.0.0.1:{port}", Request(4, 3), count=1)
    assert len([one for one in arrived if one]) == 1


def test_a_server_that_fell_silent_and_closed_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CLOSED_BEFORE_S", 0.05)
    arrived = []

    def handle(connection: socket.socket, number: int) -> None:
        with connection:
            arrived.append(received(connection))
            time.sleep(0.2)

    with scripted(handle) as port, pytest.raises(BackendError, match="before it answered"):
        replies(f"http://127.0.0.1:{port}", Request(4, 3), count=1)
    assert len(arrived) == 1


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    def handle(connection: socket.socket, number: int) -> None:
        with connection:
            if number == 0:
                connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            if received(connection):
                connection.sendall(ANNOUNCED + WHOLE)

    async def play(client: OpenAIClient) -> Reply:
        await asyncio.sleep(0.05)
        return client.read(await client.send(0, Request(4, 3), 0))

    with scripted(handle) as port:
        assert played(made(f"http://127.0.0.1:{port}"), play).output_tokens == 3


def test_tls_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made_by = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made_by += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*made_by, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl that makes a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def handle(connection: socket.socket, number: int) -> None:
        with connection:
            if received(connection):
                connection.sendall(ANNOUNCED + WHOLE)

    with scripted(handle, lambda plain: context.wrap_socket(plain, server_side=True)) as port:
        url = f"https://localhost:{port}"
        with pytest.raises(BackendError, match="TLS failed"):
            replies(url, Request(4, 3), count=1)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert replies(url, Request(4, 3), count=1)[0].output_tokens == 3


# Prompts and settings


@given(
    count=st.integers(2, 300),
    first_id=st.integers(0, 50),
    seed=st.integers(0, 2**31 - 1),
    start=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_prompts_share_no_beginning(count: int, first_id: int, seed: int, start: int) -> None:
    drawn = [draw_ids(first_id, first_id + count, 4, seed, start + k) for k in range(min(2 * count, count * count))]
    assert all(first_id <= one < first_id + count for ids in drawn for one in ids)
    firsts = [ids[0] for ids in drawn]
    assert len(set(firsts[:count])) == count
    assert len({tuple(ids[:2]) for ids in drawn}) == len(drawn)
    assert draw_ids(first_id, first_id + count, 4, seed, start) == drawn[0]


def test_prompts_follow_from_seed_and_number() -> None:
    one = draw_ids(10, 30000, 200, seed=1, number=5)
    assert len(one) == 200
    assert one == draw_ids(10, 30000, 200, seed=1, number=5)
    assert one[1:] != draw_ids(10, 30000, 200, seed=2, number=5)[1:]
    assert len(set(one)) > 150


def test_a_body_holds_what_was_asked() -> None:
    form = RequestForm("m", 5, 900, length_keys=("max_tokens", "min_tokens"), extra={"ignore_eos": True, **USAGE})
    said = json.loads(form.body(Request(64, 32, seed=3), 7))
    assert len(said.pop("prompt")) == 64
    assert said == {"model": "m", "ignore_eos": True, **USAGE, "max_tokens": 32, "min_tokens": 32, "stream": True}


def test_what_was_made_ready_is_what_is_sent() -> None:
    asked = []

    def handle(connection: socket.socket, number: int) -> None:
        with connection:
            while data := received(connection):
                asked.append(json.loads(data.split(b"\r\n\r\n", 1)[1])["prompt"])
                connection.sendall(ANNOUNCED + WHOLE)

    async def play(client: OpenAIClient) -> None:
        client.get_ready(Request(4, 3, seed=9), [0, 1])
        for number, seed in ((0, 9), (1, 9), (2, 9), (1, 8)):
            await client.send(0, Request(4, 3, seed=seed), number)

    with scripted(handle) as port:
        played(made(f"http://127.0.0.1:{port}"), play)
    assert asked == [draw_ids(0, 32000, 4, seed, number) for number, seed in ((0, 9), (1, 9), (2, 9), (1, 8))]


def test_settings_come_back_from_json() -> None:
    words = tuple("abcdefgh")
    form = RequestForm("m", 1, 8, path="/v1/chat/completions", prompt_key="messages", words=words, extra=USAGE)
    whole = ClientSettings("https://host/base", form, exact=False)
    assert settings_from_json(json.loads(json.dumps(whole.as_json()))) == whole
    assert form_from_json(json.loads(json.dumps(form.as_json()))) == form


@pytest.mark.parametrize("fields", [{"end_id": 3}, {"words": ("a",)}, {"prompt_key": "messages"}])
def test_forms_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        RequestForm("m", **{"first_id": 3, "end_id": 9, **fields})


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000, False, "")),
        ("https://host/base/", ("host", 443, True, "/base")),
        ("http://[::1]:81", ("::1", 81, False, "")),
    ],
)
def test_urls(url: str, parts: Sequence[Any]) -> None:
    address = parse_url(url)
    assert (address.host, address.port, address.secure, address.path) == parts


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://host", "http://", "http://h:99999", "http://h:0", "http://u:secret@h", "http://h/ü"],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InvalidConfig, match="--url") as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)


def test_messages_of_servers_are_one_short_line() -> None:
    assert error_message(b'{"error": {"message": "no\\n\\tsuch", "code": 4}}') == "no such"
    assert error_message(b'{"object": "error", "message": "no"}') == "no"
    assert error_message(b'{"detail": [{"loc": ["body"]}]}') == '[{"loc": ["body"]}]'
    assert error_message(b"<h1>Bad Gateway</h1>\r\n") == "<h1>Bad Gateway</h1>"
    assert error_message(b"") == "it says nothing more"
    assert len(one_line("x" * 1000)) == 300


def test_closing_twice_and_before_opening_is_safe() -> None:
    async def run(url: str) -> None:
        client = made(url)
        await client.close()
        await client.open(2)
        await client.close()
        await client.close()

    with stub() as url:
        asyncio.run(run(url))
