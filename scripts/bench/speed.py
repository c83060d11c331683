"""The project's own speed, as ratios to what it is compared with, measured in turns on this machine.

    python scripts/bench/speed.py [--only NAME] [--rounds N] [--threads N] [--short] [--json]

Every round measures both sides one after the other, the first side alternating, and gives one ratio; the table
shows the median ratio and its quartiles over the rounds. Below the table come reports on what has no reference to
be compared with: how true energies are, what sampling takes of a core, how fast a trace becomes an answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import decide_rows
import energy_rows
import harness_rows
import llama_rows
import model_rows
import rapl_tree
import server_rows
import startup_rows
import transformers_rows
from comparison import Benchmark, Comparison, OneLineParser, Options, Unavailable

from backends.base import BackendError
from harness.measuring.machine import machine

MODEL, SHORT_MODEL = "smollm2-135m", "tiny-test"
ROUNDS, SHORT_ROUNDS = 10, 4
REPORTED_REQUESTS = 20_000_000

BENCHMARKS: dict[str, Benchmark] = {
    "llama-bench": llama_rows.against_llama_bench,
    "llama-server": server_rows.against_in_process,
    "generate": transformers_rows.against_generate,
    "inductor": transformers_rows.inductor_against_eager,
    "graph": transformers_rows.graph_against_eager,
    "roofline": transformers_rows.graph_against_roofline,
    "harness": harness_rows.against_a_bare_loop,
    "sampling": energy_rows.against_no_sampling,
    "fit": model_rows.fitting,
    "predict": model_rows.predicting,
    "threshold": model_rows.deciding,
    "startup": startup_rows.against_bare_typer,
}

REPORTS: dict[str, Callable[[], list[str]]] = {
    "sensors": energy_rows.sensors,
    "sampler": energy_rows.sampler,
    "rapl": lambda: rapl_tree.table(*rapl_tree.results()),
    "serving": lambda: server_rows.causes(MODEL, ROUNDS),
    "decide": lambda: decide_rows.table(REPORTED_REQUESTS),
}
"""Tables of their own, as lines; ``--only`` takes their names too."""


def as_row(comparison: Comparison) -> str:
    """One line of the table, which says so where three quarters of the ratios are below the aim."""
    low, middle, high = comparison.quartiles()
    below = "  BELOW" if high < comparison.aim else ""
    return (
        f"{comparison.name:<32} {statistics.median(comparison.ours):>10.5g} "
        f"{statistics.median(comparison.reference):>10.5g} {comparison.unit:<10} "
        f"{middle:>6.3f}  {low:.3f}–{high:.3f}  ≥ {comparison.aim:<5.3g}  {comparison.reference_name}{below}"
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = OneLineParser(description="Measure the project's own speed as ratios.")
    parser.add_argument(
        "--only", action="append", choices=[*BENCHMARKS, *REPORTS], help="run this benchmark alone; repeatable"
    )
    parser.add_argument("--rounds", type=int, help=f"times each side is measured (default {ROUNDS}, at least 2)")
    parser.add_argument("--threads", type=int, help="CPU threads of both sides (default: the usable cores)")
    parser.add_argument(
        "--short", action="store_true", help=f"a rough answer in about a minute: {SHORT_MODEL}, few rounds, no reports"
    )
    parser.add_argument("--json", action="store_true", help="print JSON with every round's values")
    arguments = parser.parse_args()
    if arguments.rounds is None:
        arguments.rounds = SHORT_ROUNDS if arguments.short else ROUNDS
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    if arguments.threads is not None and arguments.threads < 1:
        parser.error("--threads must be at least 1")
    return arguments


def main() -> None:
    """Runs the benchmarks and prints their table, or JSON; exits with 1 where one of them failed."""
    arguments = parse_arguments()
    here = machine()
    options = Options(
        rounds=arguments.rounds,
        threads=arguments.threads or here.usable_cores,
        model=SHORT_MODEL if arguments.short else MODEL,
        short=arguments.short,
    )
    wanted = arguments.only or [*BENCHMARKS, *([] if arguments.short else REPORTS)]
    found: list[Comparison] = []
    reports: dict[str, list[str]] = {}
    unavailable: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name in wanted:
        try:
            if name in BENCHMARKS:
                found += BENCHMARKS[name](options)
            else:
                reports[name] = REPORTS[name]()
        except (Unavailable, BackendError) as absent:
            unavailable[name] = str(absent)
        except Exception as fault:  # the other rows are shown all the same
            failed[name] = " ".join(f"{type(fault).__name__}: {fault}".split())
    if arguments.json:
        facts = {"machine": here.model_dump(), "threads": options.threads, "model": options.model}
        results = {"comparisons": [comparison.describe() for comparison in found], "reports": reports}
        print(json.dumps(facts | results | {"unavailable": unavailable, "failed": failed}, indent=2))
        sys.exit(bool(failed))
    print(f"{here.cpu_model}, {options.threads} threads, {options.model}")
    if found:
        print(f"{'':<32} {'ours':>10} {'reference':>10} {'':<10} {'ratio':>6}  quartiles    aim      against")
    for comparison in found:
        print(as_row(comparison))
    for name, reason in unavailable.items():
        print(f"{name}: not measured, {reason}")
    for name, lines in reports.items():
        print("", name, *lines, sep="\n")
    for name, reason in failed.items():
        print(f"{name}: FAILED, {reason}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
