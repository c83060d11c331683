"""A trace's readings around a window as rows of a regression: what was read, and what it is made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.arrays import Floats
from harness.energy.phase_shares import COLUMNS, Course
from harness.energy.phase_updates import STAMP_S, Updates
from harness.energy.readings import Domain

_NOISE = 0.003
"""A power sensor's own noise, relative, next to what unsure times make of it."""
_MOMENT_S = 1e-3
"""A reading of power at once is taken to see so long."""


@dataclass(frozen=True)
class PhaseRows:
    """Readings and what they are made of: n readings, 7 columns of a ``Course``."""

    values: Floats
    """What was read: J of a counter's steps, W of power readings. Shape (n,)."""
    shares: Floats
    """Each column's time (s) in a step, or share of a reading. Shape (n, 7)."""
    seen: Floats
    """What readings see together of each column: a band of pairs, the last row each with itself. Shape (·, n, 7)."""
    rates: Floats
    """How ``shares`` change by a delay of an update, per s. Of power readings (n, 7); of a counter (n + 1, 7), each
    update's, which its two steps get with opposite signs."""
    unsure_s: Floats
    """How unsure each update's time is, both ways together; (n + 1,) of a counter."""
    steps: bool
    """Whether these are a counter's steps."""

    def by_delay(self, power_w: Floats, delays: Floats) -> Floats:
        """How readings change by each of several courses of delay, shape (updates, ·), given each column's power."""
        change = (self.rates @ power_w)[:, None] * delays
        return np.diff(change, axis=0) if self.steps else change


def regression_rows(updates: Updates, course: Course, domain: Domain) -> PhaseRows:
    """The rows of updates near a window."""
    times, unsure = updates.times_s, updates.unsure_s
    step_s = max(STAMP_S, 0.5 * float(np.median(unsure)))
    if domain.kind == "counter":
        shares = _steps(course, updates, domain)
        seen_share = domain.seen_s / domain.period_s if domain.seen_s and domain.period_s else 1.0
        rates = course.means_between(times - step_s / 2.0, times + step_s / 2.0, unsure)
        return PhaseRows(np.diff(updates.values), shares, shares[None] / seen_share, rates, unsure, True)
    averaging = max(domain.averaging_s or 0.0, 1e-4 if domain.filter_s else _MOMENT_S)
    shares, late, early = (
        course.means_between(times + by - averaging, times + by, unsure) for by in (0.0, step_s / 2.0, -step_s / 2.0)
    )
    return PhaseRows(
        updates.values, shares, _overlaps(course, times, averaging), (late - early) / step_s, unsure, False
    )


def _steps(course: Course, updates: Updates, domain: Domain) -> Floats:
    """Time of each column in each step between two updates of a counter."""
    times, unsure = updates.times_s, updates.unsure_s
    if not (domain.seen_s and domain.period_s):
        return np.diff(course.totals(times, unsure), axis=0)
    # Each update adds what the sensor saw just before it, for all the time since the update before.
    gaps = np.diff(times)
    counts = np.maximum(np.round(gaps / domain.period_s), 1.0)
    shares = np.zeros((gaps.size, COLUMNS))
    for back in range(int(counts.max())):
        at = times[1:] - back * domain.period_s
        shares += (counts > back)[:, None] * course.means_between(at - domain.seen_s, at, unsure[1:])
    return np.asarray(shares * (gaps / counts)[:, None])


def _overlaps(course: Course, times_s: Floats, averaging_s: float) -> Floats:
    """Of each pair of power readings what both see: the integral of the product of their weights in each column.

    A band: shape (width, n, 7), the last row each reading with itself. Where a filter remembers longer than a
    reading averages, exp(−a/τ)·exp(−b/τ)/τ² over their common past is a filter of half the time constant.
    """
    filter_s = course.filter_s
    slow = filter_s > averaging_s / 2.0
    sharp = np.zeros(times_s.size)
    if slow:
        halved = Course(course.edges_s, filter_s / 2.0)
        alone = halved.means_between(times_s - 1e-4, times_s, sharp) / (2.0 * filter_s)
    else:
        plain = Course(course.edges_s)
        ends, starts = (plain.totals(edge, sharp) for edge in (times_s, times_s - averaging_s))
    reach_s = 12.0 * filter_s if slow else averaging_s
    reached = np.searchsorted(times_s, times_s + reach_s) - np.arange(times_s.size)
    width = min(int(reached.max()), times_s.size - 1)
    band = np.zeros((width + 1, times_s.size, COLUMNS))
    for apart in range(width + 1):
        early, late = slice(0, times_s.size - apart), slice(apart, None)
        if slow:
            both = alone[early] * np.exp(-(times_s[late] - times_s[early]) / filter_s)[:, None]
        else:
            shared = times_s[early] > times_s[late] - averaging_s
            both = (ends[early] - starts[late]) * (shared / averaging_s**2)[:, None]
        band[width - apart, late] = both
    return band


def noise_bands(rows: PhaseRows, domain: Domain, power_w: Floats, intensity: Floats) -> tuple[Floats, Floats]:
    """Covariances of the readings by fluctuations of power of such intensity, and by unsure times and rounding.

    Upper bands, the last row the diagonal: in J² of a counter's steps, in W² of power readings.
    """
    rounding = domain.resolution**2 / 12.0
    unsure = np.hypot(rows.unsure_s, STAMP_S)
    late = (rows.rates @ power_w) * unsure
    if not rows.steps:
        # A step of power within the unsure time is seen or not: up to 1/4 of its square, 1/6 on average.
        by_time = late**2 / 6.0 + rounding + (_NOISE * float(power_w.max())) ** 2
        return rows.seen @ intensity, by_time[None, :]
    by_time = late**2 / 12.0 + rounding
    return rows.seen @ intensity, np.vstack((np.append(0.0, -by_time[1:-1]), by_time[:-1] + by_time[1:]))
