"""Systems at an arrival rate: what each does with the requests that it gets, and what a split of all of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from harness.core.arrays import Floats
from harness.deciding.octaves import Indices
from harness.deciding.routing import Mask
from harness.deciding.scales import Scales
from harness.deciding.workload import Tokens, Workload
from harness.modelling.profile import Profile
from harness.serving.occupancy import SUMS, Occupancy, capacity_per_s, occupancy, request_sums
from harness.serving.one_at_a_time import ALONE_SUMS, alone_capacity_per_s, alone_occupancy, alone_sums
from harness.serving.simulated_fleet import FleetSystem
from harness.serving.simulated_queue import OneByOne

MOST_LOAD: Final = 0.9
"""Of what a system can serve, a plan gives it at most so much: nearer to it times grow without bound, and what the
models don't know decides whether it is saturated."""
_CHUNK = 1 << 17
"""Pairs that are summed at a time."""


@dataclass(frozen=True)
class RatedSystem:
    """A system with its replicas, for any mix of requests at any rate."""

    fleet: FleetSystem
    profile: Profile
    waiting_w: float
    """Of a replica while nothing is in it; 0 where it is off then, or where nobody measured it."""
    subtracted_w: float
    """Idle power that is subtracted while it works; 0 where that is included."""

    @property
    def label(self) -> str:
        """Its name."""
        return self.fleet.label

    @property
    def width(self) -> int:
        """Numbers that a mix is known by."""
        return ALONE_SUMS if isinstance(self.fleet.engine, OneByOne) else SUMS

    def sums(self, m: Tokens, n: Tokens) -> Floats:
        """What a mix is known by is sums of these: shape (width, requests). The first is 1."""
        engine = self.fleet.engine
        return alone_sums(engine, m, n) if isinstance(engine, OneByOne) else request_sums(engine, m, n)

    def sums_by_group(self, workload: Workload, group: Indices, groups: int) -> Floats:
        """The same, summed over groups of the workload's pairs: shape (width, groups)."""
        total = np.zeros((self.width, groups))
        for start in range(0, workload.count.size, _CHUNK):
            at = slice(start, start + _CHUNK)
            values = workload.count[at] * self.sums(workload.input_tokens[at], workload.output_tokens[at])
            total += [np.bincount(group[at], row, groups) for row in values]
        return total

    def under(self, sums_per_s: Floats) -> Occupancy:
        """What its replicas do under mixes, shape (width, …), of so much per second."""
        engine, replicas = self.fleet.engine, self.fleet.replicas
        if isinstance(engine, OneByOne):
            return alone_occupancy(sums_per_s, replicas)
        return occupancy(engine, sums_per_s, replicas)

    def capacity_per_s(self, sums: Floats) -> Floats:
        """Requests per second of mixes, known by sums of any rate, beyond which it is saturated."""
        engine, replicas = self.fleet.engine, self.fleet.replicas
        if isinstance(engine, OneByOne):
            return alone_capacity_per_s(sums, replicas)
        return capacity_per_s(engine, sums, replicas)

    def one_alone(self, sums: Floats) -> tuple[float, float]:
        """Joules that count and seconds of a mean request of a mix, shape (width,), while nothing else is in it."""
        found = self.under(1e-9 * sums / sums[0])
        net_w = found.power_w - self.fleet.replicas * found.busy_share * self.subtracted_w
        return float(net_w / found.rate_per_s), float(found.e2e_s)

    def power_w(self, found: Occupancy) -> Floats:
        """Power that counts: of its steps and, while it is on and nothing is in it, idle. Off without any request."""
        on = found.energy_w(self.waiting_w) - self.fleet.replicas * found.busy_share * self.subtracted_w
        return np.where(found.rate_per_s > 0, on, 0.0)

    def machines(self, found: Occupancy) -> Floats:
        """Machines that are on: all replicas or, where they are off when idle, those that work."""
        share = found.busy_share if self.fleet.off_when_idle else np.ones_like(found.busy_share)
        return np.where(found.rate_per_s > 0, self.fleet.replicas * share, 0.0)


@dataclass(frozen=True)
class Split:
    """What ways to split the requests among systems do. Arrays have one entry per way; by system, that comes first."""

    occupancies: tuple[Occupancy, ...]
    """By system."""
    power_w: Floats
    """Shape (systems, ways)."""
    machines: Floats
    """On, of all systems."""
    rate_per_s: Floats
    """Of all requests."""

    @property
    def saturated(self) -> Mask:
        """Whether a system gets more than it can serve."""
        return np.logical_or.reduce([each.saturated > 0 for each in self.occupancies])

    @property
    def rough(self) -> Mask:
        """Whether the closed form is known to be off for a system."""
        return np.logical_or.reduce([each.rough > 0 for each in self.occupancies])

    @property
    def held(self) -> Floats:
        """Requests in all systems; infinite where one is saturated."""
        return np.add.reduce([each.held for each in self.occupancies])

    @property
    def energy_j(self) -> Floats:
        """Mean, per request."""
        return np.asarray(self.power_w.sum(axis=0) / self.rate_per_s)

    @property
    def e2e_s(self) -> Floats:
        """Mean time of a request; infinite where a system is saturated."""
        return self.held / self.rate_per_s

    def time_s(self, scales: Scales) -> Floats:
        """What a cost counts as a request's time: from its coming to its end or, by prices, of machines that are on."""
        return self.machines / self.rate_per_s if scales.name == "price" else self.e2e_s

    def cost(self, scales: Scales, slo_s: float | None = None) -> Floats:
        """Mean cost of a request; infinite where a system is saturated or the mean time exceeds ``slo_s``."""
        out = self.saturated if slo_s is None else self.saturated | ~(self.e2e_s <= slo_s)
        return np.where(out, np.inf, scales.cost(self.energy_j, np.where(out, 0.0, self.time_s(scales))))


@dataclass(frozen=True)
class FleetAtRate:
    """Systems among which the requests of a workload, that come at a rate, are split."""

    systems: tuple[RatedSystem, ...]
    workload: Workload
    rate_per_s: float
    most_load: float = MOST_LOAD
    """Of what a system can serve, the most that plans give it."""

    def at(self, rate_per_s: float) -> FleetAtRate:
        """The same at another rate."""
        return replace(self, rate_per_s=rate_per_s)

    def to_the_brim(self) -> FleetAtRate:
        """The same, systems filled up to saturation: for rates that they can't serve with room to spare."""
        return replace(self, most_load=1.0)

    def split(self, sums: Sequence[Floats]) -> Split:
        """What ways do that give each system so many of the workload's requests: sums of shape (width, ways)."""
        per_request = self.rate_per_s / self.workload.requests
        found = tuple(system.under(each * per_request) for system, each in zip(self.systems, sums, strict=True))
        pairs = list(zip(self.systems, found, strict=True))
        power = np.stack([system.power_w(each) for system, each in pairs])
        machines = np.add.reduce([system.machines(each) for system, each in pairs])
        return Split(found, power, machines, np.full(machines.shape, self.rate_per_s))

    def cost(self, sums: Sequence[Floats], split: Split, scales: Scales, slo_s: float | None) -> Floats:
        """Mean cost of a request of the ways that ``split`` is of; infinite where a plan may not be.

        It may not where a system gets more than ``most_load`` of what it can serve, nor where the mean time exceeds
        ``slo_s``.
        """
        crowded = self.split([each / self.most_load for each in sums]).saturated
        return np.where(crowded, np.inf, split.cost(scales, slo_s))

    def of_plans(self, plans: Sequence[Floats]) -> Split:
        """What plans do that say how many requests of each pair each system serves: shapes (systems, pairs)."""
        m, n = self.workload.input_tokens, self.workload.output_tokens
        sums = [np.zeros((system.width, len(plans))) for system in self.systems]
        for start in range(0, m.size, _CHUNK):
            at = slice(start, start + _CHUNK)
            for s, system in enumerate(self.systems):
                served = np.stack([plan[s, at] for plan in plans], axis=1)
                sums[s] += system.sums(m[at], n[at]) @ served
        return self.split(sums)

    def totals(self) -> list[Floats]:
        """Sums over all requests, for each system: shapes (width, 1)."""
        every = np.zeros(self.workload.count.size, dtype=np.intp)
        return [system.sums_by_group(self.workload, every, 1) for system in self.systems]

    def alone(self) -> list[Floats]:
        """Sums of ways that give each system all requests in turn: shapes (width, systems)."""
        systems = np.arange(len(self.systems))
        return [total * (systems == s) for s, total in enumerate(self.totals())]

    def capacity_per_s(self, sums: Sequence[Floats]) -> Floats:
        """The rate of all requests beyond which ways to split them saturate a system."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.rate_per_s / self.loads(sums).max(axis=0))

    def loads(self, sums: Sequence[Floats]) -> Floats:
        """What share each system gets of what it can serve, by ways to split the requests: shape (systems, ways)."""
        found = []
        for system, each in zip(self.systems, sums, strict=True):
            rate, served = self.rate_per_s * each[0] / self.workload.requests, system.capacity_per_s(each)
            found.append(np.divide(rate, served, out=np.zeros(rate.shape), where=served > 0))
        return np.stack(found)
