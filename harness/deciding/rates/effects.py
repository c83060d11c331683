"""Plans at a rate with their intervals, and what one saves against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.arrays import Floats
from harness.deciding.costs import Costs
from harness.deciding.rates.doubt import DrawnSplit, drawn_split
from harness.deciding.rates.fleet import FleetAtRate, Split
from harness.deciding.rates.plans import Effects, PlanAtRate, plans_at_rate
from harness.deciding.rates.simulated import SimulatedPlan
from harness.deciding.scales import Scales
from harness.deciding.uncertainty import Interval, estimated_ratio, estimated_saving


@dataclass(frozen=True)
class Ways:
    """Some ways to split the requests, by name, and draws of what they do."""

    names: tuple[str, ...]
    split: Split
    drawn: DrawnSplit
    plans: dict[str, PlanAtRate]

    def against(self, labels: Sequence[str]) -> str | None:
        """The first of some of them that saturates no system; None without any."""
        return next((label for label in labels if not self.plans[label].saturated), None)


def ways(
    fleet: FleetAtRate,
    names: Sequence[str],
    sums: Sequence[Floats],
    errors: tuple[Floats, Floats],
    costs: Costs,
    scales: Scales,
    slo_s: float | None,
) -> Ways:
    """Ways that give each system sums of shape (width, ways); ``errors`` are as ``drawn_split`` takes them."""
    split, drawn = fleet.split(sums), drawn_split(fleet, sums, scales, errors, costs)
    capacity = [system.capacity_per_s(each) for system, each in zip(fleet.systems, sums, strict=True)]
    plans = plans_at_rate(fleet, split, drawn, scales, slo_s, capacity)
    return Ways(tuple(names), split, drawn, dict(zip(names, plans, strict=True)))


def effects(found: Ways, scales: Scales, first: str, second: str, known: bool) -> Effects:
    """What the way ``first`` saves against ``second``, of which none saturates a system."""
    both = [found.names.index(name) for name in (first, second)]
    split, drawn = found.split, found.drawn
    energy, energies = split.energy_j[both], drawn.energy_j[:, both]
    cost, drawn_cost = split.cost(scales)[both], scales.cost(energies, drawn.time_s[:, both])
    saving, cost_saving = (
        replace(estimated_saving(exact, draws), known=known)
        for exact, draws in ((energy, energies), (cost, drawn_cost))
    )
    return Effects(saving, cost_saving, estimated_ratio(split.e2e_s[both], drawn.e2e_s[:, both]))


def simulated_figures(plan: PlanAtRate, found: SimulatedPlan, scales: Scales, slo_s: float | None) -> PlanAtRate:
    """The plan with the figures of its simulation, as wide intervals around them as before."""
    time_s = plan.machine_s if scales.name == "price" else found.e2e_s
    energy, time = np.array(found.energy_j), np.array(time_s)
    systems = tuple(
        replace(
            system,
            busy_share=found.busy_share[s],
            steps_per_s=found.steps_per_s[s],
            power_w=found.powers_w[s],
            e2e_s=found.times_s[s],
            concurrency=found.concurrency[s],
        )
        for s, system in enumerate(plan.systems)
    )
    return replace(
        plan,
        systems=systems,
        energy_j=found.energy_j,
        power_w=found.power_w,
        e2e_s=found.e2e_s,
        cost=float(scales.cost(energy, time)),
        meets_slo=None if slo_s is None else found.e2e_s <= slo_s,
    )


def simulated_effects(found: Effects, plan: PlanAtRate, base: PlanAtRate) -> Effects:
    """The same with the figures of two plans that were simulated: intervals as wide as before."""
    return Effects(
        _moved(found.saving, 1 - _ratio(plan.energy_j, base.energy_j)),
        _moved(found.cost_saving, 1 - _ratio(plan.cost, base.cost)),
        _moved(found.e2e_ratio, _ratio(plan.e2e_s, base.e2e_s)),
    )


def _ratio(first: float | None, second: float | None) -> float:
    assert first is not None
    assert second is not None
    return first / second


def _moved(found: Interval, value: float) -> Interval:
    return Interval(value, found.low + value - found.value, found.high + value - found.value, found.known)
