"""What measuring at a size would do for the fitted cost at the sizes that matter: the I-optimal criterion. Pure.

The criterion is that of Atkinson, Donev and Tobias, "Optimum Experimental Designs, with SAS" (2007), section 10.6: the
mean variance of prediction over a region, here of relative errors. A point's gain is what it takes off that variance.
"""

from __future__ import annotations

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.forms.base import Form, Sizes
from harness.modelling.least_squares import Rows, Solution, ceilings


def gains(solution: Solution, rows: Rows, at: Sizes, interest: Sizes, weight: Floats) -> Floats:
    """By how much one more measured point at each of ``at`` lessens the mean variance over ``interest``: (sizes,).

    Variances are of relative errors. ``weight`` is that of each size of interest.
    """
    form, theta = solution.form, solution.theta
    # A coefficient is known to within the largest value that it could have, also where no point determines it.
    limits = ceilings(form, rows)
    known = rows.design(form, theta) / rows.value[:, None] * limits
    weights = rows.share / solution.scatter**2
    covariance = np.linalg.inv((known * weights[:, None]).T @ known + np.eye(limits.size))
    new = _relative(form, theta, at) * limits
    matter = _relative(form, theta, interest) * limits
    spread = covariance @ new.T
    mean_square = (matter * weight[:, None]).T @ matter
    noise = float(np.median(solution.scatter)) ** 2
    lessened = np.einsum("ij,ij->j", spread, mean_square @ spread)
    return np.asarray(lessened / (noise + np.einsum("ij,ji->i", new, spread)))


def _relative(form: Form, theta: Floats, sizes: Sizes) -> Floats:
    """Derivatives of the log of the cost."""
    design = form.design(theta, sizes)
    cost = design @ theta
    return np.asarray(design / np.maximum(cost, 1e-12 * cost.max(initial=1e-300))[:, None])
