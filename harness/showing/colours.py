"""One colour, one marker and one written name a system, in every figure and on the page."""

from __future__ import annotations

from collections.abc import Sequence

OWN = "#000000"
"""The machine in front of the reader; drawn thick and on top."""

PALETTE = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers tell apart; markers tell systems apart in grey."""

MARKERS = ("o", "^", "s", "D", "v", "P", "X")

_PUBLISHED = {"m1-pro": 0, "palmetto-v100": 1, "palmetto-a100": 2, "swing-a100": 3}
"""Places in the palette of the paper's systems, so that each keeps its colour whatever else is drawn."""

_WRITTEN = {
    # No line ends within a name.
    "m1-pro": "M1\u00a0Pro",
    "palmetto-v100": "V100\u00a0(Palmetto)",
    "palmetto-a100": "A100\u00a0(Palmetto)",
    "swing-a100": "A100\u00a0(Swing)",
    "llama-2-7b": "Llama-2-7B",
    "mistral-7b": "Mistral-7B",
    "falcon-7b": "Falcon-7B",
}


def places(systems: Sequence[str]) -> dict[str, int]:
    """For each system its place in ``PALETTE`` and ``MARKERS``, to be taken modulo their lengths."""
    free = (place for place in range(len(systems) + len(_PUBLISHED)) if place not in _PUBLISHED.values())
    return {system: _PUBLISHED[system] if system in _PUBLISHED else next(free) for system in dict.fromkeys(systems)}


def written(name: str) -> str:
    """How figures write the name of one of the paper's systems or models; any other name as it is."""
    return _WRITTEN.get(name, name)
