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
    output: Annotated[Path, Option("--output", "-o", help="File to write.")],
    format: Annotated[FileFormat, Option("--format", help="How the table is written.")] = FileFormat.JSON,
    as_json: options.AsJson = False,
) -> None:
    """Write models, measurements and a grid of predictions as one table, a row per number."""
    from harness.modelling.profile import Profile
    from harness.modelling.tables import write_table
    from harness.showing.terminal import print_written

    write_table(Profile.load(profile), output, format.value)
    print_written([output], as_json)
