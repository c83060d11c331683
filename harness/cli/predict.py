"""``joulebench predict``: what requests will cost."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from harness.cli import options


def predict(
    profile: options.ProfileArgument,
    input_tokens: options.InputTokens,
    output_tokens: options.OutputTokens,
    concurrency: options.InFlight = None,
    boundary: options.Boundary = None,
    strict: Annotated[bool, Option("--strict", help="Refuse sizes outside the measured range.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Predict runtime and energy of requests, each with 95 % intervals of the mean and of one request."""
    from harness.core.sizes import parse_concurrency, parse_tokens
    from harness.modelling.profile_fit import load_or_fit
    from harness.showing.predictions import print_predictions

    sizes = parse_tokens(input_tokens), parse_tokens(output_tokens)
    in_flight = None if concurrency is None else parse_concurrency(concurrency)
    loaded = load_or_fit(profile)
    options.print_notes(loaded.fitted)
    print_predictions(loaded, sizes, in_flight, boundary, strict, as_json)
