"""``joulebench figures``: Figures 1 and 2 of the paper for any systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from harness.cli import options
from harness.core.errors import UserError


def figures(
    output: Annotated[Path, Option("--output", "-o", help="Directory for the figures.")],
    sources: Annotated[
        list[str] | None,
        Argument(metavar="[RUN|PROFILE]...", help="Run directories, profile files, shipped profiles' names."),
    ] = None,
    published: Annotated[bool, Option("--published", help="Add the published systems.")] = False,
    models: Annotated[
        bool, Option("--models", help="Draw fitted models as thin lines, dashed beyond their range.")
    ] = False,
    fixed_input: options.FixedInput = 32,
    fixed_output: options.FixedOutput = 32,
    boundary: options.Boundary = None,
    allow_mixed: options.AllowMixed = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw runtime, throughput and energy against input and output tokens: Figures 1 and 2 of the paper."""
    from harness.core.quantities import parse_boundary
    from harness.showing.panels import Options
    from harness.showing.sweep_figures import write_figures
    from harness.showing.terminal import print_json

    drawn = Options(fixed_input, fixed_output, parse_boundary(boundary), models)
    paths, notes = write_figures(sources or [], output, drawn, published=published, allow_mixed=allow_mixed)
    if not paths:
        raise UserError(f"nothing could be drawn: {'; '.join(notes)}")
    if as_json:
        print_json({"files": list(map(str, paths)), "notes": notes})
        return
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {len(paths)} files to {output}")
