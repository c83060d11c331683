"""When a loop of requests that overlap began to fill, was full, and ran dry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.core.errors import UserError


@dataclass(frozen=True)
class LoopMarks:
    """The parts of a loop, in CLOCK_MONOTONIC ns.

    It ramps up until ``window_start_ns``, when all clients are busy; until ``window_end_ns``, when the first would go
    idle, it counts; then it drains.
    """

    ramp_start_ns: int
    window_start_ns: int
    window_end_ns: int
    drain_end_ns: int
    requests: float
    """Requests inside the window, those that cross its edges by the share of their tokens inside."""

    @property
    def edges_ns(self) -> tuple[int, int, int, int]:
        return self.ramp_start_ns, self.window_start_ns, self.window_end_ns, self.drain_end_ns

    def check(self) -> None:
        """Raises UserError for marks that are out of order or of no requests."""
        whole = all(isinstance(edge, int | np.integer) for edge in self.edges_ns)
        if not whole or (np.diff(self.edges_ns) < 0).any() or self.window_start_ns == self.window_end_ns:
            raise UserError(
                "marks of a loop must be whole nanoseconds in order: start of the ramp, of the window, end of the "
                "window, of the drain; and the window needs a length"
            )
        if not (math.isfinite(self.requests) and self.requests > 0.0):
            raise UserError(f"a loop's window needs requests inside, not {self.requests}")
