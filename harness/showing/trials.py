"""Trials and points of a run as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.runs.schema import TrialRecord
from harness.runs.summary import drift, idle_drift, summarise
from harness.showing.terminal import open_console, plus_minus, table_of


def print_trials(records: list[TrialRecord], run: dict[str, Any]) -> None:
    """Every trial as a table row, then the points."""
    console = open_console()
    table = table_of("trial", "purpose", "status", "input", "output", "repeats", "prefill s", "decode s", "runtime s")
    for heading in ("J/request", "J/prefill", "J/decode", "J/output token", "J/token"):
        table.add_column(heading, justify="right")
    table.add_column("method or reason", overflow="fold")
    batch_size = run["backend"]["config"]["batch_size"]
    for record in records:
        table.add_row(*_trial_cells(record, batch_size))
    console.print(table)
    print_results(records, run, console)


def print_results(records: list[TrialRecord], run: dict[str, Any], console: Console) -> None:
    """Every point as a table row, what went wrong, drift and idle power."""
    batch_size = run["backend"]["config"]["batch_size"]
    summaries = sorted(summarise(records, batch_size), key=lambda summary: summary.point)
    # Narrow enough for a terminal of 80 columns.
    table = table_of("input", "output", "trials", "prefill\ns", "decode\ns", "tokens\n/s", "runtime\ns", "energy\nJ")
    for summary in summaries:
        table.add_row(
            str(summary.point.input_tokens),
            str(summary.point.output_tokens),
            str(summary.trials),
            *(f"{value.mean:.3g}" if value else "–" for value in (summary.prefill_s, summary.decode_s)),
            f"{summary.tokens_per_s.mean:.4g}" if summary.tokens_per_s else "–",
            *(plus_minus(value) if value else "–" for value in (summary.runtime_s, summary.energy_j)),
        )
    console.print(table)
    if any(summary.trials == 1 for summary in summaries):
        console.print("± ?: a single trial says nothing about its own spread")
    methods = {summary.energy_method for summary in summaries if summary.energy_method}
    console.print(f"energy: {', '.join(sorted(methods)) or 'not measured'}")
    for summary in summaries:
        if summary.trouble:
            m, n = summary.point.input_tokens, summary.point.output_tokens
            console.print(f"m = {m}, n = {n}: {summary.trouble}", markup=False)
    discarded = [summary for summary in summaries if (summary.trouble or "").startswith("discarded")]
    if discarded:
        console.print(
            f"{len(discarded)} of {len(summaries)} points were not measured, because every trial was disturbed: stop "
            "other programs and measure into a new directory, or let more pass with --max-foreign-load"
        )
    shift = drift(records)
    if shift:
        interval = " ± ?" if shift.half_width is None else f" ± {shift.half_width:.1%}"
        point_text = f"m = {shift.point.input_tokens}, n = {shift.point.output_tokens}"
        console.print(f"drift: the first point ({point_text}) took {shift.change:+.1%}{interval} at the end")
    for session in run["sessions"]:
        for idle in idle_drift(session):
            watts = f"{plus_minus(idle.before_w)} W before, {plus_minus(idle.after_w)} W after"
            console.print(f"idle power of {idle.domain}: {watts}, change {plus_minus(idle.change_w)} W")


def _trial_cells(record: TrialRecord, batch_size: int) -> list[str]:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    def joules(key: str, tokens: int = 1) -> str:
        if total.get(f"{key}_j") is None:
            return "–"
        return f"{total[f'{key}_j'] / tokens:.4g} ± {total[f'{key}_ci95_j'] / tokens:.2g}"

    total = record.energy["total"] if record.energy else {}
    outputs = batch_size * record.output_tokens
    tokens = batch_size * (record.input_tokens + record.output_tokens)
    return [
        str(record.id),
        record.purpose,
        record.status,
        str(record.input_tokens),
        str(record.output_tokens),
        "–" if record.repeats is None else str(record.repeats),
        number(record.prefill_s),
        number(record.decode_s),
        number(record.runtime_s),
        joules("request"),
        joules("prefill"),
        joules("decode"),
        joules("request", outputs),
        joules("request", tokens),
        escape(record.reason or total.get("reason") or total.get("method") or "not measured"),
    ]
