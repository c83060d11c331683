"""Trials measured elsewhere, read from a table in one of the forms of ``table_forms`` and checked row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.core.sizes import MAX_CONCURRENCY
from harness.modelling.cost_function import MAX_TOTAL_TOKENS
from harness.modelling.measurements import CSV_COLUMNS, Trials, without_negative_energy
from harness.modelling.table_forms import form_of, headerless_form, is_recognised, table_form_called
from harness.modelling.table_forms.columns_used import Used, used_columns
from harness.modelling.table_forms.form import Converted, Sheet, TableForm, plain_column
from harness.modelling.table_forms.sheets import LINES, TEXT, read_sheet
from harness.modelling.table_forms.status import all_left_out, measured_rows
from harness.modelling.table_forms.systems import (
    MACHINE,
    MODEL,
    chosen_rows,
    columns_words,
    named,
    refuse_several,
    says_no_cache,
)
from harness.modelling.table_forms.unit_doubt import refuse_doubtful_units
from harness.modelling.table_forms.values import Faults, energies_from_power, numbers, without_empty_energies

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("input_tokens", "output_tokens", "runtime_s")
SMALLEST, LARGEST = 1e-9, 1e12
"""Seconds and joules outside these bounds are no request's; arithmetic on them would lose all digits."""
_SESSIONS = ("run", "session")
_TOKENS = ("input_tokens", "output_tokens", "output_tokens_requested")
_NO_BATCHES = (
    "call the column concurrency, with the energies per request (those of a batch divided by its size) and "
    "runtime_s of the whole batch"
)
_SUMS = "each row sums up several requests: divide its tokens, runtime and energies by their number and leave out this"


@dataclass(frozen=True)
class TableChoice:
    """What is asked of a table besides its path."""

    where: tuple[tuple[str, str], ...] = ()
    """Columns and values: only rows that have one of the values of each column count."""
    form: str | None = None
    """Name of the form; None: the one that the columns tell."""
    trust_units: bool = False
    """Whether units are believed that no machine's power speaks for."""


@dataclass(frozen=True)
class MeasuredTable:
    """Trials, and what their table says of the system."""

    trials: Trials
    form: TableForm
    system: str | None = None
    model: str | None = None
    kv_cache: bool | None = None


def read_table(path: Path, choice: TableChoice | None = None, model: str | None = None) -> MeasuredTable:
    """One row a trial; rows of one size and concurrency are its trials. CSV, JSON, JSON lines or Parquet.

    ``output_tokens`` are those really produced; a column ``output_tokens_requested`` keeps trials together that
    stopped early at different lengths. ``concurrency`` are the requests in flight, 1 where a cell is empty or the
    column absent. ``session`` and ``run``, whatever their text, say which trials were measured in one go. A trial with
    an energy of 0 or less counts for runtime alone. ``model`` names the model where the user did: its size tells
    energies that can't be. Raises UserError.
    """
    choice = choice or TableChoice()
    sheet = read_sheet(path, is_recognised, headerless_form, CSV_COLUMNS)
    name = choice.form or sheet.form
    form = table_form_called(name) if name else form_of(sheet.columns)
    if form.refused:
        raise UserError(f"{path}: {form.refused}")
    sheet = chosen_rows(sheet, choice.where)
    rows, notes, left_out = measured_rows(sheet, [plain_column(name) for name, _ in choice.where])
    if not rows:
        raise UserError(all_left_out(path, notes))
    sheet = replace(sheet, rows=rows)
    refuse_several(sheet, form)
    converted = form.convert(sheet) if form.convert else Converted(rows)
    if not converted.rows:
        raise UserError(all_left_out(path, [*notes, *converted.notes]))
    columns = tuple(dict.fromkeys(name for row in converted.rows for name in row.cells))
    trials_sheet = replace(sheet, rows=tuple(converted.rows), columns=columns if form.convert else sheet.columns)
    used = used_columns(trials_sheet, form)
    trials = _trials(trials_sheet, used, form)
    model = model or named(sheet, (*form.model, *MODEL))
    doubts = refuse_doubtful_units(trials.table, model, str(path), trusted=choice.trust_units)
    read_as = [] if form.name == "columns" else [f"read as {form.name}: {form.what}"]
    said = [
        *read_as,
        *form.notes,
        *doubts,
        *notes,
        *converted.notes,
        *used.notes(sheet.columns if form.convert else (), form.own),
    ]
    trials = replace(trials, excluded=trials.excluded + left_out + converted.left_out, notes=(*said, *trials.notes))
    cache = form.kv_cache if form.kv_cache is not None else says_no_cache(sheet)
    return MeasuredTable(trials, form, named(sheet, (*form.machine, *MACHINE)), model, cache)


def holds_measurements(path: str) -> bool:
    """Whether a file is a table of measurements, and not a profile."""
    file = Path(path)
    if not path or not file.is_file():
        return False
    suffix = file.suffix.lower()
    if suffix != ".json":
        return suffix in (*TEXT, *LINES, ".parquet")
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if isinstance(content, list):
        return True
    if not isinstance(content, dict) or {"schema_version", "kind"} & set(content):
        return False
    return is_recognised(read_sheet(file, is_recognised, headerless_form, CSV_COLUMNS).columns)


def _trials(sheet: Sheet, used: Used, form: TableForm) -> Trials:
    _refuse_missing(sheet, used)
    table = numbers(sheet, used)
    faults = Faults(sheet.path, [row.label for row in sheet.rows], used)
    _check(table, faults)
    if not form.no_batch and form.convert is None:
        _check_batches(sheet, used, faults)
    faults.refuse()
    table["concurrency"], said = _in_flight(table), "concurrency" in table
    table, notes = without_empty_energies(*energies_from_power(table))
    table = table.rename(columns={"output_tokens": "output_tokens_produced"})
    requested = table.get("output_tokens_requested", table["output_tokens_produced"])
    table["output_tokens"] = requested.fillna(table["output_tokens_produced"])
    if sessions := _sessions(sheet):
        table["session"] = sessions
    for name in sheet.columns:
        if name.endswith("energy_method") or name == "disturbed":
            table[name] = [row.cells.get(name) for row in sheet.rows]
    trials = without_negative_energy(table)
    return replace(trials, says_concurrency=said, notes=(*notes, *trials.notes))


def _in_flight(table: pd.DataFrame) -> pd.Series | int:
    return table["concurrency"].fillna(1).astype(int) if "concurrency" in table else 1


def _refuse_missing(sheet: Sheet, used: Used) -> None:
    for name in REQUIRED:
        if name in used.columns or (name == "runtime_s" and {"prefill_s", "decode_s"} <= set(used.columns)):
            continue
        bare = used.without_unit.get(name.removesuffix("_s"))
        if bare is not None:
            raise UserError(f"{sheet.path}: the column {bare} says no unit: call it {bare}_s, {bare}_ms or {bare}_ns")
        raise UserError(f"{sheet.path} lacks the column {name}; it needs {CSV_COLUMNS}; {columns_words(sheet.columns)}")


def _check(table: pd.DataFrame, faults: Faults) -> None:
    for name in table.columns:
        faults.add(table, name, table[name].isna() & table.attrs["given"][name], "it must be a number", shown=False)
    for name in REQUIRED:
        faults.add(table, name, ~(table[name] > 0) & ~table.attrs["given"][name], "it must be positive")
        faults.add(table, name, table[name] <= 0, "it must be positive")
    for name in table.columns.intersection(list(_TOKENS)):
        wrong = (table[name] < 1) | (table[name] > MAX_TOTAL_TOKENS)
        faults.add(table, name, wrong, f"it must be 1 to {MAX_TOTAL_TOKENS}")
    for name in table.columns:
        if str(name).endswith("_ci95_j"):
            faults.add(table, name, table[name] < 0, "it must not be negative")
        elif str(name).endswith(("_s", "_j", "_w")) and name != "runtime_sd_s":
            size = table[name].abs()
            wrong = (size > LARGEST) | ((size > 0) & (size < SMALLEST))
            faults.add(table, name, wrong, f"it must be between {SMALLEST:g} and {LARGEST:g}")
    if "concurrency" in table:
        count = table["concurrency"]
        wrong = (count < 1) | (count > MAX_CONCURRENCY) | (count % 1 > 0)
        faults.add(table, "concurrency", wrong, f"it must be a whole number of 1 to {MAX_CONCURRENCY}")


def _check_batches(sheet: Sheet, used: Used, faults: Faults) -> None:
    """Batches, and sums of several requests, whose energies would be taken for those of one."""
    for names, why in ((used.batches, _NO_BATCHES), (used.sums, _SUMS)):
        for name in names:
            column = numbers(sheet, Used({name: ((name, 1.0),)}))
            faults.add(column, name, ~(column[name] <= 1) & column.attrs["given"][name], why)


def _sessions(sheet: Sheet) -> list[str]:
    columns = [column for name in _SESSIONS if (column := sheet.called(name)) is not None]
    cells: Sequence[Sequence[str]] = [
        [str(row.cells.get(column, "")).strip() for column in columns] for row in sheet.rows
    ]
    return ["/".join(parts) for parts in cells] if columns else []
