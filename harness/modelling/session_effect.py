"""What the trials of one session share (temperature, clocks, a restart), told from several sessions. Pure.

The logarithm of what session s measured at point p is  form + u_p + b_s + noise,  with u_p ~ N(0, τ²) where the form
is off and b_s ~ N(0, σ²) what the session does to all its costs alike. σ is estimated by restricted likelihood (the
coefficients integrated out), on a grid, with a prior: two or three sessions alone say next to nothing of σ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.modelling.doubt import SessionEffect

PRIOR_SD, PRIOR_FREEDOM = 0.03, 4.0
"""σ before anything is known, and the degrees of freedom that it counts for."""
PRIOR_SOURCE = (
    "3 % between sessions (4 degrees of freedom): where both sweeps of G. Wilkins, S. Keshav and R. Mortier (2024) "
    "have the same size, the 11 pairs of system and model differ by 3.5 % (runtime) and 3.5 % (energy) root mean "
    "square, one pair of 14-17 % left out; a difference of two sessions has √2 of one's deviation"
)
LEVELS = np.geomspace(0.001, 0.5, 40)
MISFITS = np.geomspace(0.0005, 0.5, 16)


def of_one_session(shared_error: float = 0.0) -> SessionEffect:
    """The prior. ``shared_error`` is the relative standard deviation of what else all trials share."""
    return SessionEffect(float(np.hypot(np.sqrt(2) * PRIOR_SD, shared_error)), PRIOR_FREEDOM, 1, PRIOR_SOURCE)


@dataclass(frozen=True)
class Cells:
    """What each session measured at each point, one entry for each pair that there is."""

    point: NDArray[np.int64]
    session: NDArray[np.int64]
    """Number of the session, from 0."""
    cost: Floats
    noise: Floats
    """Relative standard error of each cost."""

    def of(self, points: NDArray[np.bool_]) -> Cells | None:
        """Of the chosen points, which are numbered anew; None where no more than one session is left."""
        kept = points[self.point]
        _, session = np.unique(self.session[kept], return_inverse=True)
        if session.size == 0 or session.max() == 0:
            return None
        number = np.cumsum(points) - 1
        return Cells(number[self.point[kept]], session, self.cost[kept], self.noise[kept])

    @property
    def shares(self) -> Floats:
        """Of each cell in the mean of its point once what the sessions do is known."""
        weight = 1 / np.maximum(self.noise, 1e-4) ** 2
        return np.asarray(weight / np.bincount(self.point, weight)[self.point])

    @property
    def weights(self) -> Floats:
        """``shares`` by point and session: shape (points, sessions)."""
        table = np.zeros((int(self.point.max()) + 1, self.sessions))
        np.add.at(table, (self.point, self.session), self.shares)
        return table

    @property
    def sessions(self) -> int:
        """How many."""
        return int(self.session.max()) + 1


@dataclass(frozen=True)
class Sessions:
    """How sessions differ."""

    effect: SessionEffect
    offsets: Floats
    """b_s, one a session."""
    covariance: Floats
    """Of their differences from their mean: what all share is in ``effect``."""


def tell_sessions(cells: Cells, predicted: Floats, design: Floats) -> Sessions:
    """The effect from the cells, positive costs ``predicted`` at each point and their relative derivatives
    (``design``)."""
    y = np.log(cells.cost / predicted[cells.point])
    z = np.eye(cells.sessions)[cells.session]
    x = design[cells.point]
    # Columns of unit length, and none that the others determine: only the span counts.
    scaled, values, _ = np.linalg.svd(x / np.maximum(np.linalg.norm(x, axis=0), 1e-300), full_matrices=False)
    columns = np.hstack([z, scaled[:, values > 1e-6 * values[0]], y[:, None]])
    found = [_given(columns, cells, tau, sigma) for tau in MISFITS for sigma in LEVELS]
    log = np.array([each[0] for each in found])
    likely = np.exp(log - log.max())
    likely /= likely.sum()
    offsets = likely @ np.array([each[1] for each in found])
    inside = np.tensordot(likely, np.array([each[2] for each in found]), axes=1)
    precision = np.tile(LEVELS, MISFITS.size) ** -2
    mean = float(likely @ precision)
    freedom = 2 * mean**2 / float(likely @ (precision - mean) ** 2)
    centre = np.eye(cells.sessions) - 1 / cells.sessions
    sd = float(np.sqrt((1 + 1 / cells.sessions) / mean))
    return Sessions(SessionEffect(sd, freedom, cells.sessions), offsets, centre @ inside @ centre)


def _given(columns: Floats, cells: Cells, tau: float, sigma: float) -> tuple[float, Floats, Floats]:
    """Log posterior density of (τ, σ), the offsets given them and their covariance (Henderson's equations)."""
    products, log_det = _whitened(columns, cells, tau)
    sessions, last = cells.sessions, columns.shape[1] - 1
    system = products[:last, :last].copy()
    system[:sessions, :sessions] += np.eye(sessions) / sigma**2
    inverse = np.linalg.inv(system)
    solution = inverse @ products[:last, last]
    squares = products[last, last] - solution @ products[:last, last]
    log = -(log_det + 2 * sessions * np.log(sigma) + np.linalg.slogdet(system)[1] + squares) / 2
    # The scaled inverse χ² prior of σ², on a grid even in log σ.
    log -= PRIOR_FREEDOM * (np.log(sigma) + (PRIOR_SD / sigma) ** 2 / 2)
    return float(log), solution[:sessions], np.asarray(inverse[:sessions, :sessions])


def _whitened(columns: Floats, cells: Cells, tau: float) -> tuple[Floats, float]:
    """columnsᵀ·W⁻¹·columns and log |W|, with W = diag(noise²) + τ² within each point (Sherman and Morrison)."""
    weight = 1 / np.maximum(cells.noise, 1e-4) ** 2
    scaled = columns * weight[:, None]
    points = int(cells.point.max()) + 1
    sums = np.zeros((points, columns.shape[1]))
    np.add.at(sums, cells.point, scaled)
    total = np.bincount(cells.point, weight, points)
    shrink = tau**2 / (1 + tau**2 * total)
    log_det = float(np.sum(np.log1p(tau**2 * total)) - np.sum(np.log(weight)))
    return columns.T @ scaled - (sums * shrink[:, None]).T @ sums, log_det
