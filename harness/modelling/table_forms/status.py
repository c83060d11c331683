"""Rows that are no measurement, as their columns of status say: failed, warm-up, for other purposes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from harness.modelling.table_forms.form import Sheet, TableRow, plain_column, rows_words
from harness.modelling.table_forms.sheets import is_missing

_STATUS = ("status", "state", "outcome", "request_status", "run_status", "result_status", "trial_status")
_GOOD = {"ok", "okay", "success", "succeeded", "successful", "complete", "completed", "done", "finished", "passed",
         "pass", "true", "yes", "1", "200", "0", "valid", "measured", "stop", "length", "disturbed"}  # fmt: skip
_TRUE, _FALSE = {"true", "1", "yes", "t", "y", "1.0"}, {"false", "0", "no", "f", "n", "0.0"}
_IF_FALSE = ("success", "succeeded", "successful", "is_success", "ok", "passed", "valid", "is_valid", "completed")
_IF_TRUE = {
    "failed": ("failed", "is_error", "has_error", "errored", "oom", "timed_out", "crashed"),
    "warm-up": ("warmup", "is_warmup", "warm_up"),
    "disturbed": ("throttled", "is_outlier", "outlier"),
}
_ERROR_TEXTS = ("error", "errors", "error_message", "exception", "traceback", "failure_reason")
_NO_ERROR = {"", "0", "false", "no", "ok", "none", "no error", "{}", "[]"}
_EXITS = ("exit_code", "return_code", "returncode", "exitcode")
_WARM = {"warmup", "warm-up", "warm_up", "warm up"}
_PHASES = ("purpose", "phase", "stage", "kind")


def measured_rows(sheet: Sheet, kept: Iterable[str] = ()) -> tuple[tuple[TableRow, ...], list[str], int]:
    """The rows that are measurements, what is to be said of the others, and how many these are.

    ``kept`` are columns, by their plain names, that somebody has chosen rows by: they don't leave out any.
    """
    columns = {plain_column(name): name for name in sheet.columns if plain_column(name) not in set(kept)}
    left_out: Counter[str] = Counter()
    rows = []
    for row in sheet.rows:
        why = next((why for name, column in columns.items() if (why := _why_not(name, row.cells.get(column)))), None)
        if why is None:
            rows.append(row)
        else:
            left_out[why] += 1
    return tuple(rows), [f"{rows_words(count)}: {why}" for why, count in left_out.items()], left_out.total()


def _why_not(column: str, cell: Any) -> str | None:
    """Why a row is no measurement, by one of its cells; None where that doesn't say so."""
    if is_missing(cell) or isinstance(cell, list | dict):
        return None
    said = str(cell).strip().lower()
    if column in _STATUS:
        return None if said in _GOOD else "failed" if _is_bad(said) else f"its {column} is not known to be good"
    if column in _IF_FALSE and said in _FALSE:
        return "failed"
    if column in _PHASES and said in _WARM:
        return "warm-up"
    if column in _ERROR_TEXTS:
        return None if said in _NO_ERROR or _is_number(said) else "failed"
    if column in _EXITS:
        return None if said in ("0", "0.0") or not _is_number(said) else "failed"
    return next((why for why, names in _IF_TRUE.items() if column in names and said in _TRUE), None)


def _is_bad(said: str) -> bool:
    bad = ("fail", "error", "oom", "memory", "timeout", "timed", "cancel", "abort", "crash", "skip", "reject", "kill")
    return any(word in said for word in bad) or (said.isdigit() and 400 <= int(said) < 600)


def _is_number(said: str) -> bool:
    try:
        float(said)
    except ValueError:
        return False
    return True


def all_left_out(path: Any, notes: Sequence[str]) -> str:
    """What to say where no row is left."""
    return f"{path} holds no usable trial: {'; '.join(notes)}; --where COLUMN=VALUE on such a column keeps its rows"
