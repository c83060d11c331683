"""How long the clients of a loop were kept from the processor: what came meanwhile is stamped too late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_EVERY_S = 0.005
_LATE_S = 0.005
"""Later than that a client has waited for more than the rounding of its loop's timers and a few answers of others."""


class Stalls:
    """Looks, every few milliseconds, how late the asyncio loop of this process is."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """``clock`` tells the time in ns."""
        self._clock = clock
        self.seconds = 0.0
        """Sum of all stalls so far."""

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            asleep_ns = self._clock()
            await asyncio.sleep(_EVERY_S)
            late_s = (self._clock() - asleep_ns) / 1e9 - _EVERY_S
            if late_s > _LATE_S:
                self.seconds += late_s
