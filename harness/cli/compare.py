"""``joulebench compare``: where is which system cheaper."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from harness.cli import options


def compare(
    a: Annotated[
        str, Argument(metavar="A", help="Run directory, profile file or name of a shipped profile.", show_default=False)
    ],
    b: Annotated[str, Argument(metavar="B", help="What it is compared with.", show_default=False)],
    input_tokens: options.InputTokens = "8-2048*4",
    output_tokens: options.OutputTokens = "8-512*4",
    boundary: options.Boundary = None,
    allow_mixed: options.AllowMixed = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare two systems' energy and runtime by request size. Runs are fitted on the way."""
    from harness.core.sizes import parse_tokens
    from harness.modelling import contrast
    from harness.showing.comparisons import print_comparison

    sizes = parse_tokens(input_tokens), parse_tokens(output_tokens)
    contrasts = contrast.compare(a, b, *sizes, boundary=boundary, allow_mixed=allow_mixed)
    options.print_notes(contrasts.fitted)
    print_comparison(contrasts, as_json)
