"""Trials and points of a run as tables for the terminal, and every column for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from harness.core.statistics import Estimate
from harness.core.wording import estimated, number, plus_minus
from harness.runs.records import RecordedRun
from harness.runs.schema import Row, joules_per, status_words, tokens_in_all, tokens_out
from harness.runs.summary import PointSummary, summarise
from harness.showing.load_table import IN_FLIGHT, print_load
from harness.showing.open_loops import print_open_loops
from harness.showing.run_results import next_commands, result_lines
from harness.showing.terminal import narrow_table, open_console, print_fitting, print_whole


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _energy(value: Callable[[Row], Sequence[float | None]]) -> Callable[[Row], str]:
    """Joules with their half-width."""

    def cell(row: Row) -> str:
        joules, ci95_j = value(row)
        if joules is None or ci95_j is None:
            return "–"
        total = row.trial.energy.total if row.trial.energy else None
        return estimated(joules) if total and total.method == "estimated" else plus_minus(joules, ci95_j)

    return cell


def _words(row: Row) -> str:
    total = row.trial.energy.total if row.trial.energy else None
    return escape(row.trial.reason or (total and (total.reason or total.method)) or "not measured")


TRIAL_CELLS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("trial", lambda row: str(row.trial.id)),
    ("purpose", lambda row: row.trial.purpose),
    ("status", lambda row: row.trial.status),
    ("input", lambda row: str(row.trial.input_tokens)),
    ("output", lambda row: str(row.trial.output_tokens)),
    ("in flight", lambda row: "–" if row.trial.purpose == "open loop" else str(row.trial.concurrency)),
    ("repeats", lambda row: "–" if row.trial.repeats is None else str(row.trial.repeats)),
    ("prefill s", lambda row: _number(row.trial.prefill_s)),
    ("decode s", lambda row: _number(row.trial.decode_s)),
    ("runtime s", lambda row: _number(row.trial.runtime_s)),
    ("J/request", _energy(joules_per("request"))),
    ("J/prefill", _energy(joules_per("prefill"))),
    ("J/decode", _energy(joules_per("decode"))),
    ("J/output token", _energy(joules_per("request", tokens_out))),
    ("J/token", _energy(joules_per("request", tokens_in_all))),
    ("method or reason", _words),
)
"""The table of trials, a line a column: heading and cell."""

DISPENSABLE = ("J/token", "J/decode", "J/prefill", "J/output token", "repeats", "prefill s", "decode s")
"""Columns that a narrow terminal does without, the first of them first."""


NO_DECODE = "1 token"
NO_METER = "no meter"
DISTURBED = "disturbed"
UNFINISHED = "unfinished"

_EXPLAINED = {
    "out of memory": "the request needed more memory than there is",
    "timed out": "a trial took longer than --timeout",
    "failed": "the backend failed; joulebench trials lists every error",
    DISTURBED: "others used the machine during every trial of this point: its numbers are probably too high",
    "skipped": "not tried: it needs more memory, a longer context or more requests at once than there are",
    UNFINISHED: "measuring stopped, or is still, before the first trial that counts",
    NO_DECODE: "a single output token comes out of prefill, so nothing is decoded",
    NO_METER: "no power meter saw the device that computes; joulebench doctor says what to do",
    "too short": "too short for the power meter; lengthen trials with --min-window",
    "no reading": "the power meter gave no usable reading",
}
"""The short words of the table, explained below it where they occur."""


def _short_status(point: PointSummary) -> str:
    return status_words((point.trouble or UNFINISHED).partition(":")[0])


def _short_energy(point: PointSummary) -> str:
    """Why a point that was measured has no energy, in two words."""
    reason = point.energy_reason
    if reason is None or "no power source" in reason:
        return NO_METER
    return "too short" if "too short" in reason or "fewer than two" in reason else "no reading"


def _mean(value: Callable[[PointSummary], Estimate | None], digits: int) -> Callable[[PointSummary], str]:
    """A mean; nothing for a point without trials, whose runtime says why."""

    def cell(point: PointSummary) -> str:
        estimate = value(point)
        return "" if estimate is None else number(estimate.mean, digits)

    return cell


def _of_decoding(value: Callable[[PointSummary], Estimate | None], digits: int) -> Callable[[PointSummary], str]:
    """The same of decoding, of which a request with one output token has none, whatever its clock says."""
    mean = _mean(value, digits)
    return lambda point: NO_DECODE if point.trials and point.point.output_tokens == 1 else mean(point)


def _runtime(point: PointSummary) -> str:
    runtime_s = point.runtime_s
    return _short_status(point) if runtime_s is None else plus_minus(runtime_s.mean, runtime_s.half_width)


def _joules(point: PointSummary) -> str:
    """Energy with its interval, or why there is none."""
    if point.energy_j is None:
        return _short_energy(point) if point.trials else ""
    if point.energy_method == "estimated":
        return estimated(point.energy_j.mean)
    return plus_minus(point.energy_j.mean, point.energy_j.half_width)


POINT_CELLS: tuple[tuple[str, Callable[[PointSummary], str]], ...] = (
    ("input", lambda point: str(point.point.input_tokens)),
    ("output", lambda point: str(point.point.output_tokens)),
    (IN_FLIGHT, lambda point: str(point.point.concurrency)),
    ("trials", lambda point: f"{point.trials} {DISTURBED}" if point.disturbed else str(point.trials)),
    ("prefill\ns", _mean(lambda point: point.prefill_s, 3)),
    ("decode\ns", _of_decoding(lambda point: point.decode_s, 3)),
    ("prefill\ntokens/s", _mean(lambda point: point.prefill_tokens_per_s, 4)),
    ("decode\ntokens/s", _of_decoding(lambda point: point.decode_tokens_per_s, 4)),
    ("runtime\ns", _runtime),
    ("energy\nJ", _joules),
)
"""The table of points, a line a column: narrow enough for a terminal of 100 columns."""
_WIDE_ONLY = ("decode\ns", "prefill\ntokens/s")
"""What narrower terminals go without, so that no number is cut."""


def print_trials(run: RecordedRun, format: str) -> None:
    """Every trial: as a table for people followed by the points, or every column as CSV or JSON. Raises UserError."""
    if format == "csv":
        run.table().to_csv(sys.stdout, index=False)
        return
    if format == "json":
        run.table().to_json(sys.stdout, orient="records", indent=1)
        print()
        return
    run.table()  # refuses files that don't belong together
    console = open_console()
    loaded = any(trial.concurrency > 1 for trial in run.trials)
    columns = {
        heading: [cell(Row(trial, None)) for trial in run.trials]
        for heading, cell in TRIAL_CELLS
        if loaded or heading != "in flight"
    }
    left_out = print_fitting(columns, DISPENSABLE, console)
    if left_out:
        console.print(f"not shown on so narrow a terminal: {', '.join(left_out)}; --format csv has every column")
    print_results(run, console)
    print_next(run, console)


def print_results(run: RecordedRun, console: Console) -> None:
    """The numbers that matter, what was measured and what wasn't, then every point as a table row."""
    summaries = sorted(summarise(run.trials, run.facts), key=lambda summary: summary.point)
    for line in result_lines(run, summaries):
        console.print(line, markup=False, soft_wrap=True)
    left_out = [] if console.width >= 100 else list(_WIDE_ONLY)
    if all(summary.point.concurrency == 1 for summary in summaries):
        left_out.append(IN_FLIGHT)
    columns = {heading: list(map(cell, summaries)) for heading, cell in POINT_CELLS if heading not in left_out}
    # A closed loop has no speed of its prefill.
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    if summaries:
        table = narrow_table(*columns)
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        print_whole(table, console)
    shown = {cell for cells in columns.values() for cell in cells}
    for word, meaning in _EXPLAINED.items():
        if any(word in cell for cell in shown):
            console.print(f"{word}: {meaning}", markup=False, soft_wrap=True)
    print_load(run, console)
    print_open_loops(run, console)


def print_next(run: RecordedRun, console: Console) -> None:
    """What to type to go on; nothing where nothing was measured."""
    points = {trial.point for trial in run.trials if trial.usable}
    if points:
        fitted = (run.directory / "profile.json").exists()
        for line in next_commands(run.directory, len(points), fitted):
            console.print(line, markup=False, soft_wrap=True)
