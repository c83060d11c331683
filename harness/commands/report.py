"""``joulebench report``: one page that a person can send to a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, an HTML file.")] = Path("report.html"),
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Profile to choose in the threshold explorer. Repeatable.", show_default="the published"),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload", "-w", help="Workload to choose there: a file or trace. Repeatable.", show_default="alpaca"
        ),
    ] = None,
    fixed_input: Annotated[int, typer.Option(min=1, help="Input tokens of the output sweep.")] = 32,
    fixed_output: Annotated[int, typer.Option(min=1, help="Output tokens of the input sweep.")] = 32,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Show runs that aren't comparable all the same, with a warning.")
    ] = False,
) -> None:
    """Write one self-contained page: what was measured, how sure it is, charts, models, trials, thresholds."""
    from harness.report import write_report
    from harness.report_charts import FixedSizes

    write_report(runs, output, profile or [], workload or [], FixedSizes(fixed_input, fixed_output), allow_mixed)
    print(f"wrote {output}")
