"""When a loop of requests that overlap began to fill, was full, and ran dry; and when each request's tokens came."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError


def _none() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class LoopLog:
    """Every request of a loop, those of the ramp and the drain included; times are CLOCK_MONOTONIC ns.

    The first five arrays have one entry per request. The output of request i came in the pieces
    ``token_ns[token_at[i] : token_at[i + 1]]``, with as many tokens as ``token_counts`` says of each.
    """

    client: NDArray[np.int64] = field(default_factory=_none)
    number: NDArray[np.int64] = field(default_factory=_none)
    start_ns: NDArray[np.int64] = field(default_factory=_none)
    first_token_ns: NDArray[np.int64] = field(default_factory=_none)
    end_ns: NDArray[np.int64] = field(default_factory=_none)
    token_at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    token_ns: NDArray[np.int64] = field(default_factory=_none)
    token_counts: NDArray[np.int64] = field(default_factory=_none)

    def check(self) -> None:
        """Raises UserError for arrays that are not of whole numbers or don't fit together."""
        arrays = {each.name: np.asarray(getattr(self, each.name)) for each in fields(self)}
        whole = all(array.ndim == 1 and array.dtype.kind in "iu" for array in arrays.values())
        alike = {arrays[name].size for name in ("client", "number", "start_ns", "first_token_ns", "end_ns")}
        at, pieces = arrays["token_at"], arrays["token_ns"].size
        fits = whole and alike == {at.size - 1} and pieces == arrays["token_counts"].size
        if not fits or at[0] != 0 or at[-1] != pieces or (np.diff(at) < 0).any():
            raise UserError("the log of a loop must be arrays of whole numbers that fit together: see LoopLog")


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
    log: LoopLog = field(default_factory=LoopLog)

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
        self.log.check()
