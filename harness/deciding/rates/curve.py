"""How the best plan changes with the rate, and from which rate on a second machine pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.core.arrays import Floats
from harness.deciding.rates.fleet import FleetAtRate
from harness.deciding.rates.plans import RateCurve
from harness.deciding.scales import Scales

RATES = 24
"""Rates of the curve, evenly on a logarithmic scale."""
SPAN = 200.0
"""From the capacity divided by this …"""
BEYOND = 1.1
"""… to this many times the capacity, where every plan saturates a system."""
_HALVINGS = 9
_LESS = 1e-6
"""Share by which more systems must cost less than one: sums differ by roundings."""


@dataclass(frozen=True)
class BestAtRate:
    """The best plan at one rate."""

    cost: float
    """Infinite where there is none."""
    energy_j: float
    e2e_s: float
    shares: Floats
    """Of the requests, by system."""
    threshold: int | None = None


Find = Callable[[FleetAtRate], BestAtRate]


def rate_curve(
    fleet: FleetAtRate, find: Find, capacity_per_s: float, scales: Scales, slo_s: float | None, count: int = RATES
) -> RateCurve:
    """The best plan, which ``find`` finds, and each system alone, at ``count`` rates and the fleet's."""
    rates = np.geomspace(capacity_per_s / SPAN, capacity_per_s * BEYOND, count)
    rates = np.unique(np.append(rates, fleet.rate_per_s))
    sums = fleet.alone()

    def alone(rate: float) -> tuple[Floats, Floats]:
        """Energy of a request and cost with each system alone; energy is NaN where it is saturated or too slow."""
        split = fleet.at(rate).split(sums)
        known = np.isfinite(split.cost(scales, slo_s))
        return np.where(known, split.energy_j, np.nan), fleet.at(rate).cost(sums, split, scales, slo_s)

    def paying(best: BestAtRate, alone_cost: Floats) -> bool:
        return bool(best.cost < (1 - _LESS) * alone_cost.min() and np.count_nonzero(best.shares) > 1)

    found, each_alone = [find(fleet.at(rate)) for rate in rates.tolist()], [alone(rate) for rate in rates.tolist()]
    served = np.array([np.isfinite(each.cost) for each in found])
    paid = [paying(best, cost) for best, (_, cost) in zip(found, each_alone, strict=True)]
    first = paid.index(True) if any(paid) else None
    pays_from = None if first is None else float(rates[first])
    if first:
        ends = float(rates[first - 1]), float(rates[first])
        pays_from = _turn(lambda rate: paying(find(fleet.at(rate)), alone(rate)[1]), *ends)
    thresholds = [each.threshold for each in found]
    return RateCurve(
        rates,
        np.where(served, [each.energy_j for each in found], np.nan),
        np.where(served, [each.e2e_s for each in found], np.nan),
        np.where(served, np.stack([each.shares for each in found], axis=1), np.nan),
        np.stack([energy_j for energy_j, _ in each_alone], axis=1),
        None if None in thresholds else np.where(served, np.array(thresholds, dtype=float), np.nan),
        capacity_per_s,
        pays_from,
    )


def _turn(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Between a rate at which something doesn't hold and one at which it does, about the lowest at which it does."""
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
