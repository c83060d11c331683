"""How far another machine's CLOCK_MONOTONIC is ahead of ours, from round trips. Pure.

A clock that was read between a request's departure and its answer's arrival is ahead by no less than its reading − the
arrival and by no more than its reading − the departure: the quicker the trip, the closer the bounds (NTP, RFC 5905,
section 8, with the bounds in place of their middle). Clocks drift, so that bounds widen with age.
"""

from __future__ import annotations

from collections import deque

_DRIFT = 5e-4
"""Most by which one clock runs faster than the other: NTP slews a clock by 500 ppm at most."""
_KEPT = 64


class ClockJumped(Exception):
    """The other clock contradicts itself: it was stopped or set, or is another machine's by now."""


class ClockOffset:
    """Keeps the latest round trips. All times are ns."""

    def __init__(self) -> None:
        self._trips: deque[tuple[int, int, int]] = deque(maxlen=_KEPT)

    def add(self, sent_ns: int, there_ns: int, received_ns: int) -> None:
        """A round trip: its departure and arrival by our clock, and the other clock's reading between them."""
        self._trips.append((received_ns, there_ns - received_ns, there_ns - sent_ns))

    def at(self, time_ns: int) -> tuple[int, float]:
        """Their clock − ours at a time of ours, in ns, and how much that may be off either way, in s.

        Raises ClockJumped; ValueError before the first trip.
        """
        if not self._trips:
            raise ValueError("no round trip was made yet")
        widened = [(abs(time_ns - at_ns) * _DRIFT, low, high) for at_ns, low, high in self._trips]
        low = max(low - more for more, low, _ in widened)
        high = min(high + more for more, _, high in widened)
        if low > high:
            raise ClockJumped("the clock of the other machine jumped")
        return round((low + high) / 2), (high - low) / 2e9
