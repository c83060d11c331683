"""``joulebench compare``: where is which system cheaper."""

from __future__ import annotations

from typing import Annotated

import typer


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Name of a shipped profile, or a file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The profile it is compared with.")],
    input_tokens: Annotated[str, typer.Option("--input-tokens", "-p", help="8,64,512 or 8-2048*2.")] = "8-2048*4",
    output_tokens: Annotated[str, typer.Option("--output-tokens", "-n", help="Written alike.")] = "8-512*4",
    boundary: Annotated[
        str | None, typer.Option(help="Components that count, such as gpu or cpu+gpu.", show_default="all of both")
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Compare what isn't comparable, and mark the output.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say at each request size which of two systems needs less energy and time, and whether that is significant."""
    from harness.core.sizes import parse_tokens
    from harness.modelling import comparable
    from harness.modelling.profile import Profile
    from harness.modelling.tables import comparison_table
    from harness.showing.profiles import print_comparison

    first, second = Profile.load(a), Profile.load(b)
    energy = boundary is not None or first.energy is not None or second.energy is not None
    comparison = comparable.check([first, second], boundary, allow_mixed, energy=energy)
    rows = comparison_table(
        first, second, comparison, parse_tokens(input_tokens), parse_tokens(output_tokens), energy=energy
    )
    print_comparison(first, second, comparison, rows, json)
