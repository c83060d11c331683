"""What a check of stated 95 % intervals against known truths comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One kind of interval, over many draws."""

    name: str
    coverage: float
    """Share of draws whose interval holds the truth."""
    half_width: float
    """Median half-width, relative to the truth."""
    oracle_half_width: float
    """Median half-width of who knows the model and the noise, but not the phase of the sampling."""
    draws: int


Rows = Callable[[int, int], Iterable[Row]]
"""Makes rows from a number of draws for each and a seed."""


def row(
    name: str, errors: Sequence[float], half_widths: Sequence[float], oracle_half_widths: Sequence[float] | float
) -> Row:
    """The row of relative errors and half-widths, one a draw; an interval that isn't there (NaN) covers nothing."""
    error, half = np.abs(np.asarray(errors)), np.asarray(half_widths)
    oracle = float(np.median(oracle_half_widths))
    return Row(name, float(np.mean(error <= half)), float(np.nanmedian(half)), oracle, error.size)
