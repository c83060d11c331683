"""``joulebench paper``: the published figures and numbers again, and what whole requests say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from harness.cli import options


def paper(
    output: Annotated[Path, Option("--output", "-o", help="Directory for figures, CSV files and summary.json.")],
    as_json: options.AsJson = False,
) -> None:
    """Regenerate the figures and numbers of Wilkins, Keshav and Mortier (2024) from the shipped profiles."""
    from harness.showing.paper import print_paper, reproduce

    print_paper(output, *reproduce(output), as_json)
