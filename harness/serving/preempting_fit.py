"""Step costs and memory of an engine that sets sequences aside, fitted to the first requests of a log. Pure.

A log doesn't tell when a sequence was set aside. So step costs are fitted as if none were, and then scaled, with the
memory found in the log, until requests that are simulated take as long as those of the log.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.optimize import minimize

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.served.engine import Engine
from harness.modelling.served.engine_limits import EngineLimits
from harness.modelling.served.request_log import RequestLog
from harness.modelling.served.step_fit import StepFit, fit_steps
from harness.serving.preempting import simulate_preempting
from harness.serving.simulation import Requests

RECOMPUTED: Final = (0.0, 0.5, 1.0)
"""Shares of a context set aside that are tried."""
MOST_REPLAYS: Final = 60
_CORNERS: Final = ((0.0, 0.0), (-0.2, 0.0), (0.0, 0.08))
"""Logarithms of both factors to begin with."""


@dataclass(frozen=True)
class PreemptingFit:
    """An engine whose ``kv_tokens`` are given out as contexts grow."""

    fit: StepFit
    """Its covariance is that of costs as if nothing were set aside, at the same scale."""
    recomputed_share: float
    loss: float
    """Mean absolute logarithms of predicted over measured end-to-end time and time per output token, summed."""

    def replay(self, log: RequestLog) -> RequestLog:
        """What becomes of requests, of which only sizes and times queued are read."""
        return replay_preempting(self.fit.engine, log, self.recomputed_share)


def replay_preempting(engine: Engine, log: RequestLog, recomputed_share: float) -> RequestLog:
    """The times of a log's requests as the engine would have them."""
    counts = (values.astype(np.int64) for values in (log.input_tokens, log.output_tokens))
    done = simulate_preempting(engine, Requests(log.queued_s, *counts), recomputed_share)
    return replace(log, scheduled_s=done.start_s, first_token_s=done.first_token_s, last_token_s=done.end_s)


def fit_preempting(log: RequestLog, count: int, limits: EngineLimits) -> PreemptingFit:
    """Fit the first ``count`` requests of a log; of the others sizes and times queued are read.

    ``limits`` has the ``kv_tokens`` to begin with. Raises UserError as ``fit_steps``.
    """
    first = log.only(slice(0, count))
    plain = fit_steps(first, limits=limits)
    fits = []
    for share in RECOMPUTED:

        def loss(logs: Floats, share: float = share) -> float:
            try:
                done = replay_preempting(_scaled(plain.engine, logs), log, share).only(slice(0, count))
            except UserError:
                # A memory that is too small for one of the requests.
                return float("inf")
            pairs = (done.e2e_s, first.e2e_s), (done.tpot_s, first.tpot_s)
            return float(sum(np.nanmean(np.abs(np.log(ours / theirs))) for ours, theirs in pairs))

        found = minimize(
            loss, _CORNERS[0], method="Nelder-Mead", options={"maxfev": MOST_REPLAYS, "initial_simplex": _CORNERS}
        )
        scale = np.exp(found.x[0]) ** np.array([1, 1, 1, 0, 0, 0])
        covariance = plain.covariance * np.outer(scale, scale)
        fit = replace(plain, engine=_scaled(plain.engine, found.x), covariance=covariance)
        fits.append(PreemptingFit(fit, share, float(found.fun)))
    return min(fits, key=lambda each: each.loss)


def _scaled(engine: Engine, logs: Floats) -> Engine:
    """With costs of decoding and memory times the factors of these logarithms."""
    assert engine.kv_tokens is not None
    factor, room = np.exp(logs).tolist()
    costs = engine.seconds
    decoding = {name: factor * getattr(costs, name) for name in ("floor", "per_sequence", "per_context")}
    return replace(engine, seconds=replace(costs, **decoding), kv_tokens=round(room * engine.kv_tokens))
