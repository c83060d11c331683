"""``joulebench export``: a profile as tables for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """File format."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


def export(
    profile: Annotated[str, typer.Argument(help="Name of a shipped profile, or a file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    format: Annotated[Format, typer.Option("--format", help="json, csv or parquet.")] = Format.JSON,
) -> None:
    """Write models, measurements and a grid of predictions as one table, a row per number."""
    from harness.modelling.profile import Profile
    from harness.modelling.tables import write

    write(Profile.load(profile), output, format.value)
    print(f"wrote {output}")
