"""Trials and points of a run as tables for the terminal, and every column for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from harness.core.statistics import Estimate
from harness.runs.records import RecordedRun
from harness.runs.schema import Row, joules_per, tokens_in_all, tokens_out
from harness.runs.summary import PointSummary, drift, idle_drift, summarise
from harness.showing.terminal import narrow_table, open_console, plus_minus, print_fitting, print_whole


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _energy(value: Callable[[Row], Sequence[float | None]]) -> Callable[[Row], str]:
    """Joules with their half-width."""

    def cell(row: Row) -> str:
        joules, ci95_j = value(row)
        return "–" if joules is None or ci95_j is None else f"{joules:.4g} ± {ci95_j:.2g}"

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
    ("repeats", lambda row: _number(row.trial.repeats)),
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


def _mean(value: Estimate | None, digits: int) -> str:
    return "–" if value is None else f"{value.mean:.{digits}g}"


# Narrow enough for a terminal of 80 columns.
POINT_CELLS: tuple[tuple[str, Callable[[PointSummary], str]], ...] = (
    ("input", lambda point: str(point.point.input_tokens)),
    ("output", lambda point: str(point.point.output_tokens)),
    ("trials", lambda point: str(point.trials)),
    ("prefill\ns", lambda point: _mean(point.prefill_s, 3)),
    ("decode\ns", lambda point: _mean(point.decode_s, 3)),
    ("decode\ntokens/s", lambda point: _mean(point.decode_tokens_per_s, 4)),
    ("runtime\ns", lambda point: plus_minus(point.runtime_s)),
    ("energy\nJ", lambda point: plus_minus(point.energy_j)),
)
"""The table of points, a line a column."""


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
    columns = {
        heading: [cell(Row(trial, run.batch_size, None)) for trial in run.trials] for heading, cell in TRIAL_CELLS
    }
    left_out = print_fitting(columns, DISPENSABLE, console)
    if left_out:
        console.print(f"not shown on so narrow a terminal: {', '.join(left_out)}; --format csv has every column")
    print_results(run, console)


def print_results(run: RecordedRun, console: Console) -> None:
    """Every point as a table row, what went wrong, drift and idle power."""
    summaries = sorted(summarise(run.trials, run.batch_size), key=lambda summary: summary.point)
    table = narrow_table(*(heading for heading, _ in POINT_CELLS))
    for summary in summaries:
        table.add_row(*(cell(summary) for _, cell in POINT_CELLS))
    print_whole(table, console)
    if any(summary.trials == 1 for summary in summaries):
        console.print("± ?: a single trial says nothing about its own spread")
    methods = {summary.energy_method for summary in summaries if summary.energy_method}
    console.print(f"energy: {', '.join(sorted(methods)) or 'not measured'}")
    _print_trouble(summaries, console)
    if shift := drift(run.trials):
        interval = " ± ?" if shift.half_width is None else f" ± {shift.half_width:.1%}"
        point_text = f"m = {shift.point.input_tokens}, n = {shift.point.output_tokens}"
        console.print(f"drift: the first point ({point_text}) took {shift.change:+.1%}{interval} at the end")
    for session in run.facts.sessions:
        for idle in idle_drift(session):
            watts = f"{plus_minus(idle.before_w)} W before, {plus_minus(idle.after_w)} W after"
            console.print(f"idle power of {idle.domain}: {watts}, change {plus_minus(idle.change_w)} W")


def _print_trouble(summaries: Sequence[PointSummary], console: Console) -> None:
    for summary in summaries:
        if summary.trouble:
            m, n = summary.point.input_tokens, summary.point.output_tokens
            console.print(f"m = {m}, n = {n}: {summary.trouble}", markup=False)
    if discarded := [summary for summary in summaries if (summary.trouble or "").startswith("discarded")]:
        console.print(
            f"{len(discarded)} of {len(summaries)} points were not measured, because every trial was disturbed: stop "
            "other programs and measure into a new directory, or let more pass with --max-foreign-load"
        )
