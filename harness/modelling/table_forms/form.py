"""What a form of measurements is: how a table is recognised, and how its rows become the columns of a trial.

A trial's columns are those of ``names``: ``input_tokens``, ``output_tokens``, ``runtime_s``, ``gpu_energy_j`` and so
on, in any of the units there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Names = tuple[str, ...]


def plain_column(name: str) -> str:
    """A column's name by its letters and digits: ``Runtime (s)`` and ``runtime_s`` are one."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("µ", "u").replace("μ", "u")).strip("_")


def rows_words(count: int, what: str = "row", verb: str = "left out") -> str:
    """``3 rows are left out``, ``1 row is left out``."""
    return f"{count} {what}{' is' if count == 1 else 's are'} {verb}"


@dataclass(frozen=True)
class TableRow:
    """One row of a file."""

    label: str
    """Where it is, as people are told: ``line 3``."""
    cells: Mapping[str, Any]
    """By the file's own names. Values of a text file are text, those of others as they are there."""


@dataclass(frozen=True)
class Sheet:
    """A file's rows."""

    path: Path
    columns: Names
    rows: tuple[TableRow, ...]
    form: str | None = None
    """The form that gave the columns their names, of a file that comes without them."""
    semicolons: bool = False
    """Whether its columns are parted by semicolons, as programs do whose comma stands before decimals."""

    def called(self, name: str) -> str | None:
        """The file's own spelling of a column; None where it has none such."""
        return next((column for column in self.columns if plain_column(column) == plain_column(name)), None)

    def value(self, row: TableRow, name: str) -> Any:
        """A cell by its column's name in any spelling; None where there is none."""
        column = self.called(name)
        return None if column is None else row.cells.get(column)


@dataclass(frozen=True)
class Converted:
    """Rows with the columns of trials, and what is to be said of them."""

    rows: Sequence[TableRow]
    notes: Sequence[str] = ()
    left_out: int = 0


@dataclass(frozen=True)
class TableForm:
    """A form of tables of measurements."""

    name: str
    what: str
    """One line for people: whose tables these are."""
    marks: Names = ()
    """Columns that a table must have, ``a|b`` one of both, to be taken for this form."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of a trial's columns, with their unit, by those of the file."""
    convert: Callable[[Sheet], Converted] | None = None
    """Turns the rows that are left into rows of trials; raises UserError. Without it ``columns`` are renamed."""
    only: bool = False
    """Whether nothing but what the form names is used."""
    system: Names = ()
    """Further columns of which each value is another system."""
    same_system: Names = ()
    """Columns that seem to say so and don't."""
    machine: Names = ()
    """Columns that name the machine, before those that usually do."""
    model: Names = ()
    """Columns that name the model, likewise."""
    no_batch: bool = False
    """Whether a column ``batch_size`` says nothing of requests in flight."""
    header: Names = ()
    """Names of the columns of files that come without a header; they are recognised by ``headerless``."""
    headerless: Callable[[Sequence[str]], bool] | None = None
    """Whether the cells of a file's first line are a row of this form."""
    kv_cache: bool | None = None
    """Whether the KV cache was on, where that is known of all such tables."""
    meter: str | None = None
    """The kind of meter where it is known of all such tables."""
    notes: Names = ()
    """What is always to be said."""
    own: Names = ()
    """With what the plain names of columns begin that speak of energy and whose use the form knows."""
    refused: str | None = None
    """Why such tables can't be taken, and what to do."""
