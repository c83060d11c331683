"""What an engine's steps cost, fitted to a log of its requests. Pure.

The times from first to last token and from scheduled to first token are fitted together on relative errors,
non-negative, each kind with its own scatter and weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import nnls

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.least_squares import HUBER
from harness.modelling.served.engine import Engine, StepCosts
from harness.modelling.served.engine_limits import EngineLimits, found_limits
from harness.modelling.served.request_log import RequestLog
from harness.modelling.served.step_rows import COEFFICIENTS, StepRows

CHUNKS: Final = (2048, 256, 512, 1024, 4096, 8192, 16384)
"""Tokens of a step that are tried where the engine's are not known; of equally good ones the first."""
LAGS: Final = (0, 1)
LEAST_REQUESTS: Final = 12
REPLAYS: Final = 3
Replay = Callable[[Engine, RequestLog], RequestLog]
"""What becomes of requests, of which only sizes and times queued are read, at an engine."""
_ROUNDS: Final = 12
_FOLDS: Final = 8
_FIRST_WEIGHT: Final = 0.1
"""Of a prompt's row against one of decoding, before their scatter is known."""
_LEAST_SCATTER: Final = 1e-6


@dataclass(frozen=True)
class StepFit:
    """Step costs of an engine, and how sure they are."""

    engine: Engine
    covariance: Floats
    """Of ``COEFFICIENTS``, from leaving out stretches of the log in turn: shape (6, 6)."""
    lag_steps: int
    """Steps that the engine schedules ahead."""
    requests: int
    """How many were fitted."""
    decode_misfit: float
    """Mean absolute relative error of the times from first to last token."""
    prefill_misfit: float
    """The same of the times from scheduled to first token."""

    @property
    def coefficients(self) -> Floats:
        """In the order of ``COEFFICIENTS``."""
        return np.array([getattr(self.engine.seconds, name) for name in COEFFICIENTS])

    def work(self, log: RequestLog, edges_s: Floats) -> Floats:
        """How often each of ``COEFFICIENTS`` was paid between times of a log: shape (edges − 1, 6)."""
        engine = self.engine
        rows = StepRows(log, log, engine.chunk_tokens or CHUNKS[0], self.lag_steps)
        steps = rows.first_steps()
        for _ in range(_ROUNDS):
            steps = rows.steps(self.coefficients, steps)
        return rows.work(steps, edges_s)

    @property
    def standard_errors(self) -> Floats:
        """Of ``coefficients``."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


def fit_steps(log: RequestLog, *, beside: RequestLog | None = None, limits: EngineLimits | None = None) -> StepFit:
    """Fit ``log``'s requests; those of ``beside`` were in the engine too, but their times are not fitted.

    What is in neither counts as absent. Limits that aren't given are found where the log shows them. Raises UserError
    for too few requests.
    """
    if len(log) < LEAST_REQUESTS:
        raise UserError(f"{len(log)} requests can't tell what a step costs: fit a log of at least {LEAST_REQUESTS}")
    if not np.any(log.output_tokens > 1):
        raise UserError("every request has 1 output token: a log of requests with more tells what decoding costs")
    limits = found_limits(log) if limits is None else limits
    rows = StepRows(log, log if beside is None else log.joined(beside))
    chunks = CHUNKS if limits.chunk_tokens is None else (limits.chunk_tokens,)
    tried = [rows.with_passes(chunk, lag) for chunk in chunks for lag in LAGS]
    solved = [_solve(each) for each in tried]
    best = min(range(len(tried)), key=lambda at: solved[at].loss)
    folds = np.array([_solve(tried[best].without(fold, _FOLDS)).theta for fold in range(_FOLDS)])
    spread = folds - folds.mean(axis=0)
    floor, sequence, context, prompt, token, token2 = map(float, solved[best].theta)
    costs = StepCosts(floor, sequence, context, prompt, token, token2)
    return StepFit(
        engine=Engine(costs, slots=limits.slots, chunk_tokens=tried[best].chunk, kv_tokens=limits.kv_tokens),
        covariance=(_FOLDS - 1) / _FOLDS * spread.T @ spread,
        lag_steps=tried[best].lag,
        requests=len(log),
        decode_misfit=solved[best].decode_misfit,
        prefill_misfit=solved[best].prefill_misfit,
    )


def fit_first_requests(log: RequestLog, count: int, replay: Replay, limits: EngineLimits | None = None) -> StepFit:
    """Fit the first ``count`` requests without the times of the others.

    Of those only sizes and times queued are read: what they do in the engine beside the first is replayed with the
    costs of the last round. Raises UserError as ``fit_steps``.
    """
    first = log.only(slice(0, count))
    fit = fit_steps(first, limits=limits)
    for _ in range(REPLAYS):
        beside = replay(fit.engine, log).only(slice(count, None))
        fit = fit_steps(first, beside=beside, limits=limits)
    return fit


@dataclass(frozen=True)
class _Solution:
    theta: Floats
    loss: float
    decode_misfit: float
    prefill_misfit: float


def _solve(rows: StepRows) -> _Solution:
    """Rounds of weighted, non-negative least squares; each counts the steps by the costs of the last."""
    steps = rows.first_steps()
    weights: Floats | None = None
    for _ in range(_ROUNDS):
        equations = rows.equations(steps)
        kinds = [equations.of_decoding, ~equations.of_decoding]
        if weights is None:
            weights = np.where(equations.of_decoding, 1.0, _FIRST_WEIGHT)
        relative = equations.design / equations.value[:, None]
        weighted = relative * weights[:, None]
        scale = np.linalg.norm(weighted, axis=0)
        scale[scale == 0] = 1.0
        theta = np.asarray(nnls(weighted / scale, weights)[0] / scale)
        errors = np.abs(relative @ theta - 1)
        scatter = np.ones_like(errors)
        for kind in kinds:
            if kind.any():
                scatter[kind] = max(float(np.median(errors[kind])) / 0.6745, _LEAST_SCATTER)
        weights = np.sqrt(np.minimum(1.0, HUBER * scatter / np.maximum(errors, 1e-300))) / scatter
        steps = rows.steps(theta, steps)
    misfits = [float(errors[kind].mean()) if kind.any() else np.nan for kind in kinds]
    # The log-likelihood of Laplace's distribution, but for its sign and what all fits share.
    counts = [int(kind.sum()) for kind in kinds]
    loss = sum(n * np.log(max(misfit, _LEAST_SCATTER)) for n, misfit in zip(counts, misfits, strict=True) if n)
    return _Solution(theta, float(loss), *misfits)
