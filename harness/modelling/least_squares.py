"""Robust, non-negative least squares on relative residuals, for forms homogeneous in their coefficients. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from harness.core.arrays import Floats
from harness.modelling.forms.base import Form, Part, Sizes

HUBER = 1.345
"""Huber's constant: 95 % efficiency on normal residuals."""
NOISY = 0.3
"""Relative standard error of a point beyond which it hardly counts in the choice of a form."""
LEAST_SPREAD = 1e-9
"""Smallest relative spread about the model: data without any noise must not weigh infinitely."""
_ROUNDS = 40
_TOLERANCE = 1e-3
_SHORTEST_STEP = 1e-3


@dataclass(frozen=True)
class Rows:
    """Equations design·θ = value: one for each measured part of each point, grouped by part."""

    sizes: dict[Part, Sizes]
    kept: NDArray[np.bool_]
    """Which of ``sizes``' rows the other fields hold: a fold shares the sums over decode steps with the whole."""
    value: Floats
    noise: Floats
    point: NDArray[np.int64]
    request: NDArray[np.bool_]
    """Which rows are whole requests."""
    share: Floats
    """Weight of a row: 2/3 where request, prefill and decode say in three rows what two measurements know."""

    @property
    def judging(self) -> Floats:
        """Weight of a row where forms are compared: next to nothing for a disturbed one, which mustn't choose."""
        return np.asarray(self.share / (1 + (self.noise / NOISY) ** 4))

    def design(self, form: Form, theta: Floats) -> Floats:
        return np.vstack([form.design(theta, sizes, part) for part, sizes in self.sizes.items()])[self.kept]

    def without(self, points: int | NDArray[np.int64]) -> Rows:
        """Without the rows of a point, or of several."""
        others = ~np.isin(self.point, points)
        values = self.value[others], self.noise[others]
        return Rows(self.sizes, others, *values, self.point[others], self.request[others], self.share[others])


@dataclass(frozen=True)
class Solution:
    form: Form
    theta: Floats
    scatter: Floats
    """Relative standard deviation of each row about the model, the noise of its trials included."""
    weights: Floats
    """Robust weight of each row, 1 for a row in line with the others."""
    residuals: Floats
    """(predicted − measured) / measured."""
    leverage: Floats
    predicted_error: float
    """Mean absolute residual, each corrected by its leverage: what leaving out each row would give, to first order.
    Rows count by ``judging``."""


def solve(form: Form, rows: Rows, start: Floats | None) -> Solution:
    """Iteratively reweighted Gauss-Newton: each round weighs the points by what the last one left, then steps.

    A form is homogeneous of degree one, so the linearised problem is design(θ)·θ' ≈ value and each step is one
    (non-negative) linear least-squares problem, halved until the loss falls.
    """
    theta = _start(form, rows) if start is None else start
    freedom = max(rows.share.sum() - theta.size, 1) / rows.share.sum()
    design = rows.design(form, theta)
    residuals = design @ theta / rows.value - 1
    typical = float(np.median(rows.noise**2))
    for _ in range(_ROUNDS):
        scatter = _scatter(residuals, rows.noise, typical, freedom)
        robust = np.minimum(1, HUBER * scatter / np.maximum(np.abs(residuals), 1e-300))
        weights = np.sqrt(rows.share * robust) / scatter
        target = _linear(form, design, rows.value, weights)
        loss, step = np.sum((weights * residuals) ** 2), 1.0
        while step > _SHORTEST_STEP:
            reached = theta + step * (target - theta)
            reached_design = rows.design(form, reached)
            reached_residuals = reached_design @ reached / rows.value - 1
            if np.sum((weights * reached_residuals) ** 2) <= loss * (1 + 1e-12):
                break
            step /= 2
        else:
            break
        moved = np.abs(reached_residuals - residuals)
        theta, design, residuals = reached, reached_design, reached_residuals
        if np.all(moved <= _TOLERANCE * scatter):
            break
    scaled = design[:, theta != 0] * (weights / rows.value)[:, None]
    leverage = np.minimum(np.sum((scaled @ np.linalg.pinv(scaled.T @ scaled)) * scaled, axis=1), 0.999)
    predicted_error = float(np.average(np.abs(residuals) / (1 - leverage), weights=rows.judging))
    if form.is_plain_at(theta):
        # The plain form is a candidate too.
        predicted_error = np.inf
    return Solution(form, theta, scatter, robust, residuals, leverage, predicted_error)


def _start(form: Form, rows: Rows) -> Floats:
    """The solution of the plain form."""
    design = rows.design(form.plain, np.ones(len(form.coefficients("s"))))
    theta = _linear(form, design, rows.value, np.sqrt(rows.share))
    # A coefficient at 0 may have no derivative in another: begin just above.
    return theta if form.plain == form else np.maximum(theta, 1e-3 * ceilings(form, rows))


def _linear(form: Form, design: Floats, value: Floats, weights: Floats) -> Floats:
    """Coefficients that minimise the weighted relative residuals of design·θ ≈ value."""
    relative = design * (weights / value)[:, None]
    # Coefficients span ten orders of magnitude: solve for columns of unit length.
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1.0
    solve_scaled = nnls if form.non_negative else partial(np.linalg.lstsq, rcond=None)
    return np.asarray(solve_scaled(relative / scale, weights)[0] / scale)


def _scatter(residuals: Floats, noise: Floats, typical: float, freedom: float) -> Floats:
    """Of each row: its noise joined to what the median residual, of a normal distribution, has beyond the median noise.

    ``typical`` is the median of the noise squared. That spread about the model is at least ``LEAST_SPREAD``.
    """
    total = np.median(np.abs(residuals)) / (0.6745 * np.sqrt(freedom))
    spread = float(np.sqrt(max(total**2 - typical, LEAST_SPREAD**2)))
    return np.asarray(np.sqrt(spread**2 + noise**2))


def ceilings(form: Form, rows: Rows) -> Floats:
    """The largest value each coefficient could have: there it alone makes the whole cost of some point.

    It is 0 for a coefficient that no row contains, as decoding where only requests of 1 output token are left.
    """
    # Alone, a coefficient meets nothing that it could be joined to.
    design = np.abs(rows.design(form.plain, np.ones(len(form.coefficients("s")))))
    with np.errstate(divide="ignore"):
        largest = (rows.value[:, None] / design).min(axis=0)
    return np.where(np.isfinite(largest), largest, 0.0)
