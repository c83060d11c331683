"""Means with their 95 % intervals. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtridf, stdtrit

from harness.core.arrays import Floats

Z95 = 1.959964
"""Half-width of the 95 % interval of a normal distribution, in its standard deviations."""
_TABLE = 4096


@dataclass(frozen=True)
class Estimate:
    """A mean with the half-width of its 95 % interval; None for a half-width nobody can know from one trial."""

    mean: float
    half_width: float | None

    def over(self, count: float) -> Estimate:
        """Both divided by a number above 0, such as a count of tokens."""
        return Estimate(self.mean / count, None if self.half_width is None else self.half_width / count)


def student_95(freedom: float) -> float:
    """Student's factor: mean ± factor · standard error covers 95 % at this many degrees of freedom."""
    return float(stdtrit(freedom, 0.975))


_SEQUENTIAL = {2: 1.0, 3: 1.04, 4: 1.3}
_SEQUENTIAL_LATER = 1.5


def sequential_95(trials: int) -> float:
    """Factor of the standard error in place of Student's where trials, at least 2, were repeated until the interval was
    narrow.

    Whoever stops as soon as ± t·s/√k is narrow stops when s happens to be small: at the end such intervals hold the
    mean in 90–94 % of cases (Chow and Robbins, 1965, have it for many trials). Rules that use these factors from the
    third trial on hold it in 95 %: found by simulating normal trials with limits of 4, 6, 10 and 25, for spreads from
    0.05 to 8 times the wanted half-width, the worst of which has 94.8 %. The third trial's factor is small because
    Student's is wide there; ``scripts/bench/coverage_stopping.py`` repeats the check, with heavier tails too.
    """
    return student_95(trials - 1) * _SEQUENTIAL.get(trials, _SEQUENTIAL_LATER)


def freedom_of(factor: float) -> float:
    """The degrees of freedom of which ``student_95`` is this factor; infinite from the normal one down."""
    return float(stdtridf(0.975, factor)) if factor > 1.96 else math.inf


def joined_error(sds: Sequence[Floats], freedoms: Sequence[float]) -> tuple[Floats, Floats]:
    """Standard deviation and degrees of freedom of a sum of independent errors, each a standard deviation known to its
    degrees of freedom (infinite ones too). Arrays broadcast; the degrees of the sum are by Satterthwaite (1946)."""
    total, inverse = _satterthwaite(sds, freedoms)
    return np.sqrt(total), np.divide(1.0, inverse, out=np.full_like(inverse, np.inf), where=inverse > 0)


def joined_95(sds: Sequence[Floats], freedoms: Sequence[float]) -> Floats:
    """Half-width of the 95 % interval of such a sum."""
    total, inverse = _satterthwaite(sds, freedoms)
    return np.asarray(_student_factors(inverse) * np.sqrt(total))


def _satterthwaite(sds: Sequence[Floats], freedoms: Sequence[float]) -> tuple[Floats, Floats]:
    """Variance of the sum, and the inverse of its degrees of freedom."""
    shape = np.broadcast_shapes(*(np.shape(sd) for sd in sds))
    total, inverse = np.zeros(shape), np.zeros(shape)
    for sd, freedom in zip(sds, freedoms, strict=True):
        variance = np.square(sd)
        total += variance
        inverse += np.square(variance) / freedom
    return total, np.divide(inverse, np.square(total), out=np.zeros(shape), where=total > 0)


def _student_factors(inverse: Floats) -> Floats:
    """Student's factors at so many degrees of freedom, given as their inverses; many of them from a table, to 1e-6."""
    if inverse.size <= _TABLE:
        with np.errstate(divide="ignore"):
            return np.asarray(stdtrit(1 / inverse, 0.975))
    known = np.linspace(0.0, float(inverse.max()), _TABLE)
    return np.interp(inverse, known, np.append(Z95, stdtrit(1 / known[1:], 0.975)))


def estimate(
    mean: float,
    sd: float | None,
    trials: int,
    sensors: float | None = None,
    sequential: bool = False,
    sessions: int = 1,
) -> Estimate:
    """The mean of ``trials`` values of standard deviation ``sd``, all in one unit, with its 95 % interval.

    ``sd`` is that within ``sessions``, each with a mean of its own, which takes a degree of freedom from it.
    ``sequential`` says that trials were repeated until this was narrow; see ``sequential_95``. ``sensors`` is the
    half-width that the sensors leave in a trial; repeating doesn't lessen it, so it is joined whole. The half-width is
    None where neither is known: one trial says nothing about its own spread.
    """
    parts = []
    if sd is not None and trials > sessions:
        factor = sequential_95(trials) if sequential else student_95(trials - sessions)
        parts.append(factor * sd / math.sqrt(trials))
    if sensors is not None:
        parts.append(sensors)
    return Estimate(mean, math.hypot(*parts) if parts else None)


def estimate_of(values: Sequence[float], sensors: float | None = None, sequential: bool = False) -> Estimate | None:
    """``estimate`` of the values themselves; None of no values."""
    if not values:
        return None
    sd = statistics.stdev(values) if len(values) > 1 else None
    return estimate(statistics.fmean(values), sd, len(values), sensors, sequential)


def half_width_95(values: Sequence[float], sequential: bool = False) -> float | None:
    """Half-width of the 95 % interval of the values' mean, in their unit; None for fewer than two."""
    found = estimate_of(values, sequential=sequential)
    return None if found is None else found.half_width
