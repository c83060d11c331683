"""A rough guess of how long requests take before anything is measured, for plans and time left. Pure.

The guess is a roofline: a forward pass reads every weight once or does two operations per weight and token,
whichever takes longer. The rates are typical of a device's kind, not of this machine; a live run corrects the
guess by what it has measured. Nothing here ever enters a result.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.base import Model
from harness.core.sizes import Point
from harness.measuring.plan import Plan

EXPECTED_TRIALS = 4
"""Counted trials that a point typically takes; used until the stopping rule decides."""


@dataclass(frozen=True)
class _Rates:
    bytes_per_s: float
    operations_per_s: float
    launch_s: float


_RATES = {
    "cpu": _Rates(2e10, 1.5e11, 2e-3),
    "mps": _Rates(1.5e11, 5e12, 5e-3),
    "metal": _Rates(1.5e11, 5e12, 1e-3),
    "cuda": _Rates(1e12, 1e14, 1e-2),
}


def request_s(model: Model, device: str, point: Point, *, kv_cache: bool, batch_size: int) -> float:
    """Guessed seconds of one request."""
    rates = _RATES.get(device.split(":")[0], _RATES["cpu"])

    def forward_s(tokens: float) -> float:
        operations = 2 * model.parameters * tokens * batch_size
        return rates.launch_s + max(model.weight_bytes / rates.bytes_per_s, operations / rates.operations_per_s)

    steps = point.output_tokens - 1
    mean_length = point.input_tokens + steps / 2
    return forward_s(point.input_tokens) + steps * forward_s(1 if kv_cache else mean_length)


def point_s(plan: Plan, one_request_s: float, trials: int) -> float:
    """Guessed seconds to measure a point with that many counted trials and its warm-up."""
    window_s = max(plan.min_window_s, one_request_s)
    return trials * window_s + max(one_request_s, min(1.0, plan.min_window_s))


def expected_trials(plan: Plan) -> int:
    """Counted trials a point is likely to take."""
    return min(plan.stopping.max_trials, EXPECTED_TRIALS)


def spell(duration_s: float) -> str:
    """A duration for people: ``40 s``, ``3 min``, ``2.5 h``."""
    if duration_s < 90:
        return f"{max(1, round(duration_s))} s"
    if duration_s < 5400:
        return f"{round(duration_s / 60)} min"
    return f"{duration_s / 3600:.1f} h"
