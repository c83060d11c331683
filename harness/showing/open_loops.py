"""Open loops, whose requests come at times of their own: what each rate gave, as a table and as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console

from harness.core.wording import estimated, number, percent, plus_minus
from harness.runs.load_figures import ArrivalFigures, LatencyLimits, Percentiles
from harness.runs.records import RecordedRun
from harness.runs.schema import Trial
from harness.showing.terminal import narrow_table, print_whole

NOTHING = "–"

Cell = Callable[[Trial], str]


def open_loops(run: RecordedRun) -> list[Trial]:
    """The trials of open loops that came to their end, by rate."""
    found = [trial for trial in run.trials if trial.usable_load and trial.load and trial.load.arrivals]
    return sorted(found, key=lambda trial: (trial.rate_per_s or 0.0, trial.id))


def arrivals_of(trial: Trial) -> ArrivalFigures:
    """What only an open loop has."""
    assert trial.load
    assert trial.load.arrivals
    return trial.load.arrivals


def _seconds(found: Percentiles | None, name: str) -> str:
    return NOTHING if found is None else number(getattr(found, name), 3)


def _energy(trial: Trial) -> str:
    total = trial.energy.total if trial.energy else None
    if total is None or total.request_j is None:
        return NOTHING
    if total.method == "estimated":
        return estimated(total.request_j)
    return plus_minus(total.request_j, total.request_ci95_j)


def _goodput(trial: Trial) -> str:
    share = arrivals_of(trial).goodput
    return NOTHING if share is None else percent(share)


OPEN_CELLS: tuple[tuple[str, Cell], ...] = (
    ("rate\n1/s", lambda trial: "of a log" if trial.rate_per_s is None else number(trial.rate_per_s, 3)),
    ("came\n1/s", lambda trial: number(arrivals_of(trial).offered_per_s, 3)),
    ("ended\n1/s", lambda trial: number(arrivals_of(trial).achieved_per_s, 3)),
    ("in\nflight", lambda trial: number(trial.load.in_flight_mean, 3) if trial.load else NOTHING),
    ("TTFT p50\ns", lambda trial: _seconds(arrivals_of(trial).ttft_from_due_s, "p50_s")),
    ("p99\ns", lambda trial: _seconds(arrivals_of(trial).ttft_from_due_s, "p99_s")),
    ("E2E p50\ns", lambda trial: _seconds(arrivals_of(trial).e2e_from_due_s, "p50_s")),
    ("p99\ns", lambda trial: _seconds(arrivals_of(trial).e2e_from_due_s, "p99_s")),
    ("J/request", _energy),
    ("goodput", _goodput),
)
"""The table of open loops, a line a column."""


def print_open_loops(run: RecordedRun, console: Console) -> None:
    """A row for each open loop and what its columns mean; nothing for a run without any."""
    trials = open_loops(run)
    if not trials:
        return
    console.print("\nOpen loops, whose requests come at times of their own:", markup=False)
    limited = any(arrivals_of(trial).goodput is not None for trial in trials)
    columns = [column for column in OPEN_CELLS if limited or column[1] is not _goodput]
    table = narrow_table(*(heading for heading, _ in columns))
    for trial in trials:
        table.add_row(*(cell(trial) for _, cell in columns))
    print_whole(table, console)
    console.print("; ".join(open_notes(trials)) + ".", markup=False, soft_wrap=True)


def open_notes(trials: Sequence[Trial]) -> Iterator[str]:
    """What the columns mean, why energy is missing, and which rates were too much."""
    yield "TTFT and E2E are from when a request was due to its first and its last token"
    limits = arrivals_of(trials[0]).limits
    if words := _limit_words(limits):
        yield f"goodput is the share of the requests with {words}"
    totals = [trial.energy.total for trial in trials if trial.energy]
    if any(total.method == "estimated" for total in totals):
        yield "≈: energy is estimated, not measured"
    if reason := next((total.reason for total in totals if total.request_j is None), None):
        yield f"{NOTHING}: energy was not measured: {reason}"
    saturated = [trial for trial in trials if arrivals_of(trial).saturated]
    if saturated:
        rates = ", ".join("the log's" if t.rate_per_s is None else f"{number(t.rate_per_s, 3)}/s" for t in saturated)
        yield f"requests piled up at {rates}: their times depend on how long the loop was"


def _limit_words(limits: LatencyLimits) -> str:
    named = (("TTFT", limits.ttft_s), ("TPOT", limits.tpot_s), ("E2E", limits.e2e_s))
    return ", ".join(f"{name} ≤ {number(limit, 3)} s" for name, limit in named if limit is not None)
