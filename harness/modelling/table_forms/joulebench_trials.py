"""What ``joulebench trials`` writes, as CSV or JSON."""

from __future__ import annotations

from harness.modelling.table_forms.form import Converted, Sheet, TableForm, TableRow, rows_words
from harness.modelling.table_forms.sheets import is_missing

_POINT = ("input_tokens", "output_tokens", "concurrency")


def _usable(sheet: Sheet) -> Converted:
    """Of each point the undisturbed measurements, or where there is none the disturbed ones, as a run is read."""
    measured = [row for row in sheet.rows if _said(row, "purpose") == "measure"]
    at_rest = {_point(row) for row in measured if _said(row, "status") == "ok"}
    used = [row for row in measured if _said(row, "status") == "ok" or _point(row) not in at_rest]
    notes = []
    if disturbed := len(measured) - len(used):
        notes.append(
            f"{rows_words(disturbed, 'disturbed trial', 'not used')}: there are undisturbed ones of their points"
        )
    if others := len(sheet.rows) - len(measured):
        notes.append(f"{rows_words(others)}: no measurement (purpose says what for)")
    return Converted([_trial(row) for row in used], notes, disturbed)


def _trial(row: TableRow) -> TableRow:
    produced = row.cells.get("output_tokens_produced")
    asked = row.cells.get("output_tokens")
    tokens = {"output_tokens": asked if is_missing(produced) else produced, "output_tokens_requested": asked}
    cells = {name: cell for name, cell in row.cells.items() if name != "output_tokens_produced"}
    return TableRow(row.label, cells | tokens | {"disturbed": _said(row, "status") == "disturbed"})


def _point(row: TableRow) -> tuple[str, ...]:
    return tuple(_said(row, name) for name in _POINT)


def _said(row: TableRow, name: str) -> str:
    return str(row.cells.get(name, "")).strip().lower()


FORM = TableForm(
    name="joulebench",
    what="the trials of a run, by joulebench trials --format csv or --json",
    marks=("trial_id", "purpose", "status", "output_tokens_produced"),
    convert=_usable,
    own=("",),
)
