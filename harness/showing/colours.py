"""One colour and one marker a system, in every figure and on the page."""

from __future__ import annotations

from collections.abc import Sequence

OWN = "#000000"
"""The machine in front of the reader; drawn thick and on top."""

PALETTE = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers tell apart; markers tell systems apart in grey."""

MARKERS = ("o", "^", "s", "D", "v", "P", "X")

_PUBLISHED = {"m1-pro": 0, "palmetto-v100": 1, "palmetto-a100": 2, "swing-a100": 3}
"""Places in the palette of the paper's systems, so that each keeps its colour whatever else is drawn."""


def styles(systems: Sequence[str]) -> dict[str, tuple[str, str]]:
    """For each system its colour and its marker."""
    free = (place for place in range(len(systems) + len(_PUBLISHED)) if place not in _PUBLISHED.values())
    places = {system: _PUBLISHED[system] if system in _PUBLISHED else next(free) for system in dict.fromkeys(systems)}
    return {system: (PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)]) for system, at in places.items()}
