"""How long each phase of a window's requests took in what each reading covers. Pure.

A counter's step covers the time between two updates. A power reading covers the time that it averages over. What
lags, filters or looks only a part of the time covers accordingly more, later or less. An update whose time is known to
lie within some milliseconds covers the mean over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded

from harness.core.arrays import Floats

PREFILL, DECODE, PAUSE, BEFORE, AFTER, PREFILL_SLOPE, DECODE_SLOPE = range(7)
"""The columns: in each of five stretches a power of its own; within a prefill and a decode also one that rises from
-1 to 1, which adds nothing to a whole phase."""
LEVELS = (PREFILL, DECODE, PAUSE, BEFORE, AFTER)
COLUMNS = 7
_SHARP_S = 1e-5
"""Shorter spans are taken for moments, since differences of integrals can't resolve them."""


@dataclass(frozen=True)
class Course:
    """When each phase ran: the edges of requests in seconds, shape (3 · requests,), rising: start, end of prefill, end
    of each. ``filter_s`` is the time constant of a first-order low-pass through which the sensor sees all of it."""

    edges_s: Floats
    filter_s: float = 0.0

    def phase_s(self) -> Floats:
        """Time that each column's phase took in the window, shape (7,); 0 outside it and for what only rises."""
        lengths = np.diff(self.edges_s)
        took = np.zeros(COLUMNS)
        took[[PREFILL, DECODE, PAUSE]] = lengths[0::3].sum(), lengths[1::3].sum(), lengths[2::3].sum()
        return took

    def means_between(self, starts_s: Floats, ends_s: Floats, unsure_s: Floats) -> Floats:
        """Mean of every column between two times, each unsure by ± ``unsure_s`` / 2 together. Shape (n, 7)."""
        return (self.totals(ends_s, unsure_s) - self.totals(starts_s, unsure_s)) / (ends_s - starts_s)[:, None]

    def totals(self, times_s: Floats, unsure_s: Floats) -> Floats:
        """Every column's integral up to times that lie anywhere in ± ``unsure_s`` / 2: its mean. Shape (n, 7)."""
        unsure = unsure_s > _SHARP_S
        totals = np.empty((times_s.size, COLUMNS))
        totals[~unsure] = self._integral(times_s[~unsure], twice=False)
        half, times = unsure_s[unsure] / 2.0, times_s[unsure]
        if times.size:
            later, earlier = (self._integral(edge, twice=True) for edge in (times + half, times - half))
            totals[unsure] = (later - earlier) / (2.0 * half)[:, None]
        return totals

    def _integral(self, times_s: Floats, twice: bool) -> Floats:
        """The integral of every column up to given times, or the integral of that."""
        at = np.searchsorted(self._starts, times_s, side="right") - 1
        at = np.maximum(at, 0)
        since = (times_s - self._starts[at])[:, None]
        level, slope = self._levels[at], self._slopes[at]
        once = self._once[at] + since * (level + since * slope / 2.0)
        if not twice and not self.filter_s:
            return np.asarray(once)
        if self.filter_s:
            # The filtered integral h follows its input f by h' = (f − h) / τ: f − τ·f' + τ²·f'' and what fades.
            fading = self._fading[at] * np.exp(-np.maximum(since, 0.0) / self.filter_s)
            filtered = once - self.filter_s * (level + since * slope) + self.filter_s**2 * slope + fading
            if not twice:
                return np.asarray(filtered)
        total = self._twice[at] + since * (self._once[at] + since * (level / 2.0 + since * slope / 6.0))
        return np.asarray(total - self.filter_s * filtered if self.filter_s else total)

    @cached_property
    def _starts(self) -> Floats:
        """Where stretches begin; the first one is the time before the window, seen from its end backwards."""
        return np.concatenate((self.edges_s[:1] - 1.0, self.edges_s))

    @cached_property
    def _lengths(self) -> Floats:
        return np.diff(self._starts)

    @cached_property
    def _kinds(self) -> NDArray[np.intp]:
        kinds = np.resize([PREFILL, DECODE, PAUSE], self.edges_s.size)
        kinds[-1] = AFTER
        return np.concatenate(([BEFORE], kinds))

    @cached_property
    def _levels(self) -> Floats:
        levels = np.eye(COLUMNS)[self._kinds]
        levels[self._kinds == PREFILL, PREFILL_SLOPE] = -1.0
        levels[self._kinds == DECODE, DECODE_SLOPE] = -1.0
        return levels

    @cached_property
    def _slopes(self) -> Floats:
        slopes = np.zeros_like(self._levels)
        per_s = 2.0 / np.maximum(np.append(self._lengths, 1.0), 1e-9)
        for kind, column in ((PREFILL, PREFILL_SLOPE), (DECODE, DECODE_SLOPE)):
            mine = self._kinds == kind
            slopes[mine, column] = per_s[mine]
        return slopes

    @cached_property
    def _once(self) -> Floats:
        lengths = self._lengths[:, None]
        steps = lengths * (self._levels[:-1] + lengths * self._slopes[:-1] / 2.0)
        return np.concatenate((np.zeros((1, COLUMNS)), np.cumsum(steps, axis=0)))

    @cached_property
    def _twice(self) -> Floats:
        lengths, once = self._lengths[:, None], self._once[:-1]
        steps = lengths * (once + lengths * (self._levels[:-1] / 2.0 + lengths * self._slopes[:-1] / 6.0))
        return np.concatenate((np.zeros((1, COLUMNS)), np.cumsum(steps, axis=0)))

    @cached_property
    def _fading(self) -> Floats:
        """What the filter still holds of the past where each stretch begins: a recursion, solved as a whole."""
        tau = self.filter_s
        ends = self._levels[:-1] + self._lengths[:, None] * self._slopes[:-1]
        steps = tau * (self._levels[1:] - ends) - tau**2 * (self._slopes[1:] - self._slopes[:-1])
        steps = np.concatenate((np.zeros((1, COLUMNS)), steps))
        below = np.append(-np.exp(-self._lengths / tau), 0.0)
        return np.asarray(solve_banded((1, 0), np.vstack((np.ones(steps.shape[0]), below)), steps))
