"""One candidate of the served form fitted again and again to parts of the same points, quickly and robustly. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from harness.core.arrays import Floats
from harness.modelling.fit import Observations, equations
from harness.modelling.forms.base import Sizes
from harness.modelling.least_squares import Rows
from harness.modelling.served.cycle import COLUMNS, CycleForm

TOLERATED = 0.03
"""Relative residual up to which the loss is a square; beyond it grows as the amount does."""
ROUNDS = 30
SETTLED = 0.02
"""Change of a robust weight that is none."""


PHASE_WEIGHT = 0.5
"""Of a phase that is the whole cycle."""
BALANCE = 0.5
"""Power of the number of points at a number in flight by which they weigh less: 1 would have each such number count
once, 0 each point."""


def cycle_rows(cycles: Observations) -> Rows:
    """Every measured part of every cycle as an equation.

    A phase's error counts as what it makes of the cycle, which is what a fit is asked for.
    """
    rows = equations(cycles)
    part = np.minimum(rows.value / cycles.cost[rows.point], 1.0)
    share = np.where(rows.request, 1.0, PHASE_WEIGHT * part**2)
    _, level, count = np.unique(cycles.concurrency, return_inverse=True, return_counts=True)
    share *= (count[level] / count.mean())[rows.point] ** -BALANCE
    return replace(rows, share=share)


@dataclass(frozen=True)
class CycleEquations:
    """Relative and weighted: what ``solve`` of ``least_squares`` does, without a scale estimated from the residuals."""

    form: CycleForm
    point: NDArray[np.int64]
    design: Floats
    weight: Floats
    whole: Floats
    """Derivatives of every point's own cost."""

    @classmethod
    def of(cls, form: CycleForm, rows: Rows, sizes: Sizes) -> CycleEquations:
        """Equations ``rows``, to predict at ``sizes``."""
        any_ = np.ones(COLUMNS)
        weight = np.sqrt(rows.judging)
        design = rows.design(form, any_) / rows.value[:, None]
        return cls(form, rows.point, design, weight, form.design(any_, sizes))

    def coefficients(self, kept: NDArray[np.bool_]) -> Floats:
        """By the points that are kept."""
        rows = kept[self.point]
        design, weight = self.design[rows], self.weight[rows]
        scale = np.linalg.norm(design * weight[:, None], axis=0)
        scale[scale == 0] = 1.0
        design = design / scale
        robust = np.ones(weight.size)
        for _ in range(ROUNDS):
            weighted = weight * robust
            theta = nnls(design * weighted[:, None], weighted)[0]
            amount = np.abs(design @ theta - 1)
            if amount.max() <= TOLERATED:
                break
            before, robust = robust, np.sqrt(np.minimum(1.0, TOLERATED / np.maximum(amount, 1e-300)))
            if np.abs(robust - before).max() <= SETTLED:
                break
        return np.asarray(theta / scale)

    def costs(self, kept: NDArray[np.bool_]) -> Floats:
        """Cost at every point by the fit to those kept."""
        return np.asarray(self.whole @ self.coefficients(kept))
