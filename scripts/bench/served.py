"""What joulebench records of a server, beside what the server counts itself.

    python scripts/bench/served.py [--server NAME | --url URL] [-m MODEL] [-p M] [-n N] [-c C] [--json]

llama-server (-np 4) and vLLM are started as ``joulebench measure --serve`` starts them, or the server at ``--url`` is
taken; ``stub`` is ``tests/stub_server.py`` with known delays. Each is measured over the product of input tokens, output
tokens and requests in flight, and what is compared comes from the recorded run, all requests of all its loops:

- ``exact``: m and n by the server's usage in each request, the short ones of a ramp with their own n, and the growth of
  the server's token counters.
- ``decode_ratio``: time from first to last token, summed over the requests, over the growth of
  ``tokens_predicted_seconds_total`` (llama-server) or ``request_decode_time_seconds`` (vLLM); within 1 %.
- ``ttft_diff_ms``: mean time to first token less vLLM's ``time_to_first_token_seconds`` or llama-server's
  ``timings.prompt_ms`` of the same requests; within 2 % or 5 ms. llama-server begins a prompt when the step under way
  has ended: with several in flight the difference is above 0 for every request, and at most that step in the mean,
  ``step_ms``.
- of the stub, whose stamps are on the same clock: time to first token and time per output token within 1 ms in the
  median and 3 ms in the 99th percentile.

Loops that joulebench marked because their clients were kept from the processor count for ``exact`` alone. Exits with 1
where a row is not ok.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import client
import numpy as np
from comparison import OneLineParser
from numpy.typing import NDArray

import harness as jb
from backends.base import NotInstalled
from backends.openai.servers.base import find_program
from harness.runs.load_figures import MOST_STALLED
from harness.runs.load_stamps import LoopStamps
from harness.runs.records import read_stamps
from harness.runs.schema import Trial

SERVED: dict[str, tuple[str, ...]] = {
    "llama-server": ("-np", "4", "-c", "8192"),
    "vllm": ("--enforce-eager", "--max-num-seqs", "8"),
}
"""Servers that are started, with their flags."""
VLLM_CACHE = "VLLM_CPU_KVCACHE_SPACE"
STUB = "stub"
SIZES, STUB_SIZES = ("16,128", "16,48", "1,2,4"), ("8", "64", "200")
"""Input tokens, output tokens and requests in flight, where they are not given."""
STUB_TTFT_S, STUB_TPOT_S = 0.05, 0.01
DECODE_WITHIN = 0.01
TTFT_WITHIN, TTFT_WITHIN_MS = 0.02, 5.0
STUB_P50_MS, STUB_P99_MS = 1.0, 3.0


@dataclass(frozen=True)
class Row:
    """A point of one server: all loops that were run of it. Times are means over the requests unless said, of those
    loops whose clients were not kept from the processor."""

    server: str
    m: int
    n: int
    c: int
    requests: int = 0
    exact: bool = False
    stalled_loops: int = 0
    """Loops whose clients were kept from the processor."""
    decode_ratio: float | None = None
    """None for n = 1, and where the server tells nothing."""
    ttft_ms: float | None = None
    server_ttft_ms: float | None = None
    ttft_diff_ms: float | None = None
    step_ms: float | None = None
    """The server's step under way when a request came; None where requests don't wait for it."""
    ttft_error_ms: tuple[float, float] | None = None
    """Median and 99th percentile of the stub's requests."""
    tpot_error_ms: tuple[float, float] | None = None
    faults: tuple[str, ...] = ()
    """What is not as it should be."""
    ok: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ok", not self.faults)


def rows(run: jb.RecordedRun, server: str) -> list[Row]:
    """A row for each point of a run, in the order of sizes."""
    trials: dict[tuple[int, int, int], list[Trial]] = {}
    for trial in run.trials:
        asked = trial.asked
        trials.setdefault((asked.input_tokens, asked.output_tokens, asked.concurrency), []).append(trial)
    return [one_row(run, server, *point, trials[point]) for point in sorted(trials, key=lambda p: (p[2], p[0], p[1]))]


def one_row(run: jb.RecordedRun, server: str, m: int, n: int, c: int, trials: Sequence[Trial]) -> Row:
    """The agreement of all loops of a point."""
    failed = [f"trial {trial.id}: {trial.status}, {trial.reason}" for trial in trials if trial.load is None]
    looped = [trial for trial in trials if trial.load is not None]
    if failed:
        return Row(server, m, n, c, faults=tuple(failed))
    stamps = [read_stamps(run.directory, trial) for trial in looped]
    facts: dict[str, Any] = {"requests": sum(map(len, stamps))}
    faults = wrong_counts(looped, stamps, m, n)
    free = [trial.load is not None and (trial.load.client_stalled or 0.0) <= MOST_STALLED for trial in looped]
    facts |= {"exact": not faults, "stalled_loops": free.count(False)}
    if not any(free):
        faults.append("the clients were kept from the processor in every loop: measure while nothing else runs")
        return Row(server, m, n, c, **facts, faults=tuple(faults))
    looped, stamps = list(itertools.compress(looped, free)), list(itertools.compress(stamps, free))
    compared = [stub_times(stamps)] if server == STUB else [decode(looped, stamps, n), first_tokens(looped, stamps, c)]
    for found, wrong in compared:
        facts |= found
        faults += wrong
    return Row(server, m, n, c, **facts, faults=tuple(faults))


Compared = tuple[dict[str, Any], list[str]]
"""Fields of a row, and what is wrong with them."""


def wrong_counts(trials: Sequence[Trial], stamps: Sequence[LoopStamps], m: int, n: int) -> list[str]:
    """Where tokens are not those that were asked for, by usage of each request or by the server's counters."""
    wrong = []
    for trial, each in zip(trials, stamps, strict=True):
        full = each.output_tokens == n
        short = ~each.counted & (each.output_tokens >= 1) & (each.output_tokens <= n)
        bad = int((~((each.input_tokens == m) & (full | short))).sum())
        if bad:
            wrong.append(f"trial {trial.id}: {bad} of {len(each)} requests have other sizes")
        counted = (("prompt_tokens_total", each.input_tokens), ("generation_tokens_total", each.output_tokens))
        for name, tokens in counted:
            grown = growth(trial, name)
            # llama-server prints counters with six digits.
            if grown is not None and abs(grown - tokens.sum()) > printed(trial, name):
                wrong.append(f"trial {trial.id}: the server's {name} grew by {grown:g}, not {tokens.sum()}")
    return wrong


def growth(trial: Trial, name: str) -> float | None:
    """By how much a counter of the server grew over a loop."""
    assert trial.load is not None
    return trial.load.server.grown(name)


def printed(trial: Trial, name: str) -> float:
    """How far a counter may be off because it is printed with six digits, before and after a loop."""
    assert trial.load is not None
    last = trial.load.server.after[name]
    return 10.0 ** (math.floor(math.log10(last)) - 5) if last >= 1e6 else 0.5


def decode(trials: Sequence[Trial], stamps: Sequence[LoopStamps], n: int) -> Compared:
    """Time from first to last token beside the server's counter."""
    grown = [growth(trial, "decode_s_total") for trial in trials]
    if n == 1:
        return {}, []
    if None in grown:
        return {}, ["the server tells no decode time"]
    ours_s = sum(float((each.end_ns - each.first_token_ns).sum()) / 1e9 for each in stamps)
    ratio = ours_s / sum(value or 0.0 for value in grown)
    wrong = [f"decode time is {100 * (ratio - 1):+.2f} % off"] if abs(ratio - 1) > DECODE_WITHIN else []
    return {"decode_ratio": ratio}, wrong


def first_tokens(trials: Sequence[Trial], stamps: Sequence[LoopStamps], c: int) -> Compared:
    """Mean time to first token beside what the server says of the same requests."""
    ttft_ms = np.concatenate([(each.first_token_ns - each.start_ns) / 1e6 for each in stamps])
    said = [each.said.get("prompt_s") for each in stamps]
    if all(values is not None for values in said):
        said_ms = 1e3 * np.concatenate([values for values in said if values is not None])
        return beside_prompts(
            ttft_ms, said_ms, np.concatenate(list(map(steps_under_way_ms, stamps))) if c > 1 else None
        )
    counts = [growth(trial, "ttft_requests_total") for trial in trials]
    sums = [growth(trial, "ttft_s_total") for trial in trials]
    if None in counts or None in sums:
        return {}, ["the server tells no time to first token"]
    server_ms = 1e3 * sum(value or 0.0 for value in sums) / sum(value or 0.0 for value in counts)
    wrong = []
    if sum(value or 0.0 for value in counts) != len(ttft_ms):
        wrong.append(f"the server counted {sum(value or 0.0 for value in counts):g} first tokens, not {len(ttft_ms)}")
    return difference(float(ttft_ms.mean()), server_ms, wrong)


def difference(
    ttft_ms: float, server_ms: float, wrong: list[str], low_ms: float = 0.0, high_ms: float = 0.0
) -> Compared:
    """A mean time to first token beside the server's; ``low_ms`` to ``high_ms`` is what may lie between them."""
    diff_ms = ttft_ms - server_ms
    within_ms = max(TTFT_WITHIN * server_ms, TTFT_WITHIN_MS)
    if not low_ms - within_ms <= diff_ms <= high_ms + within_ms:
        wrong = [*wrong, f"time to first token is {diff_ms:+.1f} ms off"]
    return {"ttft_ms": ttft_ms, "server_ttft_ms": server_ms, "ttft_diff_ms": diff_ms}, wrong


def beside_prompts(
    ttft_ms: NDArray[np.float64], said_ms: NDArray[np.float64], steps_ms: NDArray[np.float64] | None
) -> Compared:
    """Times to first token beside ``timings.prompt_ms`` of the same requests."""
    early = int((ttft_ms < said_ms).sum())
    wrong = [f"{early} of {len(ttft_ms)} requests had their first token before llama-server made it"] if early else []
    step_ms = None if steps_ms is None else float(steps_ms.mean())
    found, wrong = difference(float(ttft_ms.mean()), float(said_ms.mean()), wrong, 0.0, step_ms or 0.0)
    return found | {"step_ms": step_ms}, wrong


def steps_under_way_ms(stamps: LoopStamps) -> NDArray[np.float64]:
    """By request, the longest of the server's steps between its start and the beginning of its prompt.

    Steps end where a token comes, and where a prompt begins by ``timings.prompt_ms``. A request waits for the step
    under way, and no longer: for two it would have waited longer than for the longer one of them.
    """
    begun_ns = stamps.first_token_ns - 1e9 * stamps.said["prompt_s"]
    edges_ns = np.sort(np.concatenate([stamps.piece_ns, begun_ns]))
    steps = []
    for start_ns, prompt_ns in zip(stamps.start_ns, begun_ns, strict=True):
        first = np.searchsorted(edges_ns, start_ns, side="right") - 1
        last = np.searchsorted(edges_ns, prompt_ns, side="right")
        steps.append(np.diff(edges_ns[max(first, 0) : last]).max(initial=0.0) / 1e6)
    return np.array(steps)


def stub_times(stamps: Sequence[LoopStamps]) -> Compared:
    """Times beside the stub's own stamps, which are on the same clock."""
    ttft, tpot, ratios = [], [], []
    for each in stamps:
        several = each.output_tokens > 1
        decode_s = (each.end_ns - each.first_token_ns)[several] / 1e9
        ttft.append((each.first_token_ns - each.start_ns) / 1e6 - 1e3 * each.said["prompt_s"])
        tpot.append(1e3 * (decode_s - each.said["predicted_s"][several]) / (each.output_tokens[several] - 1))
        ratios.append((decode_s.sum(), each.said["predicted_s"][several].sum()))
    ours_s, stub_s = (sum(values) for values in zip(*ratios, strict=True))
    found = {
        "ttft_error_ms": client.p50_and_p99(np.abs(np.concatenate(ttft)).tolist()),
        "tpot_error_ms": client.p50_and_p99(np.abs(np.concatenate(tpot)).tolist()),
        "ttft_diff_ms": float(np.concatenate(ttft).mean()),
        "decode_ratio": float(ours_s / stub_s),
    }
    wrong = [
        f"{name}: {p50:.2f} ms off in the median, {p99:.2f} in the 99th percentile"
        for name in ("ttft_error_ms", "tpot_error_ms")
        for p50, p99 in [found[name]]
        if p50 > STUB_P50_MS or p99 > STUB_P99_MS
    ]
    return found, wrong


class Shown(jb.Observer):
    """Says on stderr what is measured."""

    def notice(self, text: str) -> None:
        print(text, file=sys.stderr)

    def trial_ended(self, trial: Trial) -> None:
        sizes = f"m {trial.input_tokens}, n {trial.output_tokens}, c {trial.concurrency}"
        print(f"{trial.purpose} {sizes}: {trial.status}", file=sys.stderr, flush=True)


def measure(directory: Path, sizes: Mapping[str, str], options: argparse.Namespace, **server: Any) -> jb.RecordedRun:
    """A run over all combinations of the sizes."""
    return jb.measure(
        directory,
        observer=Shown(),
        **sizes,
        **server,
        grid=True,
        runs=options.runs,
        min_window_s=options.seconds,
        max_window_s=max(options.seconds, 60.0),
        # Others on this machine change times on both sides alike.
        max_foreign_load=1.0,
    )


def results(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Everything that the program prints."""
    found: list[Row] = []
    unavailable: dict[str, str] = {}
    for name in ["url"] if options.url else options.server or [*SERVED, STUB]:
        try:
            with contextlib.ExitStack() as stack:
                server = what_is_served(name, options, stack)
                run = measure(directory / name, sizes(options, name), options, **server)
        except NotInstalled as absent:
            unavailable[name] = str(absent)
            continue
        found += rows(run, name if name == STUB else str(run.facts.backend.settings["server"]))
    return {"rows": [asdict(row) for row in found], "unavailable": unavailable}


def what_is_served(name: str, options: argparse.Namespace, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Options of ``measure`` that name the server. Raises NotInstalled."""
    if name == "url":
        return {"url": options.url, "model": options.model or ""}
    if name == STUB:
        # On no core of its own, as servers are: there would be fewer to which what measures could go out of the way.
        return {"url": stack.enter_context(client.stub(None, "--ttft", str(STUB_TTFT_S), "--tpot", str(STUB_TPOT_S)))}
    find_program(name)
    os.environ.setdefault(VLLM_CACHE, "1")
    return {"serve": name, "server_flags": SERVED[name], "model": options.model or "smollm2-135m"}


def sizes(options: argparse.Namespace, name: str) -> dict[str, str]:
    """Sizes of the requests, those that are given first."""
    usual = STUB_SIZES if name == STUB else SIZES
    chosen = [given or each for given, each in zip((options.p, options.n, options.c), usual, strict=True)]
    return dict(zip(("input_tokens", "output_tokens", "concurrency"), chosen, strict=True))


def as_lines(found: dict[str, Any]) -> Iterator[str]:
    titles = {"server": 14, "m": 5, "n": 5, "c": 5, "requests": 10, "exact": 7, "decode": 9, "TTFT": 10, "diff": 9}
    yield (
        "".join(f"{title:{'<' if title == 'server' else '>'}{wide}}" for title, wide in titles.items()) + f"{'step':>9}"
    )
    for row in found["rows"]:
        cells = [(row["decode_ratio"], ".4f", 9), (row["ttft_ms"], ".1f", 10), (row["ttft_diff_ms"], ".2f", 9)]
        cells.append((row["step_ms"], ".1f", 9))
        shown = "".join(f"{'–' if value is None else format(value, form):>{wide}}" for value, form, wide in cells)
        start = f"{row['server']:14}{row['m']:>5}{row['n']:>5}{row['c']:>5}{row['requests']:>10}{row['exact']!s:>7}"
        left_out = f" ({row['stalled_loops']} loops left out)" if row["stalled_loops"] else ""
        yield f"{start}{shown}  {'ok' if row['ok'] else 'NOT OK: ' + '; '.join(row['faults'])}{left_out}"
        for name, words in (("ttft_error_ms", "time to first token"), ("tpot_error_ms", "time per output token")):
            if row[name]:
                p50_ms, p99_ms = row[name]
                yield f"{'':14}{words}: {p50_ms:.3f} ms off in the median, {p99_ms:.3f} in the 99th percentile"
    for name, reason in found["unavailable"].items():
        yield f"{name}: not measured, {reason}"


def parse_arguments() -> argparse.Namespace:
    parser = OneLineParser(prog="served.py", description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="append", choices=[*SERVED, STUB], help="this one alone; repeatable")
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("-m", "--model")
    parser.add_argument("-p", help=f"input tokens (default {SIZES[0]}; for the stub {STUB_SIZES[0]})")
    parser.add_argument("-n", help=f"output tokens (default {SIZES[1]}; for the stub {STUB_SIZES[1]})")
    parser.add_argument("-c", help=f"requests in flight (default {SIZES[2]}; for the stub {STUB_SIZES[2]})")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a window (default 6)")
    parser.add_argument("--runs", type=int, default=2, help="windows of each size, besides its warm-up (default 2)")
    parser.add_argument("--directory", type=Path, help="where the runs are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    if options.url and options.server:
        parser.error("--url and --server are two ways to say which server; give one")
    if options.model and not options.url and len(options.server or ()) != 1:
        parser.error("--model is of one server: name it with --server")
    return options


def main() -> None:
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="joulebench-served-") as scratch:
        try:
            found = results(options, options.directory or Path(scratch))
        except (jb.UserError, jb.SweepStopped) as error:
            sys.exit(f"served.py: {error}")
    print(json.dumps(found) if options.json else "\n".join(as_lines(found)))
    sys.exit(not all(row["ok"] for row in found["rows"]) or not found["rows"])


if __name__ == "__main__":
    main()
