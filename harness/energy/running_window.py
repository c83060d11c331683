"""How sure the energy of a window is while it still runs."""

from __future__ import annotations

import time

from harness.energy import integrate
from harness.energy.meter import Meter

_LEAST_S, _MOST_S = 0.1, 1.0
"""Between two looks: they take time of a processor, and a window must not go on for much longer than it has to."""
_EARLY = 0.9


class RunningWindow:
    """Looks at a window in another process; as ``WorkerProcess.run`` takes it.

    ``precision`` is the relative 95 % half-width wanted of its energy.
    """

    def __init__(self, meter: Meter, precision: float) -> None:
        self._meter = meter
        self._precision = precision
        self._gives_up_s = meter.needed_window_s(precision)
        self._start_ns: int | None = None

    def begin(self) -> None:
        """The window begins now. Any further call says nothing."""
        if self._start_ns is None:
            self._start_ns = time.monotonic_ns()

    def __call__(self) -> float | None:
        """In how many seconds to look again; None once the readings so far are enough.

        Where they don't tell, it is enough after the time in which sensors of this kind usually are.
        """
        assert self._start_ns is not None
        passed_s = (time.monotonic_ns() - self._start_ns) / 1e9
        reached = self._reached()
        if reached is None:
            left_s = self._gives_up_s - passed_s
            return None if left_s <= 0 else min(max(left_s, _LEAST_S), _MOST_S / 4)
        if reached <= self._precision:
            return None
        # What the edges cost falls as 1/time, what is never seen more slowly.
        wanted_s = passed_s * (reached / self._precision - 1.0)
        return min(max(_EARLY * wanted_s, _LEAST_S), _MOST_S)

    def _reached(self) -> float | None:
        assert self._start_ns is not None
        try:
            now_ns = time.monotonic_ns()
            traces = self._meter.total_so_far(self._start_ns)
            return integrate.relative_half_width_so_far(traces, self._start_ns, now_ns)
        except Exception:
            # What is wrong with the readings is told when the window is attributed.
            return None
