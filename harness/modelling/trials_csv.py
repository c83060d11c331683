"""Trials measured elsewhere, read from a CSV file and checked row by row."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import UserError
from harness.core.quantities import COMPONENTS
from harness.core.sizes import MAX_CONCURRENCY
from harness.modelling.cost_function import MAX_TOTAL_TOKENS
from harness.modelling.measurements import CSV_COLUMNS, Trials, without_negative_energy

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("input_tokens", "output_tokens", "runtime_s")
SMALLEST, LARGEST = 1e-9, 1e12
"""Seconds and joules outside these bounds are no request's; arithmetic on them would lose all digits."""

_BATCH_SIZE = "batch_size"
_SESSIONS = ("run", "session")
_LOADS = ("concurrency", _BATCH_SIZE)
_NO_BATCHES = (
    "call the column concurrency, with the energies per request (those of a batch divided by its size) and "
    "runtime_s of the whole batch"
)
_PARTS = ("energy_j", "prefill_energy_j", "decode_energy_j")
_COSTS = ("runtime_s", "prefill_s", "decode_s", *_PARTS, *(f"{c}_{part}" for c in COMPONENTS for part in _PARTS))


def read_csv(path: Path) -> Trials:
    """One row a trial; rows of one size and concurrency are its trials. Separated by comma, semicolon or tab.

    ``output_tokens`` are those really produced; a column ``output_tokens_requested`` keeps trials together that
    stopped early at different lengths. ``concurrency`` are the requests in flight, 1 where a cell is empty or the
    column absent. ``session`` and ``run``, whatever their text, say which trials were measured in one go. A trial with
    an energy of 0 or less counts for runtime alone. Raises UserError.
    """
    table = _read_text(path)
    missing = [name for name in REQUIRED if name not in table]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]}; it needs {CSV_COLUMNS}")
    for name in map(str, table):
        if name in (*REQUIRED, *_COSTS, *_LOADS) or name.endswith(("_tokens_requested", "_ci95_j")):
            table[name] = _numbers(table, name, path)
    for name in REQUIRED:
        _refuse(table, name, ~(table[name] > 0), "it must be positive", path)
    for name in table.columns.intersection(["input_tokens", "output_tokens", "output_tokens_requested"]):
        wrong = (table[name] < 1) | (table[name] > MAX_TOTAL_TOKENS)
        _refuse(table, name, wrong, f"it must be 1 to {MAX_TOTAL_TOKENS}", path)
    for name in table.columns.intersection(list(_COSTS)):
        size = table[name].abs()
        wrong = (size > LARGEST) | ((size > 0) & (size < SMALLEST))
        _refuse(table, name, wrong, f"it must be between {SMALLEST:g} and {LARGEST:g}", path)
    for name in table.columns.intersection(list(_LOADS)):
        wrong = (table[name] < 1) | (table[name] > MAX_CONCURRENCY) | (table[name] % 1 > 0)
        _refuse(table, name, wrong, f"it must be a whole number of 1 to {MAX_CONCURRENCY}", path)
    if _BATCH_SIZE in table:
        _refuse(table, _BATCH_SIZE, table[_BATCH_SIZE] > 1, _NO_BATCHES, path)
    for name in (str(name) for name in table if str(name).endswith("_ci95_j")):
        _refuse(table, name, table[name] < 0, "it must not be negative", path)
    table = table.rename(columns={"output_tokens": "output_tokens_produced"})
    requested = table.get("output_tokens_requested", table["output_tokens_produced"])
    table["output_tokens"] = requested.fillna(table["output_tokens_produced"])
    parts = [table.pop(name).str.strip() for name in _SESSIONS if name in table]
    if parts:
        table["session"] = ["/".join(names) for names in zip(*parts, strict=True)]
    said = "concurrency" in table
    table["concurrency"] = table["concurrency"].fillna(1).astype(int) if said else 1
    return replace(without_negative_energy(table.drop(columns="line")), says_concurrency=said)


def _read_text(path: Path) -> pd.DataFrame:
    """All cells as text, with the line each row ends on in a column of its own."""
    import pandas as pd

    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
            stream.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as CSV: {error}") from None
    if len(rows) < 2:
        raise UserError(f"{path} holds no trials; it needs {CSV_COLUMNS}")
    header = [name.strip().lower() for name in rows[0][1]]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise UserError(f"{path} has the column {sorted(twice)[0]} twice")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line} has {len(row)} fields, the header {len(header)}")
    table = pd.DataFrame([row for _, row in rows[1:]], columns=header, dtype=str)
    return table.assign(line=[line for line, _ in rows[1:]])


def _numbers(table: pd.DataFrame, name: str, path: Path) -> pd.Series:
    """The column as numbers; empty cells are missing. Raises UserError naming the first cell that is no number."""
    import pandas as pd

    text = table[name].str.strip()
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    given = ~text.str.lower().isin(["", "nan", "na", "null", "none"])
    _refuse(table, name, given & ~np.isfinite(numbers), "it must be a number", path)
    return numbers


def _refuse(table: pd.DataFrame, name: str, wrong: pd.Series, why: str, path: Path) -> None:
    if wrong.any():
        row = table[wrong].iloc[0]
        value = "missing" if row[name] != row[name] else row[name]
        raise UserError(f"{path}, line {int(row['line'])}: {name} is {value}; {why}")
