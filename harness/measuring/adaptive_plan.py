"""Sizes that are chosen while measuring, until the fitted costs are right enough: what such a run is told. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, replace

import numpy as np

from harness.core.errors import UserError
from harness.core.sizes import Point
from harness.core.wording import percent
from harness.modelling.interest import Interest, beside_powers
from harness.runs.run_schema import AdaptiveRecord

DEFAULT_ERROR = 0.02
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_LONGEST_S = 1e6


@dataclass(frozen=True)
class AdaptivePlan:
    """How right the costs are to be, over which sizes, and in how much time."""

    error: float
    """Mean relative error of the fitted costs at which it is enough."""
    inputs: tuple[int, int]
    """Fewest and most input tokens."""
    outputs: tuple[int, int]
    concurrencies: tuple[int, ...]
    """Requests in flight that were asked for; each has costs of its own."""
    budget_s: float | None = None
    """Seconds after which no further size is begun; None for as long as it takes."""
    traffic: tuple[tuple[int, int, float], ...] = ()
    """Input and output tokens and the number of such requests: the user's own, in place of a log grid."""
    drawn: tuple[Point, ...] = ()
    """The points that were drawn at random so far: they tell the error."""
    drawn_trials: tuple[int, ...] = ()
    """Number of trials that each of them is to have, in two visits."""

    def interest(self, context_length: int | None = None, most_in_flight: int | None = None) -> Interest:
        """The sizes that matter and that the model and its server can take. Raises UserError where none is left."""
        most = self.concurrencies[-1] if most_in_flight is None else most_in_flight
        asked = [c for c in self.concurrencies if c <= most]
        levels = sorted({*asked, *(c for c in beside_powers(asked[-1]) if c - 1 in asked)}) if asked else []
        if not levels:
            raise UserError(f"the server works on {most_in_flight} requests at once: ask for no more with -c")
        longest = math.inf if context_length is None else float(context_length)
        if not self.traffic:
            return Interest.grid(self.inputs, self.outputs, levels, longest)
        m, n, count = np.array(self.traffic, dtype=float).T
        return Interest.traffic(m, n, count, levels, longest)

    def with_drawn(self, point: Point, trials: int) -> AdaptivePlan:
        """The same with a further point drawn at random."""
        return replace(self, drawn=(*self.drawn, point), drawn_trials=(*self.drawn_trials, trials))

    def left_out(self, context_length: int | None) -> str | None:
        """In one line, what of the sizes asked for is longer than the model's context; None where nothing is."""
        if context_length is None:
            return None
        context = f"the model's context of {context_length} tokens"
        if not self.traffic:
            too_long = self.inputs[1] + self.outputs[1] > context_length
            return f"sizes of more tokens than {context} are left out of those that matter" if too_long else None
        m, n, count = np.array(self.traffic, dtype=float).T
        share = float(count[m + n > context_length].sum() / count.sum())
        return f"{percent(share)} of your requests are longer than {context}: they don't count" if share else None

    def record(self) -> AdaptiveRecord:
        """As it is stored with the run."""
        return AdaptiveRecord(
            error=self.error,
            budget_s=self.budget_s,
            inputs=self.inputs,
            outputs=self.outputs,
            concurrencies=self.concurrencies,
            traffic_sizes=len(self.traffic),
            traffic_sha256=hashlib.sha256(json.dumps(self.traffic).encode()).hexdigest() if self.traffic else None,
            drawn=tuple((point.input_tokens, point.output_tokens, point.concurrency) for point in self.drawn),
            drawn_trials=self.drawn_trials,
        )


def parse_error(text: str) -> float:
    """A relative error from ``2%`` or ``0.02``. Raises UserError."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text, re.ASCII)
    error = float(match[1]) / (100.0 if match[2] else 1.0) if match else 0.0
    if not 0.0005 <= error <= 0.5:
        raise UserError(f"--error {text}: write a relative error such as 2%, from 0.05% to 50%")
    return error


def parse_budget(text: str) -> float:
    """Seconds from ``10m``, ``90s`` or ``1.5h``. Raises UserError."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|m|min|h|)\s*", text, re.ASCII)
    budget_s = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 1.0 <= budget_s <= _LONGEST_S:
        raise UserError(f"--budget {text}: write a duration such as 90s, 10m or 1.5h")
    return budget_s
