"""The best threshold between two systems at an arrival rate. System 0 is the small, 1 the large one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.deciding.rates.fleet import FleetAtRate, Split
from harness.deciding.scales import Scales
from harness.deciding.threshold import request_key

EVERY_KEY = 20_000
"""Up to so many distinct keys every threshold is tried; of more, so many evenly among the requests and then every one
around the best of these."""
FEW_KEYS = 512
"""Thresholds tried at each of many rates."""


@dataclass(frozen=True)
class KeySums:
    """What each threshold gives each system."""

    threshold: NDArray[np.int64]
    """0, which gives all to the large system, and the distinct keys, ascending."""
    requests: Floats
    """That go to the small system."""
    small: Floats
    """Sums of the small system's requests: shape (width, thresholds)."""
    large: Floats

    def part(self, chosen: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Sums of both systems at some thresholds."""
        return self.small[:, chosen], self.large[:, chosen]

    def spread(self, count: int) -> NDArray[np.intp]:
        """At most so many thresholds, evenly among the requests, with both ends."""
        if self.threshold.size <= count:
            return np.arange(self.threshold.size)
        wanted = np.linspace(0, self.requests[-1], count)
        return np.unique(np.append(np.searchsorted(self.requests, wanted), [0, self.threshold.size - 1])).clip(
            0, self.threshold.size - 1
        )


def key_sums(fleet: FleetAtRate, key: str) -> KeySums:
    """Prefix sums over the distinct values of ``key``. Raises UserError for an unknown one."""
    workload = fleet.workload
    values, group = np.unique(request_key(key, workload.input_tokens, workload.output_tokens), return_inverse=True)
    by_key = [system.sums_by_group(workload, group, values.size) for system in fleet.systems]
    small, large = (np.insert(np.cumsum(each, axis=1), 0, 0.0, axis=1) for each in by_key)
    # What is left of the last request is a rounding.
    left = np.maximum(large[:, -1:] - large, 0.0)
    left[:, -1] = 0.0
    return KeySums(np.append(0, values), small[0], small, left)


@dataclass(frozen=True)
class ThresholdCurve:
    """Thresholds that were tried, ascending, and what each does."""

    place: NDArray[np.intp]
    """Of each among those of ``KeySums``."""
    threshold: NDArray[np.int64]
    small_share: Floats
    split: Split
    cost: Floats
    """Mean cost of a request; infinite where ``FleetAtRate.cost`` lets no plan be."""

    @property
    def best(self) -> int:
        """The cheapest one; of equal ones the lowest."""
        return int(np.argmin(self.cost))


def tried(fleet: FleetAtRate, sums: KeySums, scales: Scales, slo_s: float | None, most: int) -> ThresholdCurve:
    """All thresholds where there are at most ``most``, else so many and then every one around the best of them.

    Both systems with nothing or with everything are among them. Where none leaves the systems room to spare, they are
    filled to the brim.
    """
    found = _tried(fleet, sums, scales, slo_s, most)
    return found if np.isfinite(found.cost).any() else _tried(fleet.to_the_brim(), sums, scales, slo_s, most)


def _tried(fleet: FleetAtRate, sums: KeySums, scales: Scales, slo_s: float | None, most: int) -> ThresholdCurve:
    place = sums.spread(most)
    curve = _curve(fleet, sums, scales, slo_s, place)
    if place.size == sums.threshold.size:
        return curve
    best = curve.best
    low, high = place[max(best - 1, 0)], place[min(best + 1, place.size - 1)]
    near = np.unique(np.linspace(low, high, min(high - low + 1, most)).astype(np.intp))
    return _curve(fleet, sums, scales, slo_s, np.union1d(place, near))


def _curve(
    fleet: FleetAtRate, sums: KeySums, scales: Scales, slo_s: float | None, place: NDArray[np.intp]
) -> ThresholdCurve:
    part = sums.part(place)
    split = fleet.split(part)
    share = sums.requests[place] / fleet.workload.requests
    return ThresholdCurve(place, sums.threshold[place], share, split, fleet.cost(part, split, scales, slo_s))
