"""Covariance of fitted coefficients, the choice among a form's candidates included. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.least_squares import HUBER, Rows, Solution, ceilings


def uncertainty(chosen: Solution, solutions: Sequence[Solution], rows: Rows) -> tuple[Floats, Floats]:
    """Covariance for predictions and standard errors of the coefficients; see ``Fit``.

    Each candidate counts with its likelihood, as in model averaging. What another one predicts is expressed as the
    shift of the chosen one's coefficients that comes nearest to it.
    """
    scatter, limits = chosen.scatter, ceilings(chosen.form, rows)
    deviances = np.array([_deviance(solution.residuals / scatter, rows.share) for solution in solutions])
    likelihoods = np.exp(-(deviances - deviances.min()) / 2)
    likelihoods /= likelihoods.sum()
    covariance = covariance_given(chosen, rows, limits)
    variances = np.zeros(chosen.theta.size)
    relative = rows.design(chosen.form, chosen.theta) / rows.value[:, None] * limits
    for solution, likelihood in zip(solutions, likelihoods, strict=True):
        variances += likelihood * (
            np.diag(covariance_given(solution, rows, limits)) + (solution.theta - chosen.theta) ** 2
        )
        difference = solution.residuals - chosen.residuals
        shift = np.linalg.lstsq(relative / scatter[:, None], difference / scatter, rcond=1e-6)[0] * limits
        covariance += likelihood * np.outer(shift, shift)
    return covariance, np.sqrt(variances)


def _deviance(scaled: Floats, share: Floats) -> float:
    """−2 log likelihood of scaled residuals under Huber's distribution, up to a constant."""
    size = np.abs(scaled)
    return float(np.sum(share * np.where(size < HUBER, size**2, HUBER * (2 * size - HUBER))))


def covariance_given(solution: Solution, rows: Rows, limits: Floats) -> Floats:
    """Covariance of the coefficients given the candidate.

    It is that of the estimate without the bound at 0: a coefficient held at 0 keeps the uncertainty that put it
    there. Its scale comes from the residuals, so that it contains what the form can't follow. Directions that the
    points don't determine are limited by what non-negative costs allow: ``limits``, the ``ceilings``.
    """
    weights = np.sqrt(rows.share * solution.weights) / solution.scatter
    design = rows.design(solution.form, solution.theta) * (weights / rows.value)[:, None] * limits
    # Residuals corrected by leverage: a point that bends the model to itself doesn't hide the misfit.
    corrected = weights * solution.residuals / np.sqrt(1 - solution.leverage)
    scale = max(1.0, float(np.sum(corrected**2)) / rows.share.sum())
    # Not by the eigenvalues of design.T @ design: beside exact data, rounding would count as information there.
    stacked = np.vstack([design / np.sqrt(scale), np.eye(limits.size)])
    _, precisions, directions = np.linalg.svd(stacked, full_matrices=False)
    scaled = directions.T / precisions * limits[:, None]
    return np.asarray(scaled @ scaled.T)


def by_offsets(solution: Solution, rows: Rows, shares: Floats, covariance: Floats) -> Floats:
    """Covariance of the coefficients because what the sessions do isn't known exactly.

    ``shares`` (points, sessions) say how much of each point is of which session, ``covariance`` how well their
    differences are known. It matters where one session measured other sizes than another.
    """
    limits = ceilings(solution.form, rows)
    weights = np.sqrt(rows.share * solution.weights) / solution.scatter
    design = rows.design(solution.form, solution.theta) * (weights / rows.value)[:, None] * limits
    stacked = np.vstack([design, np.eye(limits.size)])
    shifts = np.linalg.pinv(stacked)[:, : weights.size] @ (weights[:, None] * shares[rows.point]) * limits[:, None]
    return np.asarray(shifts @ covariance @ shifts.T)
