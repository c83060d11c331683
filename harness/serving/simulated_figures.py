"""Figures of simulated requests with their 95 % intervals. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.core.arrays import Floats
from harness.core.statistics import Z95, student_95

BATCHES = 20
"""Parts in order of arrival whose spread says how far another draw of such requests would lie off. Neighbouring
requests wait for the same others, so that they are no independent draws; neighbouring parts nearly are."""


@dataclass(frozen=True)
class SimulatedFigure:
    """A figure with its 95 % interval; None for an end that nobody can know."""

    value: float
    low: float | None
    high: float | None

    def widened(self, below: float, above: float) -> SimulatedFigure:
        """With an independent doubt, as distances to its ends, joined; an unknown end stays so."""
        low = None if self.low is None else max(0.0, self.value - math.hypot(self.value - self.low, below))
        high = None if self.high is None else self.value + math.hypot(self.high - self.value, above)
        return SimulatedFigure(self.value, low, high)

    def times(self, factor: float) -> SimulatedFigure:
        """In another unit."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return SimulatedFigure(self.value * factor, low, high)


def mean_figure(values: Floats) -> SimulatedFigure:
    """The mean of values in order of time, by the spread of the means of batches; no ends for fewer than 2 a batch.

    Batch means: Law and Kelton, Simulation Modeling and Analysis, chapter 9.
    """
    mean = float(values.mean())
    if values.size < 2 * BATCHES:
        return SimulatedFigure(mean, None, None)
    half_width = _batch_error([float(batch.mean()) for batch in np.array_split(values, BATCHES)])
    return SimulatedFigure(mean, max(0.0, mean - half_width), mean + half_width)


def ratio_figure(amounts: Floats, counts: Floats) -> SimulatedFigure:
    """The sum of amounts over that of counts, both in order of time: what is left of amounts varies between batches.

    No ends for fewer than 2 a batch.
    """
    ratio = float(amounts.sum() / counts.sum())
    if amounts.size < 2 * BATCHES:
        return SimulatedFigure(ratio, None, None)
    left = [float(batch.mean()) for batch in np.array_split(amounts - ratio * counts, BATCHES)]
    half_width = _batch_error(left) / float(counts.mean())
    return SimulatedFigure(ratio, max(0.0, ratio - half_width), ratio + half_width)


def quantile_of(ordered: Floats, level: float) -> float:
    """The smallest of ascending values that at least the share ``level`` of them does not exceed."""
    return float(ordered[_place(level, ordered.size)])


def quantile_figure(values: Floats, level: float) -> SimulatedFigure:
    """``quantile_of`` values in order of time.

    The share of values up to it varies from batch to batch, never by less than independent draws would; the ends are
    the quantiles at shares so far off. There is no end where that share would lie beyond all values.
    """
    ordered = np.sort(values)
    value = quantile_of(ordered, level)
    error = Z95 * math.sqrt(level * (1 - level) / ordered.size)
    if values.size >= 2 * BATCHES:
        error = max(error, _batch_error([float((batch <= value).mean()) for batch in np.array_split(values, BATCHES)]))
    low, high = _place(level - error, ordered.size), _place(level + error, ordered.size)
    ends = (float(ordered[place]) if 0 <= place < ordered.size else None for place in (low, high))
    return SimulatedFigure(value, *ends)


def _place(level: float, count: int) -> int:
    return math.ceil(level * count - 1e-9) - 1


def _batch_error(means: list[float]) -> float:
    """Half-width of the 95 % interval of the mean of batches."""
    return student_95(len(means) - 1) * float(np.std(means, ddof=1)) / math.sqrt(len(means))
