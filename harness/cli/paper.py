"""``joulebench paper``: the published figures and numbers again, and what whole requests say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options


def paper(
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for figures, CSV files and summary.json.")],
    as_json: options.AsJson = False,
) -> None:
    """Regenerate the figures and numbers of Wilkins, Keshav and Mortier (2024) from the shipped profiles."""
    from rich.console import Console

    from harness.deciding.paper_accounting import LEAVES_OUT
    from harness.showing.paper import reproduce, summary_table

    summary, paths = reproduce(output)
    if as_json:
        options.print_json(summary)
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(summary_table(summary))
    console.print(f"note: {LEAVES_OUT}", markup=False)
    console.print(f"wrote {len(paths)} files to {output}", markup=False)
