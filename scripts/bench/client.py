"""What the client adds to a server's times, and how many requests it can make, on one core.

    python scripts/bench/client.py [--rounds N] [--short] [--json]

The server is ``tests/stub_server.py`` on a core of its own, without delays for the table. Errors of the time to first
token (TTFT) are the client's minus what the stub took by its own stamps, on the same clock, from arrival to its write.
Every figure is the median over the rounds. Below the table come known delays at 200 requests in flight and an open
loop of 1,000 requests/s. AIPerf and guidellm stand beside it where they are on the PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rival_clients
from comparison import OneLineParser

from backends.base import BackendError, Reply, Request
from backends.openai.client import ClientSettings, OpenAIClient
from backends.openai.prompts import RequestForm
from backends.openai.stream import Answer, events

ROOT = Path(__file__).resolve().parents[2]
CONCURRENCIES, LENGTHS = (1, 32, 256), (1, 64)
INPUT_TOKENS = 8
REQUESTS, SHORT_REQUESTS = {1: 8000, 64: 2000}, {1: 1000, 64: 300}
"""In a round, by output tokens; at c = 1 a quarter of them."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    concurrency: int
    tokens: int
    requests_per_s: float
    ttft_error_ms_p50: float
    ttft_error_ms_p99: float


@contextlib.contextmanager
def stub(core: int | None, *options: str) -> Iterator[str]:
    """The stub server as a process of its own; gives its URL."""
    command = [sys.executable, "-m", "tests.stub_server", *options]
    command += [] if core is None else ["--core", str(core)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.kill()


def cores() -> tuple[int | None, int | None]:
    """One core for the client, one for the server; None where they can't be chosen, or there is only one."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


def make_client(url: str) -> OpenAIClient:
    extra = {"stream_options": {"include_usage": True}, "return_token_ids": True}
    return OpenAIClient(ClientSettings(url, RequestForm("stub", 0, 32000, extra=extra)))


Drive = Callable[[OpenAIClient, Request, int], Coroutine[Any, Any, list[Answer]]]


async def closed_loop(client: OpenAIClient, request: Request, count: int) -> list[Answer]:
    """``count`` requests, as many in flight as the request says."""
    numbers = iter(range(count))
    answers: list[Answer] = []

    async def one(place: int) -> None:
        for number in numbers:
            answers.append(await client.send(place, request, number))

    await asyncio.gather(*(one(place) for place in range(request.concurrency)))
    return answers


def open_loop(rate: float) -> Drive:
    """Poisson arrivals, on connections that are free."""

    async def drive(client: OpenAIClient, request: Request, count: int) -> list[Answer]:
        free = list(range(request.concurrency))
        answers: list[Answer] = []

        async def one(number: int) -> None:
            place = free.pop()
            answers.append(await client.send(place, request, number))
            free.append(place)

        loop = asyncio.get_running_loop()
        draws = random.Random(0)
        due = loop.time()
        tasks = []
        for number in range(count):
            due += draws.expovariate(rate)
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.append(loop.create_task(one(number)))
        await asyncio.gather(*tasks)
        return answers

    return drive


def measured(url: str, request: Request, count: int, drive: Drive = closed_loop) -> list[tuple[Answer, Reply]]:
    """Answers and what they say, read when all have come."""

    async def run() -> list[tuple[Answer, Reply]]:
        client = make_client(url)
        await client.open(request.concurrency)
        warm = 2 * request.concurrency
        client.get_ready(request, range(warm))
        await closed_loop(client, request, warm)
        client.get_ready(request, range(count))
        gc.collect()
        gc.disable()
        try:
            answers = await drive(client, request, count)
        finally:
            gc.enable()
        replies = [(answer, client.read(answer)) for answer in answers]
        await client.close()
        return replies

    return asyncio.run(run())


def p50_and_p99(values: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def ttft_errors_ms(found: Sequence[tuple[Answer, Reply]]) -> list[float]:
    """What each time to first token has beyond what the server took."""
    return [(reply.token_ns[0] - reply.start_ns) / 1e6 - 1e3 * reply.said["prompt_s"] for _, reply in found]


def stub_stamps(answer: Answer) -> list[int]:
    """When the server wrote each chunk."""
    said = [json.loads(data) for _, data in events(answer.parts) if data != b"[DONE]"]
    return list(said[-1]["stub"]["sent_ns"])


def requests_per_s(found: Sequence[tuple[Answer, Reply]]) -> float:
    first = min(reply.start_ns for _, reply in found)
    last = max(reply.end_ns for _, reply in found)
    return len(found) / ((last - first) / 1e9)


def one_row(url: str, c: int, tokens: int, rounds: int, requests: dict[int, int]) -> Row:
    """The medians over the rounds of one concurrency and length."""
    request = Request(INPUT_TOKENS, tokens, concurrency=c)
    count = max(requests[tokens] // (4 if c == 1 else 1), 2 * c)
    figures = []
    for _ in range(rounds):
        found = measured(url, request, count)
        figures.append((requests_per_s(found), *p50_and_p99(ttft_errors_ms(found))))
    return Row(c, tokens, *(statistics.median(column) for column in zip(*figures, strict=True)))


def known_delays(core: int | None, rounds: int, count: int) -> dict[str, float]:
    """200 in flight, 50 ms to the first of 64 tokens and 10 ms between tokens: errors in ms."""
    delays = {"concurrency": 200.0, "tokens": 64.0, "ttft_ms": 50.0, "tpot_ms": 10.0}
    columns: dict[str, list[float]] = {}
    with stub(core, "--ttft", "0.05", "--tpot", "0.01") as url:
        for _ in range(rounds):
            found = measured(url, Request(INPUT_TOKENS, 64, concurrency=200), count)
            spans = [(reply.end_ns - reply.token_ns[0]) / 1e6 / 63 for _, reply in found]
            tokens = [
                (came - wrote) / 1e6
                for answer, reply in found
                for came, wrote in zip(reply.token_ns, stub_stamps(answer), strict=True)
            ]
            series = {
                "ttft_error": ttft_errors_ms(found),
                "ttft_error_to_nominal": [(reply.token_ns[0] - reply.start_ns) / 1e6 - 50 for _, reply in found],
                "tpot_error": [
                    span - 1e3 * reply.said["predicted_s"] / 63 for span, (_, reply) in zip(spans, found, strict=True)
                ],
                "tpot_error_to_nominal": [span - 10 for span in spans],
                "token_lateness": tokens,
            }
            for name, values in series.items():
                for part, value in zip(("p50", "p99"), p50_and_p99([abs(one) for one in values]), strict=True):
                    columns.setdefault(f"{name}_ms_{part}", []).append(value)
    return delays | {name: statistics.median(values) for name, values in columns.items()}


def at_rate(url: str, rounds: int, count: int) -> dict[str, float]:
    """1,000 requests/s that arrive at random, one token each."""
    columns = []
    for _ in range(rounds):
        found = measured(url, Request(INPUT_TOKENS, 1, concurrency=256), count, open_loop(1000.0))
        columns.append((requests_per_s(found), *p50_and_p99(ttft_errors_ms(found))))
    names = ("requests_per_s", "ttft_error_ms_p50", "ttft_error_ms_p99")
    return dict(zip(names, map(statistics.median, zip(*columns, strict=True)), strict=True))


def results(rounds: int, short: bool) -> dict[str, Any]:
    """Everything that the program prints."""
    own, servers = cores()
    if own is not None:
        os.sched_setaffinity(0, {own})
    requests = SHORT_REQUESTS if short else REQUESTS
    with stub(servers) as url:
        rows = [one_row(url, c, tokens, rounds, requests) for tokens, c in itertools.product(LENGTHS, CONCURRENCIES)]
        rate = at_rate(url, rounds, 1000 if short else 5000)
        rivals = [] if short else rival_clients.rows(url, CONCURRENCIES, LENGTHS)
    return {
        "rows": [asdict(row) for row in rows],
        "known_delays": known_delays(servers, rounds, 400 if short else 1000),
        "open_loop_1000_per_s": rate,
        "rivals": rivals,
        "rounds": rounds,
        "one_core_each": own is not None,
    }


def as_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{'client':12}{'c':>5}{'tokens':>8}{'requests/s':>12}{'TTFT error p50':>17}{'p99':>10}"
    for row in [{"client": "joulebench", **row} for row in found["rows"]] + found["rivals"]:
        start = f"{row['client']:12}{row['concurrency']:>5}{row['tokens']:>8}"
        if "unavailable" in row:
            yield f"{start}  {row['unavailable']}"
            continue
        shown = [f"{row[name]:.2f} ms" for name in ("ttft_error_ms_p50", "ttft_error_ms_p99")]
        yield f"{start}{row['requests_per_s']:>12,.0f}{shown[0]:>17}{shown[1]:>10}"
    for title in ("known_delays", "open_loop_1000_per_s"):
        yield ""
        yield title.replace("_", " ") + ": " + ", ".join(f"{name} {value:.3g}" for name, value in found[title].items())
    if not found["one_core_each"]:
        yield "client and server could not be kept to a core each"


def main() -> None:
    parser = OneLineParser(prog="client.py", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="a rough answer, without the other programs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        found = results(options.rounds, options.short)
    except BackendError as error:
        sys.exit(f"client.py: {error}")
    print(json.dumps(found) if options.json else "\n".join(as_lines(found)))


if __name__ == "__main__":
    main()
