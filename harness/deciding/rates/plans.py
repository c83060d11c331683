"""Answers at an arrival rate: plans with their figures, and how these change with the rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.arrays import Floats
from harness.deciding.costs import Costs, TooFar
from harness.deciding.rates.arrivals import Arriving, Burstiness
from harness.deciding.rates.doubt import DrawnSplit, half_width
from harness.deciding.rates.fleet import FleetAtRate, Split
from harness.deciding.rates.simulated import SimulatedPlan
from harness.deciding.rates.threshold import ThresholdCurve
from harness.deciding.scales import Scales
from harness.deciding.uncertainty import Interval, SavingBand, Uncertainty
from harness.deciding.workload import Workload


@dataclass(frozen=True)
class SystemAtRate:
    """One system under its part of the requests. Times are None where it is saturated or gets none."""

    label: str
    replicas: int
    rate_per_s: float
    share: float
    """Of the requests."""
    saturated: bool
    capacity_per_s: float | None
    """Of the requests that it gets; None where it gets none."""
    concurrency: float
    """Mean number of requests in the slots of a replica while it works."""
    busy_share: float
    """Of a replica's time."""
    steps_per_s: float | None
    """Of all replicas; None where its profile knows no steps."""
    power_w: float
    """Mean, of all replicas, idle included as asked."""
    e2e_s: float | None
    """Mean time of its requests."""


@dataclass(frozen=True)
class PlanAtRate:
    """One way to split the requests. Figures are means per request; None where a system is saturated."""

    saturated: bool
    systems: tuple[SystemAtRate, ...]
    energy_j: float | None
    """All systems' power over all requests, idle power included as asked; None where one is saturated."""
    energy_ci95_j: float | None
    """Half-width of its 95 % interval."""
    power_w: float
    e2e_s: float | None
    e2e_ci95_s: float | None
    machine_s: float
    """Of machines that are on."""
    cost: float | None
    meets_slo: bool | None
    """Whether the mean time keeps the latency objective; None without one."""
    rough: bool
    """Whether the closed form is known to be off."""


@dataclass(frozen=True)
class RateCurve:
    """The best plan, and each system alone, at many rates; arrays have one entry per rate."""

    rate_per_s: Floats
    energy_j: Floats
    """Of a request by the best plan; NaN where every plan saturates a system or misses the objective."""
    e2e_s: Floats
    shares: Floats
    """Of the requests, shape (systems, rates)."""
    alone_j: Floats
    """Of a request with one system alone, shape (systems, rates); NaN where that is saturated or misses it."""
    threshold: Floats | None
    """Of the best plan; None where plans aren't thresholds."""
    capacity_per_s: float
    """The rate above which every plan saturates a system."""
    pays_from_per_s: float | None
    """The lowest rate at which more than one system costs less than any alone; None where there is none."""


@dataclass(frozen=True)
class Effects:
    """What one way saves against another."""

    saving: Interval
    """Of energy."""
    cost_saving: Interval
    e2e_ratio: Interval


@dataclass(frozen=True)
class PlansAtRate:
    """The plan and what it is compared with."""

    plan: PlanAtRate | None
    """None where every plan saturates a system or misses the latency objective."""
    baselines: dict[str, PlanAtRate]
    """Each system alone, by its label."""
    against: str | None
    """The baseline that savings are against; None where each is saturated."""
    effects: Effects | None
    """What the plan saves; None without a plan or a baseline to compare it with."""
    too_far: TooFar


@dataclass(frozen=True)
class AtRate:
    """What every answer at a rate has."""

    fleet: FleetAtRate
    arriving: Arriving
    costs: Costs
    """At the loads that the systems work at."""
    scales: Scales
    slo_s: float | None
    plans: PlansAtRate
    by_rate: RateCurve
    burstiness: Burstiness | None
    """Of a log's own times."""
    simulated: SimulatedPlan | None
    """The plan, simulated."""
    by_simulation: str
    """Why the plan's figures are those of the simulation; empty where they are those of the closed form."""
    notes: tuple[str, ...]
    fitted: tuple[str, ...]

    @property
    def workload(self) -> Workload:
        """The requests."""
        return self.fleet.workload

    @property
    def saturated(self) -> bool:
        """Whether more requests come than all systems together can serve."""
        return self.fleet.rate_per_s >= self.by_rate.capacity_per_s


@dataclass(frozen=True)
class ThresholdAtRate(AtRate):
    """The best threshold between two systems at a rate."""

    key: str
    curve: ThresholdCurve
    best: int | None
    """Index into ``curve``; None without a plan."""
    uncertainty: Uncertainty | None
    band: SavingBand | None

    @property
    def threshold(self) -> int | None:
        """Largest key that goes to the small system; 0 where nothing does."""
        return None if self.best is None else int(self.curve.threshold[self.best])


@dataclass(frozen=True)
class RoutingAtRate(AtRate):
    """Who serves what among several systems at a rate."""

    requests: Floats | None
    """Of each pair by each system, shape (systems, pairs); None without a plan."""
    prices: tuple[Floats, ...] | None
    """What each system's request sums cost at the margin: requests go where their price is least."""


def plans_at_rate(
    fleet: FleetAtRate, split: Split, drawn: DrawnSplit, scales: Scales, slo_s: float | None, capacity: Sequence[Floats]
) -> list[PlanAtRate]:
    """Every way of a split as a plan; ``capacity`` is that of each system by way."""
    energy_ci95, e2e_ci95 = (
        half_width(values, draws) for values, draws in ((split.energy_j, drawn.energy_j), (split.e2e_s, drawn.e2e_s))
    )
    cost = split.cost(scales)
    plans = []
    for way in range(split.rate_per_s.size):
        systems = tuple(_system(fleet, split, way, s, float(capacity[s][way])) for s in range(len(fleet.systems)))
        e2e = _finite(split.e2e_s[way])
        plans.append(
            PlanAtRate(
                saturated=bool(split.saturated[way]),
                systems=systems,
                energy_j=None if split.saturated[way] else float(split.energy_j[way]),
                energy_ci95_j=None if split.saturated[way] else _finite(energy_ci95[way]),
                power_w=float(split.power_w[:, way].sum()),
                e2e_s=e2e,
                e2e_ci95_s=None if e2e is None else _finite(e2e_ci95[way]),
                machine_s=float(split.machines[way] / split.rate_per_s[way]),
                cost=_finite(cost[way]),
                meets_slo=None if slo_s is None else e2e is not None and e2e <= slo_s,
                rough=bool(split.rough[way]),
            )
        )
    return plans


def _system(fleet: FleetAtRate, split: Split, way: int, s: int, capacity: float) -> SystemAtRate:
    found, system = split.occupancies[s], fleet.systems[s]
    rate = float(found.rate_per_s[way])
    return SystemAtRate(
        label=system.label,
        replicas=system.fleet.replicas,
        rate_per_s=rate,
        share=rate / fleet.rate_per_s,
        saturated=bool(found.saturated[way]),
        capacity_per_s=capacity if rate > 0 else None,
        concurrency=float(found.running[way]),
        busy_share=float(found.busy_share[way]),
        steps_per_s=_finite(found.steps_per_s[way]),
        power_w=float(split.power_w[s, way]),
        e2e_s=_finite(found.e2e_s[way]),
    )


def _finite(value: float | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
