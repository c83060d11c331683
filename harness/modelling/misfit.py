"""How far a form's costs are from the true ones at sizes that were not measured: from what leaving out shows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from harness.core.arrays import Floats
from harness.modelling.doubt import Misfit

LEVELS = np.geomspace(1e-5, 2.0, 62)
"""s0 tried, equally likely before anything is known, as are α and the degrees of freedom."""
GROWTHS = np.array([1.0, 2.5, 6.0, 15.0])
"""α tried, per octave². None below 1: on published grids even smooth fits are off by more away from their points."""
FALLOFFS = np.array([-0.1, 0.0, 0.1, 0.2, 0.3, 0.4])
"""β tried, 0.05 ± 0.15 before anything is known: short requests are noisier."""
FREEDOMS = np.array([2.0, 4.0, 10.0, 60.0])
"""Of the Student distribution of the errors, from heavy tails to nearly a normal one."""
SURENESS = 0.78
"""Quantile of the posterior distribution of s0 that is taken, 0.8 standard deviations up: few errors may be small
by chance."""
_FALLOFF_PRIOR = 0.05, 0.15
_CHUNK = 1 << 22
MOST = 3.0
"""Largest error that counts: four times the prediction."""


@dataclass(frozen=True)
class HeldOutErrors:
    """Predictions of points by fits without them, one entry for each point in each such fit."""

    error: Floats
    """(measured − predicted) / predicted, as an interval about the prediction has it."""
    distance: Floats
    """Octaves to the nearest point that was fitted."""
    cost: Floats
    """Predicted."""
    variance: Floats
    """Of ``error`` from the point's own trials, as far as that is known."""
    weight: Floats
    """One over the number of fits that leave the point out, so that each point counts once."""


def every_error(parts: Sequence[HeldOutErrors], folds: Sequence[NDArray[np.bool_]]) -> HeldOutErrors:
    """All that can be judged, each point with the same weight; ``folds`` say which points each part left out."""
    points = np.concatenate([np.flatnonzero(fold) for fold in folds])
    every = [np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])]
    known = np.logical_and.reduce([np.isfinite(each) for each in every])
    times = np.bincount(points[known], minlength=points.max() + 1)
    error, distance, cost, variance, _ = (each[known] for each in every)
    return HeldOutErrors(error, distance, cost, variance, 1 / times[points[known]])


def fit_misfit(left_out: HeldOutErrors) -> Misfit:
    """The misfit as a function of size, by the likelihood of the errors under Student's distribution.

    α, β and the degrees of freedom are means over the posterior distribution on a grid, for the few errors of a small
    design leave them open; s0 is its ``SURENESS`` quantile. The misfit is known to no more degrees of freedom than
    there are points.
    """
    if not left_out.cost.size:
        return Misfit(MOST, freedom=float(FREEDOMS[0]))
    reference = float(np.exp(np.average(np.log(left_out.cost), weights=left_out.weight)))
    grid = np.meshgrid(LEVELS, GROWTHS, FALLOFFS, FREEDOMS, indexing="ij")
    level, growth, falloff, tails = (axis.ravel() for axis in grid)
    log = _log_likelihood(left_out, reference, level, growth, falloff, tails)
    log = log - ((falloff - _FALLOFF_PRIOR[0]) / _FALLOFF_PRIOR[1]) ** 2 / 2
    likely = np.exp(log - log.max())
    likely /= likely.sum()
    # Of the inverse, since intervals are about in proportion to 1/ν.
    inverse = float(likely @ (1 / tails)) + 1 / max(float(left_out.weight.sum()), 1.0)
    below = np.cumsum(likely.reshape(LEVELS.size, -1).sum(axis=1))
    return Misfit(
        sd=float(np.exp(np.interp(SURENESS, below, np.log(LEVELS)))),
        growth=float(likely @ growth),
        falloff=float(likely @ falloff),
        reference_cost=reference,
        freedom=1 / inverse,
    )


def _log_likelihood(
    left: HeldOutErrors, reference: float, level: Floats, growth: Floats, falloff: Floats, tails: Floats
) -> Floats:
    error = np.clip(left.error, -MOST, MOST) ** 2
    constant = gammaln((tails + 1) / 2) - gammaln(tails / 2) - np.log(tails * np.pi) / 2
    total = np.empty(level.size)
    log_cost, near = np.log(left.cost / reference), left.distance**2
    step = max(1, _CHUNK // error.size)
    for start in range(0, level.size, step):
        part = slice(start, start + step)
        s2 = level[part, None] ** 2 * (1 + growth[part, None] * near) * np.exp(-2 * falloff[part, None] * log_cost)
        s2 += left.variance
        nu = tails[part, None]
        density = -np.log(s2) / 2 - (nu + 1) / 2 * np.log1p(error / (s2 * nu))
        total[part] = density @ left.weight + constant[part] * left.weight.sum()
    return total
