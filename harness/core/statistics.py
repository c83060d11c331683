"""Means with their 95 % intervals. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit


def half_width_95(values: Sequence[float]) -> float | None:
    """Half-width of the Student-t 95 % confidence interval of the mean, in the values' unit.

    None for fewer than two values: one measurement says nothing about its own spread.
    """
    if len(values) < 2:
        return None
    t = float(stdtrit(len(values) - 1, 0.975))
    return t * statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Estimate:
    """A mean with the half-width of its 95 % interval; None for a half-width nobody can know from one trial."""

    mean: float
    half_width: float | None
