"""Who serves what among several systems at an arrival rate: a search for the split of least cost.

What one more request costs depends on what else a system serves: g·f, where f are the request's sums and g the slopes
of the system's cost along them. Requests go where g·f plus a toll of the system is least. For given slopes each toll
is found by a scan: requests ordered by what the system would have to be cheaper by, prefix sums, the exact cost of
every cut. Slopes and tolls are found in turn, from each system alone and from an even start, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.arrays import Floats
from harness.deciding.at_rate_fleet import FleetAtRate
from harness.deciding.octaves import Indices
from harness.deciding.routing import Choice
from harness.deciding.scales import Scales, raw_scales
from harness.deciding.workload import Tokens

CUTS = 96
"""Cuts tried of all, and then as many around the best of these."""
ROUNDS = 8
FEW_ROUNDS = 3
"""Of slopes and tolls, at the rate asked for and at each of many."""
_STEP = 0.01
_LEAST = 0.02
"""Share of all requests at which the slopes of a system with fewer are taken."""
_MOST = 0.8
"""Of what it can serve, the most at which the slopes of a system are taken."""


@dataclass(frozen=True)
class GroupSplit:
    """A split of groups of requests."""

    cost: float
    """Infinite where it may not be."""
    prices: tuple[Floats, ...]
    """By system: what each of a request's sums costs there, the toll in the first. Requests go where it is least."""
    choice: Choice
    """The system of each group."""


@dataclass(frozen=True)
class Grouped:
    """Groups of alike requests, of which all go one way."""

    fleet: FleetAtRate
    sums: tuple[Floats, ...]
    """By system: shape (width, groups)."""
    scales: Scales
    slo_s: float | None
    widest: bool = False
    """Whether the split is sought that serves most, whatever it costs."""

    @classmethod
    def of(cls, fleet: FleetAtRate, group: Indices, groups: int, scales: Scales, slo_s: float | None) -> Grouped:
        """Of a workload's pairs, each in its group."""
        sums = tuple(system.sums_by_group(fleet.workload, group, groups) for system in fleet.systems)
        return cls(fleet, sums, scales, slo_s)

    def at(self, rate_per_s: float) -> Grouped:
        """The same at another rate."""
        return replace(self, fleet=self.fleet.at(rate_per_s))

    def totals(self, choice: Choice) -> list[Floats]:
        """Sums of each system under a choice: shapes (width, 1)."""
        return [(sums @ (choice == s))[:, None] for s, sums in enumerate(self.sums)]

    def cost(self, totals: Sequence[Floats]) -> Floats:
        """Mean cost of a request of ways, by each system's sums of shape (width, ways); of the widest, seconds of all
        systems at their fullest."""
        if self.widest:
            return 1 / self.fleet.capacity_per_s(totals)
        return self.fleet.cost(totals, self.fleet.split(totals), self.scales, self.slo_s)

    def slopes(self, choice: Choice) -> tuple[Floats, ...]:
        """What one more of each sum costs each system per second, shape (width,), where it is neither all but empty nor
        all but full."""
        found = []
        everything = [sums.sum(axis=1) for sums in self.sums]
        for s, (system, total) in enumerate(zip(self.fleet.systems, self.totals(choice), strict=True)):
            own = total[:, 0] if total[0, 0] > _LEAST * everything[s][0] else _LEAST * everything[s]
            rate = self.fleet.rate_per_s * own[0] / self.fleet.workload.requests
            own = own * min(1.0, _MOST * float(system.capacity_per_s(own)) / rate)
            change = _STEP * np.diag(own)
            up, down = (self._system_cost(s, own[:, None] + sign * change) for sign in (1, -1))
            found.append(np.divide(up - down, 2 * _STEP * own, out=np.zeros_like(own), where=own > 0))
        return tuple(found)

    def _system_cost(self, s: int, sums: Floats) -> Floats:
        system, per_request = self.fleet.systems[s], self.fleet.rate_per_s / self.fleet.workload.requests
        found = system.under(sums * per_request)
        time = system.machines(found) if self.scales.name == "price" else found.held
        return self.scales.cost(system.power_w(found), time)


def best_split(grouped: Grouped, rounds: int = ROUNDS, before: tuple[Floats, ...] | None = None) -> GroupSplit:
    """The best split that the search finds; ``before`` are prices to begin with too."""
    groups, systems = grouped.sums[0].shape[1], len(grouped.sums)
    starts = [np.full(groups, s, dtype=np.intp) for s in range(systems)]
    starts.append(np.arange(groups, dtype=np.intp) % systems)
    if before is not None:
        starts.append(_least(grouped.sums, before))
    found = [_from(grouped, start, rounds) for start in starts]
    return min(found, key=lambda split: split.cost)


def _from(grouped: Grouped, choice: Choice, rounds: int) -> GroupSplit:
    tolls = np.zeros(len(grouped.sums))
    best = GroupSplit(float(grouped.cost(grouped.totals(choice))[0]), _alone(grouped, choice), choice)
    for _ in range(rounds):
        slopes = grouped.slopes(best.choice)
        own = np.stack([g @ sums for g, sums in zip(slopes, grouped.sums, strict=True)]) / grouped.sums[0][0]
        before = best.cost
        for s in range(len(grouped.sums)):
            tolls = _scanned(grouped, own, tolls, s)
            prices = tuple(g + toll * (np.arange(g.size) == 0) for g, toll in zip(slopes, tolls, strict=True))
            chosen = np.argmin(own + tolls[:, None], axis=0)
            cost = float(grouped.cost(grouped.totals(chosen))[0])
            if cost < best.cost:
                best = GroupSplit(cost, prices, chosen)
        if not best.cost < before:
            break
    return best


def _alone(grouped: Grouped, choice: Choice) -> tuple[Floats, ...]:
    """Prices by which every request goes to the system of most of them."""
    most = int(np.bincount(choice, minlength=len(grouped.sums)).argmax())
    return tuple((s != most) * (np.arange(sums.shape[0]) == 0) * 1.0 for s, sums in enumerate(grouped.sums))


def _scanned(grouped: Grouped, own: Floats, tolls: Floats, s: int) -> Floats:
    """The tolls with the best one of system ``s``; the others keep theirs."""
    others = own + tolls[:, None]
    others[s] = np.inf
    other = np.argmin(others, axis=0)
    cheaper = others.min(axis=0) - own[s]
    order = np.argsort(-cheaper, kind="stable")
    # The first so many in this order go to s, the others where they are cheapest without it.
    prefix = [np.insert(np.cumsum(sums[:, order], axis=1), 0, 0.0, axis=1) for sums in grouped.sums]
    left = []
    for t, sums in enumerate(grouped.sums):
        rest = np.insert(np.cumsum((sums * (other == t))[:, order], axis=1), 0, 0.0, axis=1)
        left.append(np.maximum(rest[:, -1:] - rest, 0.0))
        left[-1][:, -1] = 0.0

    def costs(cuts: Indices) -> Floats:
        return grouped.cost([prefix[t][:, cuts] if t == s else left[t][:, cuts] for t in range(len(left))])

    cuts = np.unique(np.linspace(0, order.size, min(CUTS, order.size + 1)).astype(np.intp))
    at = int(np.argmin(costs(cuts)))
    low, high = cuts[max(at - 1, 0)], cuts[min(at + 1, cuts.size - 1)]
    near = np.unique(np.linspace(low, high, min(CUTS, high - low + 1)).astype(np.intp))
    cut = int(near[np.argmin(costs(near))])
    ordered = np.concatenate([[np.inf], cheaper[order], [-np.inf]])
    middle = [ordered[cut], ordered[cut + 1]]
    known = [each for each in middle if np.isfinite(each)]
    margin = 1.0 + abs(known[0]) if len(known) == 1 else 0.0
    toll = sum(known) / len(known)
    found = tolls.copy()
    found[s] = toll + (margin if cut == 0 else -margin if cut == order.size else 0.0)
    return found


def _least(sums: Sequence[Floats], prices: Sequence[Floats]) -> Choice:
    return np.argmin([g @ each for g, each in zip(prices, sums, strict=True)], axis=0)


def widest_capacity_per_s(grouped: Grouped) -> float:
    """The rate above which every split that the search finds saturates a system."""
    return 1 / best_split(replace(grouped, widest=True, scales=raw_scales(0.0)), FEW_ROUNDS).cost


def chosen_systems(fleet: FleetAtRate, prices: Sequence[Floats], m: Tokens, n: Tokens) -> Choice:
    """The system of each request, by what its sums cost."""
    return _least([system.sums(m, n) for system in fleet.systems], prices)
