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
    concurrency: options.InFlight = None,
    boundary: options.Boundary = None,
    allow_mixed: options.AllowMixed = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare two systems' energy and runtime by request size and requests in flight. Runs are fitted on the way."""
    from harness.core.sizes import parse_concurrency, parse_tokens
    from harness.modelling import contrast
    from harness.showing.comparisons import print_comparison

    sizes = parse_tokens(input_tokens), parse_tokens(output_tokens)
    in_flight = [None] if concurrency is None else parse_concurrency(concurrency)
    found = contrast.compare_at(a, b, *sizes, in_flight, boundary=boundary, allow_mixed=allow_mixed)
    options.print_notes(found[0].fitted)
    print_comparison(found, as_json)
