"""How single trials and requests scatter about the mean of their size, as a function of its cost. Pure.

A trial's value is the mean of q requests in one window. One new request differs from the mean of its size by what
sets trials apart (variance s², of the trials' values) and by what sets it apart from its own trial. With w² the
variance of the requests inside a window, s² holds w²/q of it already: in all s² + w²·(1 − 1/q).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

from harness.core.arrays import Floats
from harness.modelling.doubt import Scatter

LEAST_SPREAD = 1e-7
"""Relative; below it, values that agree to the last digit count as spread by so much."""
EXPONENTS = np.arange(0.3, 1.35, 0.1)
"""b tried; 1 is a constant relative spread, and likeliest before anything is known, less where short requests are
noisier: 0.9 ± 0.2."""
FREEDOMS = np.array([1.5, 3.0, 6.0, 15.0, 60.0])
"""How alike points are in their spread: ν0 of the scaled inverse χ² that their variances follow about a·cost^b."""
WITH_MEAN = 2.35
"""Least ν0 of a scatter that is added up with other sources of doubt: at 2 and below the mean of the variances is
infinite, and not much above it a sum of two is taken for much too small."""
_STEPS = 40
_EXPONENT_PRIOR = 0.9, 0.2
_SOURCE = (
    "one trial a point says nothing of its spread: that of the trials that G. Wilkins, S. Keshav and R. Mortier (2024) "
    "published, 198 points of both sweeps on 4 systems"
)
PUBLISHED_RUNTIME = Scatter(0.0021, 0.95, 2.35, _SOURCE)
"""0.21 % of 1 s, 0.17 % of 100 s."""
PUBLISHED_ENERGY = Scatter(0.070, 0.70, 2.35, _SOURCE)
"""3.5 % of 10 J, 0.9 % of 1 kJ: sensors tell the energy of short requests badly."""


@dataclass(frozen=True)
class Spreads:
    """Standard deviations seen at points, one entry per point; NaN where there is one trial only."""

    cost: Floats
    sd: Floats
    freedom: Floats
    """Degrees of freedom behind each ``sd``."""

    @property
    def known(self) -> Spreads:
        """Without the points that tell none."""
        told = np.isfinite(self.sd) & (self.freedom > 0)
        return Spreads(self.cost[told], self.sd[told], self.freedom[told])


def of_requests(trials: Spreads, count: Floats, requests: Floats, within: Floats) -> Spreads:
    """Spread of single requests about the mean of their size.

    From the spread of ``trials``, ``count`` at each point, each the mean of ``requests``; ``within`` is the standard
    deviation of single requests inside a trial, NaN where unknown: then there is nothing that it could be told from,
    and a trial's spread stands for a request's. The degrees of freedom of the sum are by Satterthwaite (1946).
    """
    inside = np.where(requests > 1, np.nan_to_num(within) ** 2 * (1 - 1 / requests), 0.0)
    between = np.nan_to_num(trials.sd) ** 2
    variance = between + inside
    degrees = [np.maximum(trials.freedom, 1e-9), np.maximum(count * (requests - 1), 1e-9)]
    parts = between**2 / degrees[0] + inside**2 / degrees[1]
    freedom = np.divide(variance**2, parts, out=trials.freedom.astype(float), where=parts > 0)
    told = np.isfinite(trials.sd) | (inside > 0)
    return Spreads(trials.cost, np.where(told, np.sqrt(variance), np.nan), np.where(told, freedom, 0.0))


def fit_scatter(spreads: Spreads, least_freedom: float = 0.0) -> Scatter | None:
    """sd = a·cost^b by the likelihood of the spreads, which follow F(f, ν0) about it; None where no point has any.

    ν0 is taken to be ``least_freedom`` at least.

    Moderated as in G. K. Smyth (2004), "Linear models and empirical Bayes methods", with a mean that depends on the
    cost. The parameters are means over their posterior distribution on a grid. The degrees of freedom are those of a
    new size's variance: ν0, and what all spreads together leave open.
    """
    known = spreads.known
    if not known.cost.size:
        return None
    reference = float(np.exp(np.mean(np.log(known.cost))))
    relative = np.maximum(known.sd / known.cost, LEAST_SPREAD)
    typical = np.sqrt(np.average(relative**2, weights=known.freedom))
    middle = np.sqrt(np.exp(np.average(np.log(relative**2), weights=known.freedom)))
    freedoms = np.maximum(FREEDOMS, least_freedom)
    levels = np.geomspace(middle / 10, typical * 10, _STEPS)
    level, exponent, freedom = (axis.ravel() for axis in np.meshgrid(levels, EXPONENTS, freedoms, indexing="ij"))
    log = _log_likelihood(known, relative, known.cost / reference, level, exponent, freedom)
    log = log - ((exponent - _EXPONENT_PRIOR[0]) / _EXPONENT_PRIOR[1]) ** 2 / 2
    likely = np.exp(log - log.max())
    likely /= likely.sum()
    b = float(likely @ exponent)
    sd = float(np.sqrt(likely @ level**2)) * reference
    inverse = float(likely @ (1 / freedom)) + 1 / float(known.freedom.sum())
    return Scatter(sd / reference**b, b, 1 / inverse)


def _log_likelihood(
    known: Spreads, relative: Floats, cost: Floats, level: Floats, exponent: Floats, freedom: Floats
) -> Floats:
    """Of each triple of parameters, of F-distributed ratios of variances; ``cost`` is over the reference."""
    half_f, half_0 = known.freedom / 2, freedom[:, None] / 2
    expected = 2 * (np.log(level)[:, None] + (exponent[:, None] - 1) * np.log(cost))
    ratio = 2 * np.log(relative) - expected
    scaled = np.log(known.freedom) - np.log(freedom)[:, None] + ratio
    density = half_f * scaled - (half_f + half_0) * np.logaddexp(0.0, scaled) - betaln(half_f, half_0)
    return np.asarray(density.sum(axis=1))


def moderated(spreads: Spreads, scatter: Scatter) -> Floats:
    """Standard deviation of each point's trials, of which ``scatter`` says what it would be by its cost alone.

    Few trials that agree by chance must not outweigh everything else.
    """
    told = np.where(np.isfinite(spreads.sd), spreads.freedom, 0.0)
    held = np.nan_to_num(spreads.sd) ** 2
    prior = min(scatter.freedom, 1e6)
    return np.asarray(np.sqrt((prior * scatter.sd(spreads.cost) ** 2 + told * held) / (prior + told)))
