"""``joulebench predict``: what requests will cost."""

from __future__ import annotations

from typing import Annotated

import typer


def predict(
    profile: Annotated[str, typer.Argument(help="Name of a shipped profile, or a file.")],
    input_tokens: Annotated[str, typer.Option("--input-tokens", "-p", help="8,64,512 or 8-2048*2 or 128-1024+128.")],
    output_tokens: Annotated[str, typer.Option("--output-tokens", "-n", help="Written alike.")],
    boundary: Annotated[
        str | None, typer.Option(help="Components that count, such as gpu or cpu+gpu.", show_default="all measured")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse sizes outside the measured range.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Predict runtime and energy of requests, each with the 95 % interval of a new measurement."""
    from harness.core.sizes import parse_tokens
    from harness.modelling.profile import Profile
    from harness.modelling.tables import predictions
    from harness.showing.profiles import print_predictions

    loaded = Profile.load(profile)
    rows = predictions(
        loaded, parse_tokens(input_tokens), parse_tokens(output_tokens), boundary=boundary, strict=strict
    )
    print_predictions(loaded, rows, loaded.energy_method(boundary), json)
