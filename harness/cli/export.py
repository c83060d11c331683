"""``joulebench export``: a profile as tables for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from harness.cli import options

FileFormat = StrEnum("FileFormat", "JSON CSV PARQUET")
"""How the table is written."""


def export(
    profile: options.ProfileArgument,
    output: Annotated[Path, Option("--output", "-o", help="File to write: .csv, .json or .parquet.")],
    format: Annotated[
        FileFormat | None, Option("--format", help="Only for a name without such an ending.", show_default=False)
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write models, measurements and a grid of predictions as one table, a row per number."""
    from harness.modelling.profile_fit import load_or_fit
    from harness.modelling.tables import write_table
    from harness.showing.terminal import print_written

    loaded = load_or_fit(profile)
    options.print_notes(loaded.fitted)
    write_table(loaded.profile, output, format and format.value)
    print_written([output], as_json)
