"""``joulebench report``: one page that a person can send to a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from harness.cli import options


def report(
    runs: Annotated[list[Path], Argument(metavar="RUN...", help="Run directories.")],
    output: Annotated[Path, Option("--output", "-o", help="The page, an HTML file.")] = Path("report.html"),
    profile: Annotated[
        list[str] | None,
        Option(help="Also offer this profile in the threshold explorer. Repeatable.", show_default="(none)"),
    ] = None,
    workload: Annotated[
        list[str] | None,
        Option(
            "--workload",
            "-w",
            help="Also offer this workload there: a file or trace. Repeatable.",
            show_default="alpaca",
        ),
    ] = None,
    fixed_input: options.FixedInput = 32,
    fixed_output: options.FixedOutput = 32,
    boundary: options.Boundary = None,
    allow_mixed: options.AllowMixed = False,
    as_json: options.AsJson = False,
) -> None:
    """Write one HTML page: speed, energy, how sure they are, what a request costs, thresholds, trials."""
    from harness.core.quantities import parse_boundary
    from harness.showing.panels import Options
    from harness.showing.report.page import write_report
    from harness.showing.terminal import print_written

    drawn = Options(fixed_input, fixed_output, parse_boundary(boundary))
    write_report(runs, output, profile or [], workload or [], drawn, allow_mixed)
    print_written([output], as_json)
