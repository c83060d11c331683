"""The static power of a system under load, derived from its fitted runtimes and energies. Pure.

It is reported, not modelled with: energy fitted directly is nearer to what is measured than static power plus tokens.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from harness.core.arrays import Floats
from harness.core.statistics import Estimate, joined_95
from harness.modelling.served.function import ServedFunction


def static_power_w(runtime: ServedFunction, energy: ServedFunction) -> Estimate | None:
    """P0 in W of energy of a cycle ≈ P0·runtime + e1·(prompt tokens) + e2·(output tokens), all at least 0.

    Both are taken as fitted at the measured points of the energy, by relative least squares. The interval holds what
    the trials leave open in both and the meters' gain, not that power is never exactly so. None where P0 comes out as 0
    or the points don't tell it.
    """
    m, n, c = energy.loads.points.T
    seconds, cycle = runtime.cost(m, n, c), energy.cost(m, n, c) * (c if energy.per_request else 1.0)
    parts = np.stack([seconds, c * m, c * (n - 1)], axis=1) / cycle[:, None]
    kept = nnls(parts / np.linalg.norm(parts, axis=0).clip(min=1e-300), np.ones(m.size))[0] > 0
    if not kept[0] or np.linalg.matrix_rank(parts[:, kept]) < kept.sum():
        return None
    # Of the coefficients, by the parts of each cycle that are left at right angles to the others.
    solve = np.linalg.pinv(parts[:, kept])
    found = solve @ np.ones(m.size)
    by_energy = solve[0] @ _relative(energy)
    by_runtime = (found[0] * solve[0] * seconds / cycle) @ _relative(runtime)
    sds = [np.sqrt(by_energy @ energy.covariance @ by_energy), np.sqrt(by_runtime @ runtime.covariance @ by_runtime)]
    trials = joined_95(sds, [energy.freedom, runtime.freedom])
    return Estimate(float(found[0]), float(np.hypot(trials, energy.gain_ci95 * found[0])))


def _relative(function: ServedFunction) -> Floats:
    """Derivatives of the log of the cost at the measured points with respect to the coefficients."""
    m, n, c = function.loads.points.T
    working = function.working(c)
    design = function.form.design(m, n, working)
    return np.asarray(design / (design @ function.coefficients)[:, None])
