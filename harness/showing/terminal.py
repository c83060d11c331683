"""The terminal: consoles, tables, JSON, and how this program is called."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

_UNBOUNDED = 10_000
"""Columns of a terminal that no table fills."""

_ROOM_FOR_WORDS = 15
"""Columns in which the reasons of a table of numbers still read well."""


class _Console(Console):
    """A console that leaves it to its user what a broken pipe means."""

    def on_broken_pipe(self) -> None:
        raise


def open_console() -> Console:
    """A console; where nobody's terminal says how wide it is, wide enough for every table."""
    console = _Console(highlight=False)
    return console if console.is_terminal else _Console(highlight=False, width=200)


def print_all(shown: Iterable[RenderableType]) -> None:
    """Print lines as they are, without wrapping, and tables: whole where nobody's terminal says how wide it is."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200
    for one in shown:
        if isinstance(one, Table):
            print_whole(one, console)
        else:
            console.print(one)


def print_whole(table: Table, console: Console) -> None:
    """Print a table with no cell cut short: on a terminal that is too narrow for it, its lines run over the edge."""
    _print_at_least(console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum, table, console)


def print_fitting(columns: Mapping[str, Sequence[str]], least: Sequence[str], console: Console) -> list[str]:
    """Print cells by their columns' headings, all numbers whole; the last column has words, which fold.

    Where the terminal is too narrow the columns ``least`` are left out, the first of them first, until the others
    fit. Returns the headings of those left out.
    """
    # Beside a cell are two blanks.
    widths = {heading: 2 + max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    words = list(columns)[-1]
    widths[words] = min(widths[words], _ROOM_FOR_WORDS)
    left_out = []
    for heading in least:
        if sum(widths.values()) > console.width:
            del widths[heading]
            left_out.append(heading)
    table = narrow_table(*widths)
    table.columns[-1].justify, table.columns[-1].no_wrap, table.columns[-1].overflow = "left", False, "fold"
    for cells in zip(*(columns[heading] for heading in widths), strict=True):
        table.add_row(*cells)
    _print_at_least(sum(widths.values()) + 1, table, console)
    return left_out


def _print_at_least(width: int, table: Table, console: Console) -> None:
    before = console.width
    console.width = max(width, before)
    console.print(table)
    console.width = before


def table_of(*headings: str, no_wrap: bool = False) -> Table:
    """A table whose first column stands left and whose others, numbers, right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if table.columns else "left", no_wrap=no_wrap)
    return table


def narrow_table(*headings: str) -> Table:
    """A table of many columns of numbers, none of them broken."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def program() -> list[str]:
    """How this program is called; in an environment that is not activated the command is not on the path."""
    return ["joulebench"] if shutil.which("joulebench") else [sys.executable, "-m", "harness"]


def print_json(value: Any) -> None:
    """Print JSON for programs; never NaN."""
    print(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False))


def print_written(files: Sequence[Path], as_json: bool) -> None:
    """Say which files were written."""
    if as_json:
        print_json({"files": list(map(str, files))})
        return
    for file in files:
        print(f"wrote {file}")


def records_of(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arrays of one length, as one dictionary of plain numbers a row; None for what isn't finite: it isn't known."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, map(_known, row), strict=True)) for row in rows]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
