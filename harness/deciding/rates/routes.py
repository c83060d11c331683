"""Who serves what among several systems at an arrival rate: a search for the split of least cost.

What one more request costs depends on what else a system serves: g·f, where f are the request's sums and g the slopes
of the system's cost along them. Requests go where g·f plus a toll of the system is least. For given slopes each toll
is found by a scan: requests ordered by what the system would have to be cheaper by, prefix sums, the exact cost of
cuts. Slopes and tolls are found in turn, from each system alone and from the best cuts along single sums; the best is
kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.arrays import Floats
from harness.deciding.octaves import Indices
from harness.deciding.rates.fleet import FleetAtRate
from harness.deciding.routing import Choice
from harness.deciding.scales import Scales, raw_scales
from harness.deciding.workload import Tokens

CUTS = 96
"""Cuts tried of all, and then as many around the best of these."""
ROUNDS = 8
FEW_ROUNDS = 3
"""Of slopes and tolls, at the rate asked for and at each of many."""
STARTS = 3
"""Cuts along single sums from which the search goes on, beside each system alone."""
MOST_PAIRS = 3_000_000
"""Up to so many pairs times systems tolls are fitted to single pairs; of more, to spots of alike sizes."""
EVERY_CHOICE = 4096
"""Up to so many assignments of all pairs every one is tried."""
MOST_MOVED = 200
"""Up to so many pairs single ones are moved."""
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

    def to_the_brim(self) -> Grouped:
        """The same, systems filled up to saturation."""
        return replace(self, fleet=self.fleet.to_the_brim())

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


def best_split(grouped: Grouped, before: tuple[Floats, ...] | None = None) -> GroupSplit:
    """The best split that the search finds; from the prices ``before`` of a similar question it is quick."""
    groups, systems = grouped.sums[0].shape[1], len(grouped.sums)
    alone = [_whole(grouped, np.full(groups, s, dtype=np.intp)) for s in range(systems)]
    if before is not None:
        choice = _least(grouped.sums, before)
        starts = [GroupSplit(_cost(grouped, choice), before, choice), min(alone, key=_by_cost)]
        return min((_from(grouped, start, FEW_ROUNDS) for start in starts), key=_by_cost)
    cuts = sorted(_cuts(grouped), key=_by_cost)[:STARTS]
    return min((_from(grouped, start, ROUNDS) for start in [*alone, *cuts]), key=_by_cost)


def _by_cost(split: GroupSplit) -> float:
    return split.cost


def _cost(grouped: Grouped, choice: Choice) -> float:
    return float(grouped.cost(grouped.totals(choice))[0])


def _whole(grouped: Grouped, choice: Choice) -> GroupSplit:
    """All requests to one system."""
    prices = tuple((s != choice[0]) * (np.arange(sums.shape[0]) == 0) * 1.0 for s, sums in enumerate(grouped.sums))
    return GroupSplit(_cost(grouped, choice), prices, choice)


def _cuts(grouped: Grouped) -> list[GroupSplit]:
    """The best cuts along each of the sums: one system gets the requests that have least, the others share the rest by
    what they have of it in turn."""
    found = []
    tolls = np.zeros(len(grouped.sums))
    for s, sums in enumerate(grouped.sums):
        for row in range(1, sums.shape[0]):
            slopes = tuple(1.0 * (np.arange(each.shape[0]) == row) * (t == s) for t, each in enumerate(grouped.sums))
            if (sums[row] > 0).all() and np.isfinite(sums[row]).all():
                found.append(_tolled(grouped, slopes, _scanned(grouped, _own(grouped, slopes), tolls, s)))
    return found


def _own(grouped: Grouped, slopes: Sequence[Floats]) -> Floats:
    """What a request of each group costs on each system: shape (systems, groups)."""
    return np.stack([g @ sums for g, sums in zip(slopes, grouped.sums, strict=True)]) / grouped.sums[0][0]


def _tolled(grouped: Grouped, slopes: Sequence[Floats], tolls: Floats) -> GroupSplit:
    prices = tuple(g + toll * (np.arange(g.size) == 0) for g, toll in zip(slopes, tolls, strict=True))
    choice = np.argmin(_own(grouped, slopes) + tolls[:, None], axis=0)
    return GroupSplit(_cost(grouped, choice), prices, choice)


def improved(grouped: Grouped, choice: Choice) -> Choice:
    """A choice that costs no more: the best of all where these are few, else by moving single groups, of which there
    must not be too many.

    A few sizes don't fill a system to where it is best, and no prices say which of them do.
    """
    systems, groups = len(grouped.sums), choice.size
    if systems**groups <= EVERY_CHOICE:
        every = np.indices((systems,) * groups).reshape(groups, -1)
        return np.asarray(every[:, int(np.argmin(_costs_of(grouped, every)))], dtype=np.intp)
    if groups > MOST_MOVED:
        return choice
    cost = float(grouped.cost(grouped.totals(choice))[0])
    while True:
        every = np.repeat(choice[:, None], groups * (systems - 1), axis=1)
        moved = np.tile(np.arange(groups), systems - 1)
        every[moved, np.arange(moved.size)] += 1 + np.repeat(np.arange(systems - 1), groups)
        every %= systems
        costs = _costs_of(grouped, every)
        at = int(np.argmin(costs))
        if not costs[at] < cost:
            return choice
        choice, cost = every[:, at], float(costs[at])


def _costs_of(grouped: Grouped, choices: Choice) -> Floats:
    """Of choices of shape (groups, ways)."""
    return grouped.cost([sums @ (choices == s) for s, sums in enumerate(grouped.sums)])


def refined(grouped: Grouped, found: GroupSplit) -> GroupSplit:
    """The split with tolls that fit finer groups than those that it was found for."""
    choice = _least(grouped.sums, found.prices)
    return _from(grouped, GroupSplit(_cost(grouped, choice), found.prices, choice), FEW_ROUNDS)


def _from(grouped: Grouped, best: GroupSplit, rounds: int) -> GroupSplit:
    tolls = np.zeros(len(grouped.sums))
    for _ in range(rounds):
        slopes, before = grouped.slopes(best.choice), best.cost
        own = _own(grouped, slopes)
        for s in range(len(grouped.sums)):
            tolls = _scanned(grouped, own, tolls, s)
            best = min(best, _tolled(grouped, slopes, tolls), key=_by_cost)
        if not best.cost < before:
            break
    return best


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

    # A toll tells no two requests apart that would be cheaper by as much.
    possible = np.concatenate([[0], np.flatnonzero(np.diff(cheaper[order])) + 1, [order.size]])
    some = np.unique(np.linspace(0, possible.size - 1, min(CUTS, possible.size)).astype(np.intp))
    at = int(np.argmin(costs(possible[some])))
    low, high = some[max(at - 1, 0)], some[min(at + 1, some.size - 1)]
    near = possible[np.unique(np.linspace(low, high, min(CUTS, high - low + 1)).astype(np.intp))]
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
    return 1 / best_split(replace(grouped, widest=True, scales=raw_scales(0.0))).cost


def chosen_systems(fleet: FleetAtRate, prices: Sequence[Floats], m: Tokens, n: Tokens) -> Choice:
    """The system of each request, by what its sums cost."""
    return _least([system.sums(m, n) for system in fleet.systems], prices)
