"""``joulebench report``: one page that a person can send to a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, an HTML file.")] = Path("report.html"),
) -> None:
    """Write one self-contained page: what was measured, how sure it is, charts, models, trials, thresholds."""
    from harness.report import write_report

    write_report(runs, output)
    print(f"wrote {output}")
