"""Where the doubt in a predicted cost comes from: trials, the form, sessions, meters, one request's scatter. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.core.arrays import Floats

Source = Literal["trials", "model", "sessions", "meter", "scatter"]
"""``trials``: only so many were made. ``model``: what the form can't follow at sizes that were not measured.
``sessions``: what all trials of one session share (temperature, clocks, a restart). ``meter``: its gain. ``scatter``:
of one request about the mean of its size."""

MEAN: tuple[Source, ...] = ("trials", "model", "sessions", "meter")
"""What the interval of the mean cost of requests of one size holds: on another day, against a true meter."""
REQUEST: tuple[Source, ...] = (*MEAN, "scatter")
"""What the interval of the cost of one new request holds."""


LEAST_COST = 1e-30
"""A cost, in s or J, that is as good as none: powers know no 0."""


@dataclass(frozen=True)
class Misfit:
    """Relative standard deviation of true costs about the form: s0·√(1 + α·d²)·(cost / c0)^−β.

    d is the distance in octaves from a size to the nearest measured point, √(Δlog2(m)² + Δlog2(n)²), where octaves
    outside what was measured count more: see ``Range.octaves_away``.
    """

    sd: float
    """s0."""
    growth: float = 0.0
    """α, per octave²."""
    falloff: float = 0.0
    """β."""
    reference_cost: float = 1.0
    """c0, in the cost's unit."""
    freedom: float = math.inf
    """Degrees of freedom that the standard deviation is known to."""

    def relative_sd(self, distance: Floats, cost: Floats) -> Floats:
        """Relative standard deviation at sizes so many octaves from a measured one, of such costs."""
        level = self.sd * np.sqrt(1.0 + self.growth * np.square(distance))
        return np.asarray(level * (_amount(cost) / self.reference_cost) ** -self.falloff)


@dataclass(frozen=True)
class Scatter:
    """Standard deviation of single requests about the mean of their size: ``factor`` · cost^``exponent``."""

    factor: float
    """In the cost's unit, at a cost of 1."""
    exponent: float
    freedom: float = math.inf
    """Degrees of freedom that the standard deviation at a new size is known to."""
    prior: str | None = None
    """Where it comes from when the trials don't tell it; None where they do."""

    def sd(self, cost: Floats) -> Floats:
        """In the cost's unit."""
        return np.asarray(self.factor * _amount(cost) ** self.exponent)


NO_SCATTER = Scatter(0.0, 1.0)


@dataclass(frozen=True)
class SessionEffect:
    """Relative standard deviation of a new session's costs about those measured, alike for all sizes."""

    sd: float
    """σ·√(1 + 1/sessions), where σ is that of one session about the mean of all."""
    freedom: float = math.inf
    sessions: int = 1
    """How many the measurements are of."""
    prior: str | None = None
    """Where the standard deviation comes from when the sessions don't tell it; None where they do."""


def _amount(cost: Floats) -> Floats:
    """A cost that powers can be taken of, also where a form extrapolates to nothing or below."""
    return np.asarray(np.maximum(np.abs(cost), LEAST_COST))


def octaves_to_nearest(
    m: Floats, n: Floats, points: Iterable[tuple[float, float]], further: Sequence[float] = ()
) -> Floats:
    """√(Δlog2(m)² + Δlog2(n)²) to the nearest of the points (m, n), with the square of how far each is ``further``."""
    at = np.log2(np.asarray(list(points), dtype=float))
    log_m, log_n = np.log2(m), np.log2(n)
    nearest = np.full(np.shape(log_m), np.inf)
    # Point by point: all distances at once would take gigabytes for millions of sizes.
    for (point_m, point_n), more in zip(at, further or [0.0] * len(at), strict=True):
        np.minimum(nearest, (log_m - point_m) ** 2 + (log_n - point_n) ** 2 + more**2, out=nearest)
    return np.asarray(np.sqrt(nearest))


def shares(variances: Mapping[Source, float]) -> dict[Source, float]:
    """What part of the total variance each source has; empty where there is none."""
    total = sum(variances.values())
    return {source: variance / total for source, variance in variances.items()} if total > 0 else {}
