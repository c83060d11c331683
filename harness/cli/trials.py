"""``joulebench trials``: read a run directory back."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from harness.cli import options
from harness.core.errors import UserError

Format = StrEnum("Format", "TABLE CSV JSON")
"""How trials are printed."""


def trials(
    directory: Annotated[
        Path | None, Argument(metavar="RUN", help="Run directory; may be left out with --columns.", show_default=False)
    ] = None,
    format: Annotated[Format, Option("--format", help="How to print them.")] = Format.TABLE,
    as_json: options.AsJson = False,
    columns: Annotated[
        bool, Option("--columns", help="Print every column's name, unit and meaning instead of the trials.")
    ] = False,
) -> None:
    """Print the trials of a run: a table for people, every column as CSV or JSON for programs."""
    from harness.runs.records import load_run
    from harness.showing.columns import print_columns
    from harness.showing.trials import print_trials

    if as_json and format is Format.CSV:
        raise UserError("--json and --format csv are two formats: leave one out")
    form = Format.JSON if as_json else format
    if columns:
        print_columns(None if directory is None else load_run(directory), form.value)
    elif directory is None:
        raise UserError("name a run directory: joulebench trials RUN")
    else:
        print_trials(load_run(directory), form.value)
