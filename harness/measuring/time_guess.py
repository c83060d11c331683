"""A rough guess of how long requests take before anything is measured, for plans and time left. Pure.

The guess is a roofline: a forward pass reads every weight once or does two operations per weight and token,
whichever takes longer. The rates are typical of a device's kind, not of this machine; ``time_left`` corrects the
guess by what a run has measured. Nothing here ever enters a result.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.base import Model
from harness.core.sizes import Point


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


_UNKNOWN_PARAMETERS = 10**9
"""Of a served model of which its server doesn't say."""


@dataclass(frozen=True)
class RequestGuess:
    """Guesses how long the phases of a request take with one model on one kind of device."""

    model: Model
    device: str
    kv_cache: bool

    def prefill_s(self, input_tokens: float, concurrency: int = 1) -> float:
        """Guessed seconds of the forward pass over so many input tokens of each request in flight."""
        return self._forward_s(input_tokens * concurrency)

    def step_s(self, length: float, concurrency: int = 1) -> float:
        """Guessed seconds of one decode step of requests that are so many tokens long."""
        return self._forward_s((1 if self.kv_cache else length) * concurrency)

    def request_s(self, point: Point) -> float:
        """Guessed seconds of one request, as many in flight as the point says."""
        steps_s = (point.output_tokens - 1) * self.step_s(mean_length(point), point.concurrency)
        return self.prefill_s(point.input_tokens, point.concurrency) + steps_s

    def _forward_s(self, tokens: float) -> float:
        rates = _RATES.get(self.device.split(":")[0], _RATES["cpu"])
        model = self.model
        operations = 2 * (model.active_parameters or model.parameters or _UNKNOWN_PARAMETERS) * tokens
        # Two tokens or more may go to other experts each: all of these are read then.
        read_bytes = model.step_bytes if tokens == 1 else None
        weight_bytes = read_bytes or model.weight_bytes or 2 * _UNKNOWN_PARAMETERS
        return rates.launch_s + max(weight_bytes / rates.bytes_per_s, operations / rates.operations_per_s)


def mean_length(point: Point) -> float:
    """How long a sequence is in the middle of its decode, in tokens."""
    return point.input_tokens + (point.output_tokens - 1) / 2


def spell(duration_s: float) -> str:
    """A duration for people: ``40 s``, ``3 min``, ``2.5 h``."""
    if duration_s < 90:
        return f"{max(1, round(duration_s))} s"
    if duration_s < 5400:
        return f"{round(duration_s / 60)} min"
    return f"{duration_s / 3600:.1f} h"
