#!/usr/bin/env python3
"""Requests under load on this machine: a table of runtimes and latencies for load.py, and its held-out errors.

    python scripts/bench/load_here.py --serve llama-server|vllm [-m MODEL] [-c 1,2,4,8] [-o DIR] [--json]

`joulebench measure` starts the server with one core less than there are, or takes the one at `--url`, and keeps c
requests in flight of sizes between 16 and 512 input and 8 and 96 output tokens. The run stays in DIR with its table,
load.csv; the same command resumes it. `scripts/bench/load.py` then says how far the served form is off at concurrencies
and sizes that were left out. The machine should be at rest: what disturbs it is counted as an error.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from comparison import OneLineParser

from backends.base import NotInstalled
from backends.openai.servers.base import find_program
from harness.core.errors import UserError
from harness.core.sizes import parse_concurrency
from harness.runs.records import RecordedRun, load_run
from harness.runs.summary import summarise, used_trials

SIZES = (
    *("16,8", "16,24", "16,96", "32,16", "48,8", "48,48"),
    *("96,24", "128,8", "128,32", "256,8", "256,16", "512,8"),
)
"""Input and output tokens, each at every concurrency. Long in both would take most of the time: with c in flight a loop
lasts c and more times as long."""
FLAGS = {
    "llama-server": ("-np", "{slots}", "-c", "{context}"),
    "vllm": ("--enforce-eager", "--max-num-seqs", "{slots}", "--max-model-len", "1024"),
}
CONTEXT_TOKENS = 1024
"""Of each slot."""
VLLM_CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""GiB that vLLM takes for keys and values; it would take half of the memory."""
LOAD = Path(__file__).with_name("load.py")
TABLE = "load.csv"
_LINE = "{:<8} {:<10} {:>6} {:>8} {:>20} {:>8}"


@dataclass(frozen=True)
class Measured:
    """A size at one concurrency; None where it wasn't measured."""

    system: str
    model: str
    m: float
    n: float
    c: int
    runtime_s: float
    """Mean time of a request, by Little's law."""
    energy_j: float | None
    """Of a request; none where it could only be estimated."""
    ttft_s: float | None
    tpot_s: float | None
    client_cores: float
    """Processors that the clients took."""
    client_stalled: float | None
    """Share of the time in which the clients were kept from the processor."""
    disturbed: int
    """Trials during which other programs used the machine: all of them, or none."""


def command(given: argparse.Namespace, directory: Path) -> list[str]:
    """The arguments of ``joulebench``. Raises UserError for a concurrency that is none."""
    slots = max(parse_concurrency(given.concurrency))
    arguments = ["measure", "--json", "-c", given.concurrency, "-o", str(directory)]
    arguments += ["--runs", "1", "--min-window", str(given.seconds), "--max-foreign-load", "0.25"]
    arguments += [f"--point={size}" for size in SIZES]
    if given.model or given.serve:
        arguments += ["-m", given.model or "smollm2-135m"]
    if given.url:
        return [*arguments, "--url", given.url]
    flags = (flag.format(slots=slots, context=slots * CONTEXT_TOKENS) for flag in FLAGS[given.serve])
    return [*arguments, "--serve", given.serve, "--", *flags]


def measured(run: RecordedRun) -> list[Measured]:
    """What the run says of each size and concurrency, in their order."""
    settings = run.facts.backend.settings
    system, model = str(settings["server"]), run.facts.model.name
    found = []
    for point in sorted(summarise(run.trials), key=lambda each: (each.asked.concurrency, each.asked)):
        own = [trial for trial in run.trials if trial.asked == point.asked]
        loads = [trial.load for trial in used_trials(own) if trial.load]
        if point.runtime_s is None or not loads:
            continue
        known = point.energy_j is not None and point.energy_method != "estimated"
        found.append(
            Measured(
                system,
                model,
                point.point.input_tokens,
                point.point.output_tokens,
                point.asked.concurrency,
                point.runtime_s.mean,
                point.energy_j.mean if known and point.energy_j else None,
                _mean(each.ttft_s.mean_s for each in loads if each.ttft_s),
                _mean(each.tpot_s.mean_s for each in loads if each.tpot_s),
                max(each.client_cpu for each in loads),
                max((each.client_stalled for each in loads if each.client_stalled is not None), default=None),
                point.disturbed,
            )
        )
    return found


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def write_table(rows: Sequence[Measured], path: Path) -> None:
    """As load.py takes it: what wasn't measured is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Measured)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def held_out(table: Path) -> list[dict[str, Any]]:
    """Rows of ``load.py``. Raises UserError with its words."""
    done = subprocess.run([sys.executable, str(LOAD), str(table), "--json"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{LOAD.name} failed on {table}: {_last_line(done.stderr)}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def results(given: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure and judge. Raises UserError and NotInstalled."""
    run = directory / (given.serve or "server")
    if given.serve:
        find_program(given.serve)
    began = time.monotonic()
    arguments = command(given, run)
    # Its progress goes to stderr, as ours does.
    done = subprocess.run([sys.executable, "-m", "harness", *arguments], stdout=subprocess.DEVNULL, env=_environment())
    if done.returncode:
        raise UserError(f"joulebench measure ended with {done.returncode}, see above")
    rows = measured(load_run(run))
    table = run / TABLE
    write_table(rows, table)
    stalled = [row.client_stalled for row in rows if row.client_stalled is not None]
    return {
        "table": str(table),
        "points": len(rows),
        "planned": len(SIZES) * len(parse_concurrency(given.concurrency)),
        "disturbed": sum(row.disturbed > 0 for row in rows),
        "measured_s": time.monotonic() - began,
        "client_cores": {
            "mean": _mean(row.client_cores for row in rows),
            "most": max(row.client_cores for row in rows),
        },
        "client_stalled_most": max(stalled, default=None),
        "rows": held_out(table),
    }


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {VLLM_CACHE: "1", **os.environ, "PYTHONPATH": path}


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it said nothing"


def parse_arguments() -> argparse.Namespace:
    parser = OneLineParser(description=__doc__.splitlines()[0] if __doc__ else None)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--serve", choices=list(FLAGS), help="start this server")
    which.add_argument("--url", help="of a server that runs already")
    parser.add_argument("-m", "--model", help="as of measure (default: smollm2-135m; with --url the one served)")
    parser.add_argument("-c", "--concurrency", default="1,2,4,8", help="requests in flight (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="shortest window (default: %(default)g)")
    parser.add_argument("-o", "--output", type=Path, help="directory of the run (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def main() -> None:
    """Print the held-out errors, and what the clients took."""
    given = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="joulebench-load-") as temporary:
        try:
            found = results(given, given.output or Path(temporary))
        except (UserError, NotInstalled) as error:
            sys.exit(f"load_here.py: error: {error}")
    if given.json:
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    print(f"{found['points']} of {found['planned']} points in {found['measured_s']:.0f} s: {found['table']}")
    if found["disturbed"]:
        print(f"other programs used the machine at {found['disturbed']} points: measure again")
    print(f"the clients took {found['client_cores']['mean']:.3f} cores, at most {found['client_cores']['most']:.3f}")
    print(_LINE.format("of", "left out", "points", "error", "best rival", "its own"))
    for row in found["rows"]:
        errors = f"{row['error']:.1%}", row["best_rival"], f"{row['rival_error']:.1%}"
        print(_LINE.format(row["quantity"], row["kind"], row["points"], *errors))


if __name__ == "__main__":
    main()
