"""``joulebench trials``: read a run directory back."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How records are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def trials(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.")],
    format: Annotated[Format, typer.Option("--format", help="table, csv or json.")] = Format.TABLE,
) -> None:
    """Print the trials of a run: a table for people, every column as CSV or JSON for programs."""
    from harness.runs import records

    table = records.load(directory)
    if format is Format.CSV:
        table.to_csv(sys.stdout, index=False)
    elif format is Format.JSON:
        table.to_json(sys.stdout, orient="records", indent=1)
        print()
    else:
        from harness.showing.trials import print_trials

        print_trials(records.read_trials(directory), records.read_run(directory))
