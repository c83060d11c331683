"""What an engine's steps cost in joules, fitted to its energy over stretches of time whose steps are known. Pure.

    energy = P0·duration + e0·steps + e1·Σ b + e2·Σ contexts + e3·lone prompt steps + e4·Σ p + e5·Σ (v² − u²)

P0 is drawn all the time, and is the idle power. Gross energy of a step is its own and P0 times its seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.optimize import nnls

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.least_squares import HUBER
from harness.modelling.served.engine import Engine, StepCosts
from harness.modelling.served.step_rows import COEFFICIENTS

LEAST_STRETCHES: Final = 4
_ROUNDS: Final = 20
_FOLDS: Final = 8


@dataclass(frozen=True, eq=False)
class StepJoules:
    """Joules of an engine's steps beside its idle power, and how sure they are."""

    idle_power_w: float
    coefficients: Floats
    """Of ``COEFFICIENTS``, in J, beside the idle power."""
    covariance: Floats
    """Of the idle power and ``coefficients``, from leaving out every eighth stretch in turn: shape (7, 7)."""
    error: float
    """Mean absolute relative error of the energies of stretches left out."""

    def energy_j(self, duration_s: Floats, work: Floats) -> Floats:
        """Of stretches: their seconds, and how often each of ``COEFFICIENTS`` was paid in them."""
        return np.asarray(self.idle_power_w * duration_s + work @ self.coefficients)

    def applied_to(self, engine: Engine) -> Engine:
        """The engine with gross joules of its steps, and its idle power."""
        seconds = np.array([getattr(engine.seconds, name) for name in COEFFICIENTS])
        gross = dict(zip(COEFFICIENTS, (self.coefficients + self.idle_power_w * seconds).tolist(), strict=True))
        experts = self.idle_power_w * engine.seconds.experts
        joules: StepCosts = replace(engine.seconds, **gross, experts=experts)
        return replace(engine, joules=joules, idle_power_w=self.idle_power_w)


def fit_step_joules(
    energy_j: Floats, duration_s: Floats, work: Floats, idle_power_w: float | None = None
) -> StepJoules:
    """Fit energies of stretches, each with its seconds and its row of ``work`` (stretches, 6).

    The idle power is fitted too where it isn't given. Stretches may be intervals of one run or whole runs at several
    rates. Non-negative, on relative errors, robust. Raises UserError for too few stretches, and energies of 0 or less.
    """
    if len(energy_j) < LEAST_STRETCHES:
        raise UserError(f"{len(energy_j)} stretches can't tell what a step takes: give at least {LEAST_STRETCHES}")
    if not np.all(energy_j > 0):
        raise UserError("a stretch has no energy above 0: leave out those where power was not read")
    everything = _solve(energy_j, duration_s, work, idle_power_w)
    number = np.arange(len(energy_j)) % min(_FOLDS, len(energy_j))
    folds, errors = [], []
    for fold in range(int(number.max()) + 1):
        out = number == fold
        theta = _solve(energy_j[~out], duration_s[~out], work[~out], idle_power_w)
        folds.append(theta)
        errors.append(np.abs((theta[0] * duration_s[out] + work[out] @ theta[1:]) / energy_j[out] - 1))
    spread = np.array(folds) - np.mean(folds, axis=0)
    covariance = (len(folds) - 1) / len(folds) * spread.T @ spread
    return StepJoules(float(everything[0]), everything[1:], covariance, float(np.concatenate(errors).mean()))


def _solve(energy_j: Floats, duration_s: Floats, work: Floats, idle_power_w: float | None) -> Floats:
    """Idle power and coefficients."""
    design = np.column_stack([duration_s, work])
    known = np.zeros(len(energy_j))
    if idle_power_w is not None:
        known = idle_power_w * duration_s
        design = work
    relative, target = design / energy_j[:, None], 1 - known / energy_j
    weights = np.ones(len(energy_j))
    for _ in range(_ROUNDS):
        weighted = relative * weights[:, None]
        scale = np.linalg.norm(weighted, axis=0)
        scale[scale == 0] = 1.0
        theta = nnls(weighted / scale, target * weights)[0] / scale
        errors = np.abs(relative @ theta - target)
        scatter = max(float(np.median(errors)) / 0.6745, 1e-9)
        weights = np.sqrt(np.minimum(1.0, HUBER * scatter / np.maximum(errors, 1e-300)))
    return np.asarray(theta if idle_power_w is None else np.concatenate([[idle_power_w], theta]))
