"""What a sensor updated to and when, as far as polls tell, and where between two polls it may have done so. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.energy.cumulative import SLOPE_UPDATES, TOO_FEW
from harness.energy.nodes import NS, Unknown, counter_updates
from harness.energy.readings import Domain, Trace

STAMP_S = 1e-3
"""How unsure a reading's own time is in any case, both ways together."""
WIDE_S = 3e-3
"""Update times that are surer are taken as they are."""
_CELLS = 8
"""Of so many parts of an update's unsure time the first may lie in any."""


@dataclass(frozen=True)
class Updates:
    """What a sensor updated to, and when."""

    times_s: Floats
    values: Floats
    """Cumulative J of a counter, W of power readings."""
    unsure_s: Floats
    """How unsure each time is, both ways together."""

    def near(self, domain: Domain, first_s: float, last_s: float) -> Updates:
        """Those that tell something about a window. Raises Unknown of fewer than three."""
        spacing_s = float(np.median(np.diff(self.times_s))) if self.times_s.size > 1 else 0.0
        reach_s = (SLOPE_UPDATES + 1) * max(domain.period_s or 0.0, spacing_s)
        reach_s += (domain.averaging_s or 0.0) + 5.0 * domain.filter_s
        kept = (self.times_s >= first_s - reach_s) & (self.times_s <= last_s + reach_s)
        if np.count_nonzero(kept) < 3:
            raise Unknown(TOO_FEW)
        return Updates(self.times_s[kept], self.values[kept], self.unsure_s[kept])

    def moved(self, by_s: Floats) -> Updates:
        """The same at other times, still one after the other."""
        # Never all but at the same time, of which two readings would tell the same.
        apart = np.arange(self.times_s.size) * 0.05 * float(np.median(np.diff(self.times_s)))
        return Updates(np.maximum.accumulate(self.times_s + by_s - apart) + apart, self.values, self.unsure_s)


def updates_of(trace: Trace) -> Updates:
    """The updates that a trace shows, each once, with times in seconds after its first reading."""
    domain = trace.domain
    if domain.kind == "counter":
        times, joules, unsure = counter_updates(trace)
        return Updates(times - domain.lag_s, joules, unsure)
    times = (trace.times_ns - trace.times_ns[0]) / NS
    new = _new_readings(times, trace.values, domain.age_s)
    unsure = np.minimum(np.diff(times, prepend=times[0] - domain.age_s), domain.age_s)[new]
    return Updates(times[new] - unsure / 2.0 - domain.lag_s, trace.values[new], unsure)


def _new_readings(times_s: Floats, values: Floats, age_s: float) -> NDArray[np.bool_]:
    """Which readings show an update that none before showed: another value, or the same a period later."""
    if age_s == 0.0:
        return np.ones(times_s.size, dtype=np.bool_)
    changed = np.concatenate(([True], np.diff(values) != 0.0))
    since = times_s - np.maximum.accumulate(np.where(changed, times_s, -np.inf))
    return changed | (np.diff(np.floor(since / age_s), prepend=0.0) > 0.0)


def delay_sd_s(domain: Domain, unsure_s: Floats) -> float:
    """Standard deviation of what all updates may be late by: they may beat with the polls, and clocks may differ."""
    return math.hypot(STAMP_S, float(np.median(unsure_s)) / math.sqrt(12.0), domain.clock_s / math.sqrt(3.0))


def placements(updates: Updates, period_s: float) -> list[Updates]:
    """The updates where a sensor of that period would have made them, from each of several first times on.

    Polls tell an update's time to the time between them, or to a period. A regular sensor's updates follow each other
    by a period wherever these bounds allow it, from the first on and from the last backwards, of which the mean
    is taken.
    """
    low, high = updates.times_s - updates.unsure_s / 2.0, updates.times_s + updates.unsure_s / 2.0
    starts = low[0] + (np.arange(_CELLS) + 0.5) / _CELLS * (high[0] - low[0])
    forward = _steady(starts, low, high, period_s)
    backward = -_steady(-forward[-1], -high[::-1], -low[::-1], period_s)[::-1]
    return [_narrowed(updates, times, period_s) for times in ((forward + backward) / 2.0).T]


def _narrowed(updates: Updates, times_s: Floats, period_s: float) -> Updates:
    """Updates at these times, without those that may as well have come a period earlier or later."""
    cell_s = updates.unsure_s / _CELLS
    away_s = updates.unsure_s / 2.0 - np.abs(times_s - updates.times_s)
    kept = (updates.unsure_s < 0.9 * period_s) | (away_s > cell_s / 2.0 + STAMP_S)
    if np.count_nonzero(kept) < 3:
        kept[:] = True
    return Updates(updates.times_s[kept], updates.values[kept], cell_s[kept]).moved((times_s - updates.times_s)[kept])


def _steady(starts: Floats, low: Floats, high: Floats, period: float) -> Floats:
    """Times from each of several starts on, in steps of a period where the bounds allow. Shape (bounds, starts)."""
    paths = np.empty((low.size, starts.size))
    paths[0] = at = starts
    for number, (lowest, highest) in enumerate(zip(low[1:].tolist(), high[1:].tolist(), strict=True), start=1):
        at = at + period * np.ceil((lowest - at) / period - 1e-9)
        nearest = np.where(at - highest < lowest - (at - period), highest, lowest)
        paths[number] = at = np.where(at <= highest, at, nearest)
    return paths
