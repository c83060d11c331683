"""Cells as numbers in s, J, W and tokens, and the refusal of those that are none, by their rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.errors import UserError
from harness.core.quantities import COMPONENTS
from harness.modelling.table_forms.columns_used import Used
from harness.modelling.table_forms.form import Sheet
from harness.modelling.table_forms.sheets import is_missing, texts
from harness.modelling.table_forms.spelling import Marks, Unclear, marks_of

if TYPE_CHECKING:
    import pandas as pd

_PARTS = ("energy_j", "prefill_energy_j", "decode_energy_j")
_NAMED_ROWS, _NAMED_KINDS = 5, 3


def numbers(sheet: Sheet, used: Used) -> pd.DataFrame:
    """A trial's columns, NaN where nothing or no number stands; ``attrs["given"]`` says by column where something does.

    Without a runtime it is that of prefill and decode together. Raises UserError for numbers that can be read in two
    ways.
    """
    import pandas as pd

    marks = _marks(sheet, used)
    table, given = {}, {}
    for column, sources in used.columns.items():
        cells = [[row.cells.get(name) for name, _ in sources] for row in sheet.rows]
        given[column] = pd.Series([not all(map(is_missing, each)) for each in cells])
        factors = [factor for _, factor in sources]
        table[column] = pd.Series(
            [sum(_number(cell, marks) * f for cell, f in zip(each, factors, strict=True)) for each in cells],
            dtype=float,
        )
    if "runtime_s" not in table and {"prefill_s", "decode_s"} <= set(table):
        table["runtime_s"] = table["prefill_s"] + table["decode_s"]
        given["runtime_s"] = given["prefill_s"] & given["decode_s"]
    frame = pd.DataFrame(table)
    frame.attrs["given"] = given
    return frame


def _marks(sheet: Sheet, used: Used) -> Marks:
    sources = {name: column for column, of in used.columns.items() for name, _ in of}
    said = {name: texts(row.cells.get(name) for row in sheet.rows) for name in sources}
    tokens = [name for name, column in sources.items() if "tokens" in column or column == "concurrency"]
    marks = marks_of(said, tokens, sheet.semicolons)
    if isinstance(marks, Unclear):
        raise UserError(
            f"{sheet.path}: {marks.text} in the column {marks.column} can be read with thousands or with decimals: "
            "write numbers without marks between thousands and with a point before decimals"
        )
    return marks


def _number(cell: Any, marks: Marks) -> float:
    if isinstance(cell, bool) or is_missing(cell):
        return float("nan")
    if isinstance(cell, str):
        value = marks.number(cell)
    else:
        try:
            value = float(cell)
        except (TypeError, ValueError, OverflowError):
            return float("nan")
    return value if np.isfinite(value) else float("nan")


class Faults:
    """What is wrong with the rows of a file."""

    def __init__(self, path: Path, labels: Sequence[str], used: Used) -> None:
        self._path = path
        self._sources = {column: " + ".join(name for name, _ in of) for column, of in used.columns.items()}
        self._labels = labels
        self._rows: set[int] = set()
        self._found: dict[tuple[str, str, bool], list[tuple[int, str]]] = {}
        """By column, what is wrong and whether nothing is there, the rows and their values."""

    def add(self, table: pd.DataFrame, name: str, wrong: pd.Series, why: str, *, shown: bool = True) -> None:
        """Note the rows that are ``wrong`` in a column and say ``why``; of each row the first fault counts.

        A cell is ``shown`` only where it is a number: what else stands there may be somebody's text.
        """
        for row in map(int, np.flatnonzero(wrong.to_numpy(dtype=bool))):
            if row not in self._rows:
                self._rows.add(row)
                value = "text" if not shown else "missing" if np.isnan(table[name][row]) else f"{table[name][row]}"
                self._found.setdefault((name, why, value == "missing"), []).append((row, value))

    def refuse(self) -> None:
        """Raise UserError naming the rows that are wrong, each kind with its reason, if any is."""
        if self._found:
            kinds = sorted(self._found.items(), key=lambda kind: kind[1][0][0])
            more = f"; … and {len(kinds) - _NAMED_KINDS} more kinds of faults" if len(kinds) > _NAMED_KINDS else ""
            said = "; ".join(self._said(name, why, rows) for (name, why, _), rows in kinds[:_NAMED_KINDS])
            raise UserError(f"{self._path}, {said}{more}")

    def _said(self, name: str, why: str, rows: Sequence[tuple[int, str]]) -> str:
        source = self._sources.get(name, name)
        column = name if source.strip().lower() == name else f"{name} (of {source})"
        (first, value), *others = rows
        said = f"{self._labels[first]}: {column} is {value}; {why}"
        if not others:
            return said
        named = ", ".join(self._labels[row] for row, _ in others[:_NAMED_ROWS])
        more = f" and {len(others) - _NAMED_ROWS} more" if len(others) > _NAMED_ROWS else ""
        return f"{said} (likewise {named}{more})"


def energies_from_power(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Where there is power alone, energy is mean power times runtime, shared by the requests in flight."""
    powers = [str(name) for name in table if re.fullmatch(r"(?:[a-z]+_)?power_w", str(name))]
    if not powers:
        return table, []
    for name in powers:
        table[name.removesuffix("power_w") + "energy_j"] = table[name] * table["runtime_s"] / table["concurrency"]
    notes = [f"energy is mean power times runtime, by {', '.join(powers)}"]
    return table.drop(columns=[str(name) for name in table if str(name).endswith("power_w")]), notes


def without_empty_energies(table: pd.DataFrame, notes: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Without the energies that are 0 in every row: there is no such part, or it has no meter."""
    said = list(notes)
    for whole in ("", *(f"{component}_" for component in COMPONENTS)):
        name = f"{whole}energy_j"
        if name in table and table[name].notna().any() and (table[name].fillna(0) == 0).all():
            table = table.drop(columns=[f"{whole}{part}" for part in _PARTS if f"{whole}{part}" in table])
            said.append(f"{name} is 0 everywhere and taken to be absent")
    return table, said
