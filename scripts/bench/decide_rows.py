"""How fast a trace becomes an answer.

    python scripts/decide_rows.py [--requests N] [--format parquet|csv] | --weights

Makes a trace of log-normal token counts with DuckDB, then reads it and finds the best threshold in a fresh
process, timing it and watching its memory. ``--weights`` times least-cost routing of that kind of workload for
1,001 values of λ instead.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.deciding.answers import decide_threshold
from harness.deciding.assignment import Limit, assign
from harness.deciding.costs import cost_table
from harness.deciding.logs.tables import connect
from harness.deciding.trace_files import load_workload
from harness.deciding.trade_off import SWEEP_POINTS, sweep_weights
from harness.deciding.workload import Workload
from harness.modelling.profile import Profile

PROFILES = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


@dataclass(frozen=True)
class Answer:
    """What one run took."""

    requests: int
    format: str
    file_mb: float
    distinct_pairs: int
    wall_s: float
    peak_memory_gb: float


def write_trace(path: Path, requests: int, seed: float = 0.5) -> None:
    """A trace with the columns TIMESTAMP, ContextTokens, GeneratedTokens; the median request is 400 in, 90 out."""
    normal = "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())"
    query = f"""COPY (
        SELECT TIMESTAMP '2024-01-01' + to_milliseconds(range) AS TIMESTAMP,
               least(8192, greatest(1, exp(6.0 + 1.2 * {normal})))::INTEGER AS ContextTokens,
               least(2048, greatest(1, exp(4.5 + 1.0 * {normal})))::INTEGER AS GeneratedTokens
        FROM range({requests})) TO '{path}'"""
    with connect() as database:
        database.execute("SELECT setseed(?)", [seed])
        database.execute(query)


def answer(requests: int, format_name: str) -> Answer:
    """Time a fresh process from a trace file to the best threshold with its uncertainty."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"trace.{format_name}"
        write_trace(path, requests)
        start = time.perf_counter()
        command = [sys.executable, __file__, "--answer", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall_s = time.perf_counter() - start
        facts = json.loads(done.stdout)
        return Answer(requests, format_name, path.stat().st_size / 1e6, facts["pairs"], wall_s, facts["peak_memory_gb"])


def print_answer(path: str) -> None:
    """The child's part: read, predict, decide."""
    best = decide_threshold(*PROFILES, path, key="total")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kB, macOS bytes.
    peak_gb = peak / (1e9 if sys.platform == "darwin" else 1e6)
    pairs, threshold = int(best.workload.count.size), best.decision.threshold
    print(json.dumps({"pairs": pairs, "threshold": threshold, "peak_memory_gb": peak_gb}))


def weights_s(workload: Workload) -> float:
    """Seconds to route a counted workload at least cost for many λ."""
    costs = cost_table([Profile.load(name) for name in PROFILES], workload)
    start = time.perf_counter()
    sweep_weights(costs, workload, reference=1)
    return time.perf_counter() - start


def limits_s(pairs: int = 1_000_000) -> float:
    """Seconds to assign a million sizes to three made-up systems under a share and a capacity."""
    rng = np.random.default_rng(0)
    cost, runtime_s = rng.gamma(2, 1, (2, 3, pairs))
    count = np.ceil(rng.gamma(0.3, 30, pairs))
    limits = [Limit(0, "share", round(0.2 * count.sum())), Limit(2, "capacity", 0.2 * float(runtime_s[2] @ count))]
    start = time.perf_counter()
    assign(cost, runtime_s, count, limits)
    return time.perf_counter() - start


def table(requests: int = 100_000_000) -> list[str]:
    """Parquet with ``requests`` rows, CSV with a tenth of them, the λ sweep and an assignment, as lines."""
    lines = [f"{'from trace to answer':<32}{'requests':>12}{'sizes':>12}{'wall s':>9}{'peak GB':>9}"]
    for name, rows in (("parquet", requests), ("csv", requests // 10)):
        got = answer(rows, name)
        lines.append(f"{name:<32}{rows:>12,}{got.distinct_pairs:>12,}{got.wall_s:>9.1f}{got.peak_memory_gb:>9.2f}")
    workload = load_workload("alpaca")
    seconds = weights_s(workload)
    return [
        *lines,
        f"{SWEEP_POINTS} weights λ over {workload.count.size:,} sizes of alpaca: {seconds:.2f} s",
        f"1,000,000 sizes to three systems under a share and a capacity: {limits_s():.1f} s",
    ]


def main() -> None:
    """Print the answer's time, or that of the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000_000)
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        print_answer(options.answer)
    elif options.weights:
        workload = load_workload("alpaca")
        print(f"{SWEEP_POINTS} weights over {workload.count.size:,} sizes: {weights_s(workload):.2f} s")
    else:
        print(answer(options.requests, options.format))


if __name__ == "__main__":
    main()
