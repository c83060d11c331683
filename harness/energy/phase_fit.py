"""Generalised least squares of readings on phases, and each phase's energy from them. Pure.

The noise of readings has two parts of known shape: fluctuations of power, and unsure times with rounding. How much of
it is the one and how much the other is chosen by restricted likelihood (Patterson and Thompson, Biometrika 1971), and
what is known of coefficients beforehand enters as normal priors. An integral over all of a phase is predicted from its
mean power and from the fluctuations that readings saw: universal kriging (Cressie, Statistics for Spatial Data, 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded

from harness.core.arrays import Floats

_POWER_SHARES = (0.002, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.998, 0.9998, 0.99998)
"""Of the noise's variance the part that fluctuations of power may cause."""
_ROWS_TO_CHOOSE = 1000
"""So many readings suffice to choose it."""
_LEAST = 1e-4
"""No reading's fluctuations are less than so much of the mean reading's: two updates may lie close together."""


@dataclass(frozen=True)
class Prior:
    """Normal priors of coefficients; all of shape (columns,)."""

    means: Floats
    sds: Floats


@dataclass(frozen=True)
class Noise:
    """Shapes of the readings' covariance, as upper bands whose last row is the diagonal; mean 1 on it."""

    by_power: Floats
    by_time: Floats
    counted: Floats
    """Which readings tell how large the noise is: 1.0 for those in a window, 0.0 where a machine at rest has none."""
    least: float
    """Variance that a reading has at least: no fit is better than that."""

    @classmethod
    def of(cls, by_power: Floats, by_time: Floats, counted: Floats, least: float) -> Noise:
        """From bands of any scale."""
        power = by_power / by_power[-1].mean()
        power[-1] = np.maximum(power[-1], _LEAST)
        return cls(power, by_time / by_time[-1].mean(), counted, least)

    def joined(self, power_share: float, first: int) -> Floats:
        """The band of the first readings' covariance."""
        depth = max(self.by_power.shape[0], self.by_time.shape[0])
        band = np.zeros((depth, first))
        band[depth - self.by_power.shape[0] :] += power_share * self.by_power[:, :first]
        band[depth - self.by_time.shape[0] :] += (1.0 - power_share) * self.by_time[:, :first]
        band[-1] *= 1.0 + 1e-6  # for the sake of the factorisation
        return band


@dataclass(frozen=True)
class PhaseFit:
    """A fit for one division of the noise. V is the covariance but for the factor ``variance``."""

    factor: Floats
    solved: Floats
    """V⁻¹·X."""
    precision: Floats
    """Xᵀ·V⁻¹·X with the priors'."""
    coefficients: Floats
    residuals: Floats
    """V⁻¹·(y − X·β)."""
    variance: float
    spread: Floats
    """V's diagonal."""
    freedom: float
    likelihood: float
    """Logarithm of the restricted likelihood by reading, in mean readings, so that fits to fewer readings compare."""
    choice: int
    """Which division of the noise."""

    @property
    def power_share(self) -> float:
        return _POWER_SHARES[self.choice]

    def predicted(self, wanted: Floats, with_readings: Floats, own: Floats) -> tuple[Floats, Floats]:
        """Integrals of power and the covariance of their errors, in J and J².

        ``wanted`` is what each takes of the coefficients, shape (columns, k). Their own fluctuations' covariance, shape
        (k, k), and that with the readings', shape (n, k), are in V's scale.
        """
        joules = wanted.T @ self.coefficients + with_readings.T @ self.residuals
        untold = wanted - self.solved.T @ with_readings
        seen = with_readings.T @ cho_solve_banded((self.factor, False), with_readings, check_finite=False)
        covariance = own - seen + untold.T @ np.linalg.solve(self.precision, untold)
        return joules, (1.0 + self._alike()) * self.variance * covariance

    def telling(self, wanted: Floats, with_readings: Floats, apart: Floats) -> float:
        """How many readings tell what is wanted, in the combination ``apart``, shape (k,), as far as its trend goes.

        Where these are few their own errors count and not those of all readings: Kish's effective number of weights.
        """
        trend = np.linalg.solve(self.precision, (wanted - self.solved.T @ with_readings) @ apart)
        told = (self.solved @ trend) ** 2 * self.spread
        fourth = float(told @ told)
        return float(told.sum()) ** 2 / fourth if fourth > 0.0 else math.inf

    def _alike(self) -> float:
        """How alike neighbouring residuals are, where the noise's shape doesn't say it: 0 to 1.

        A request's power may be above the mean throughout; the errors of its edges then go together.
        """
        depth = self.factor.shape[0] - 1
        white = self.factor[-1] * self.residuals
        for apart in range(1, depth + 1):
            white[:-apart] += self.factor[depth - apart, apart:] * self.residuals[apart:]
        square = float(white @ white)
        return min(max(float(white[1:] @ white[:-1]) / square, 0.0), 1.0) if square > 0.0 else 0.0


def best_fit(
    design: Floats, values: Floats, noise: Noise, prior: Prior, variance: float, near: int | None = None
) -> PhaseFit:
    """The most likely division of the noise: of all, or going uphill from the one at ``near``.

    ``variance`` is roughly what V's factor will be.
    """
    precision = variance / prior.sds**2
    first = min(values.size, _ROWS_TO_CHOOSE)
    tried: dict[int, PhaseFit] = {}

    def fit(choice: int, rows: int) -> PhaseFit:
        band = noise.joined(_POWER_SHARES[choice], rows)
        most = float(noise.counted[:rows].sum())
        return _fit(design[:rows], values[:rows], band, prior.means, precision, choice, (most, noise.least))

    def likelihood(choice: int) -> float:
        if choice not in tried:
            tried[choice] = fit(choice, first)
        return tried[choice].likelihood

    choices: Sequence[int] = range(len(_POWER_SHARES))
    best = max(choices, key=likelihood) if near is None else near
    while near is not None:
        best = max((each for each in (best - 1, best, best + 1) if each in choices), key=likelihood)
        if best == near:
            break
        near = best
    return tried[best] if first == values.size else fit(best, values.size)


def _fit(
    design: Floats,
    values: Floats,
    band: Floats,
    means: Floats,
    precision: Floats,
    choice: int,
    scale: tuple[float, float],
) -> PhaseFit:
    """``scale``: how many readings tell the noise's variance, and its least."""
    most, least = scale
    factor = cholesky_banded(band, check_finite=False)
    both = cho_solve_banded((factor, False), np.column_stack((design, values)), check_finite=False)
    solved, weighted = both[:, :-1], both[:, -1]
    told = design.T @ solved
    known = told + np.diag(precision)
    inverse = np.linalg.inv(known)
    coefficients = inverse @ (design.T @ weighted + precision * means)
    residuals = weighted - solved @ coefficients
    square = float(residuals @ (values - design @ coefficients) + precision @ (coefficients - means) ** 2)
    freedom = max(most - float(np.sum(inverse * told)), 1.0)
    variance = max(square / freedom, least, 1e-300)
    # Of readings without any noise the prior's precision may be all but 0.
    informed = np.log(np.maximum(precision, 1e-300)).sum()
    logs = 2.0 * float(np.log(factor[-1]).sum()) + float(np.linalg.slogdet(known)[1] - informed)
    relative = variance / float(np.mean(values)) ** 2
    likelihood = -0.5 * (logs + values.size * math.log(relative) + square / variance) / values.size
    return PhaseFit(factor, solved, known, coefficients, residuals, variance, band[-1], freedom, likelihood, choice)
