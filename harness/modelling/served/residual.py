"""What a form leaves over at each number of requests in flight, interpolated between them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.core.arrays import Floats

SHRINKAGE = 0.5
"""Points that a left-over of nothing counts for: one point alone gives half of its own."""


@dataclass(frozen=True, eq=False)
class InFlightResidual:
    """Log of measured over the form's cost at some numbers of requests in flight; without any, there is none.

    It is interpolated in log c and constant beyond the first and the last.
    """

    concurrency: Floats = field(default_factory=lambda: np.empty(0))
    log: Floats = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, concurrency: Floats, log: Floats, weight: Floats) -> InFlightResidual:
        """From the left-overs of points, shrunk towards 0 where few points say so. Weights are at most 1."""
        levels, level = np.unique(concurrency, return_inverse=True)
        total = np.bincount(level, weight)
        return cls(levels, np.bincount(level, weight * log) / (total + SHRINKAGE))

    def factor(self, c: Floats | float) -> Floats:
        """What the form's cost is multiplied by with c in flight."""
        if not self.concurrency.size:
            return np.ones_like(np.asarray(c, dtype=float))
        return np.asarray(np.exp(np.interp(np.log(c), np.log(self.concurrency), self.log)))
