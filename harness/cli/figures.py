"""``joulebench figures``: Figures 1 and 2 of the paper for any systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from harness.cli import options
from harness.core.errors import UserError


def figures(
    sources: Annotated[
        list[str] | None,
        Argument(metavar="[RUN|PROFILE]...", help="Run directories, profile files, shipped profiles' names."),
    ] = None,
    output: Annotated[Path, Option("--output", "-o", help="Directory for the figures.")] = Path("figures"),
    published: Annotated[
        bool, Option("--published", help="Add the published systems; what can't be compared with them is labelled.")
    ] = False,
    everything: Annotated[bool, Option("--all", help="Also draw energy per request and total tokens/s.")] = False,
    models: Annotated[bool, Option("--models/--no-models", help="Draw the fitted models with 95 % bands.")] = True,
    fixed_input: options.FixedInput = 32,
    fixed_output: options.FixedOutput = 32,
    boundary: options.Boundary = None,
    allow_mixed: options.AllowMixed = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw runtime and energy against input and output tokens, phases and fits: Figures 1 and 2 of the paper."""
    from harness.core.quantities import parse_boundary
    from harness.showing.figure_set import write_figures
    from harness.showing.panels import Options
    from harness.showing.terminal import print_json

    drawn = Options(fixed_input, fixed_output, parse_boundary(boundary), models, everything)
    paths, notes = write_figures(sources or [], output, drawn, published=published, allow_mixed=allow_mixed)
    if not paths:
        raise UserError(f"nothing could be drawn: {'; '.join(notes)}")
    if as_json:
        print_json({"files": list(map(str, paths)), "notes": notes})
        return
    print(f"wrote {len(paths)} files to {output}")
    for note in notes:
        print(note if note.startswith("NOT COMPARABLE") else f"note: {note}")
