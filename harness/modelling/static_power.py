"""The part of a machine's power that doesn't depend on what it computes, derived from points under load. Pure.

Energy under load is fitted directly; this is for reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from harness.core.statistics import Estimate, student_95
from harness.modelling.profile_schema import Measurement

_COLUMNS = 3


def static_power(points: Sequence[Measurement]) -> Estimate | None:
    """P in watts of E = P·R/c + e_m·m + e_n·n, of a request with c in flight, by non-negative least relative squares.

    None where the points don't tell it: fewer than five have an energy, or the best P is 0.
    """
    rows = [
        (p.runtime_s.mean / p.concurrency, p.input_tokens, p.output_tokens, p.energy_j.mean)
        for p in points
        if p.energy_j is not None
    ]
    freedom = len(rows) - _COLUMNS
    if freedom < 2:
        return None
    table = np.array(rows)
    design = table[:, :_COLUMNS] / table[:, _COLUMNS:]
    scale = np.linalg.norm(design, axis=0)
    found, residual = nnls(design / scale, np.ones(len(rows)))
    used = found > 0
    if not used[0]:
        return None
    covariance = np.linalg.pinv((design / scale)[:, used].T @ (design / scale)[:, used]) * residual**2 / freedom
    return Estimate(float(found[0] / scale[0]), float(student_95(freedom) * np.sqrt(covariance[0, 0]) / scale[0]))
