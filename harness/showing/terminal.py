"""The terminal: consoles, tables, JSON, and how this program is called."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table


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
        console.print(one)


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


def records_of(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arrays of one length, as one dictionary of plain numbers a row."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
