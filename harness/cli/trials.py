"""``joulebench trials``: read a run directory back."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Format = StrEnum("Format", "TABLE CSV JSON")
"""How trials are printed."""


def trials(
    directory: Annotated[Path, Argument(metavar="DIR", help="Run directory.")],
    format: Annotated[Format, Option("--format", help="table, csv or json.")] = Format.TABLE,
) -> None:
    """Print the trials of a run: a table for people, every column as CSV or JSON for programs."""
    from harness.runs.records import load_run
    from harness.showing.trials import print_trials

    print_trials(load_run(directory), format.value)
