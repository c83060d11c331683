"""``joulebench doctor``: what works on this machine, and what to do about the rest."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from harness.cli import options


def doctor(
    as_json: options.AsJson = False,
    load: Annotated[
        bool, Option("--load", help="Load the machine for 40 s: does every sensor notice, how soon?")
    ] = False,
) -> None:
    """Check which backends and power sources work here, and how to enable the rest."""
    from harness.measuring.doctor import diagnose
    from harness.showing.diagnosis import print_diagnosis

    print_diagnosis(diagnose(load), as_json)
