"""Who serves what among several systems at an arrival rate, with all that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.core.errors import UserError
from harness.core.quantities import check_number
from harness.deciding import routing
from harness.deciding.answers import load_distinct
from harness.deciding.costs import Costs, TooFar
from harness.deciding.octaves import Indices
from harness.deciding.rates.answers import (
    RateOptions,
    costs_at_load,
    position_of,
    rate_scales,
    rated_fleet,
    simulation_reason,
)
from harness.deciding.rates.arrivals import Arriving
from harness.deciding.rates.curve import BestAtRate, rate_curve
from harness.deciding.rates.doubt import plan_errors
from harness.deciding.rates.effects import effects, simulated_effects, simulated_figures, ways
from harness.deciding.rates.fleet import FleetAtRate
from harness.deciding.rates.plans import PlanAtRate, PlansAtRate, RateCurve, RoutingAtRate
from harness.deciding.rates.routes import (
    MOST_PAIRS,
    Grouped,
    GroupSplit,
    best_split,
    chosen_systems,
    improved,
    refined,
    widest_capacity_per_s,
)
from harness.deciding.rates.simulated import SimulatedPlan, simulated_plan
from harness.deciding.routing import Choice
from harness.deciding.scales import Scales
from harness.deciding.workload import Workload
from harness.modelling.profile_fit import ProfileLike

PLAN = "routed"
DIRECT = 50_000
"""Up to so many pairs times systems the search is over single pairs; of more, it is over spots of alike sizes first."""
FEW_RATES = 12
"""Rates of the curve: each takes a search."""


def decide_routing_at_rate(
    profiles: Sequence[ProfileLike], workload: Workload, arriving: Arriving, *, asked: RateOptions | None = None
) -> RoutingAtRate:
    """Send every request where it costs least, what it adds to the load of a system counted in.

    How they come is said by ``arriving`` or ``arriving_as_logged``; else as ``decide_routing``. Raises UserError.
    """
    asked = asked or RateOptions()
    check_number("--slo", asked.slo_s)
    if len(profiles) < 2:
        raise UserError("routing needs at least two profiles or runs: joulebench route A B …")
    loaded = load_distinct(profiles)
    fleet, notes = rated_fleet(loaded, workload, arriving.rate_per_s, asked)
    unit = 0 if asked.reference is None else position_of(fleet, loaded, asked.reference)
    scales = rate_scales(fleet, asked, unit)
    grouped = Grouped.of(fleet, *alike(workload, len(profiles)), scales, asked.slo_s)
    found, choice = _searched(grouped)
    if not np.isfinite(found.cost):
        found, choice = _searched(grouped.to_the_brim())
    known = bool(np.isfinite(found.cost))
    split = fleet.split(_sums(fleet, choice))
    bursts = arriving.burstiness(float(split.e2e_s[0])) if known else None
    reason = simulation_reason(fleet, bool(split.rough[0]), bursts) if known else ""
    costs = costs_at_load(fleet, split, [0], asked)
    run = _simulated(fleet, arriving, choice) if known else None
    return RoutingAtRate(
        fleet=fleet,
        arriving=arriving,
        costs=costs,
        scales=scales,
        slo_s=asked.slo_s,
        plans=_plans(fleet, costs, choice if known else None, scales, asked.slo_s, arriving, run if reason else None),
        by_rate=_by_rate(grouped, found),
        burstiness=bursts,
        simulated=run,
        by_simulation=reason,
        notes=tuple(notes),
        fitted=tuple(note for one in loaded for note in one.fitted),
        requests=routing.served_by(choice, workload.count, len(profiles)) if known else None,
        prices=found.prices if known else None,
    )


def alike(workload: Workload, systems: int) -> tuple[Indices, int]:
    """The group of each pair that the search takes together, and how many groups there are."""
    pairs = workload.count.size
    if pairs * systems <= DIRECT:
        return np.arange(pairs), pairs
    return workload.octaves.spot, workload.octaves.spot_sizes[0].size


def _searched(grouped: Grouped) -> tuple[GroupSplit, Choice]:
    """The best split, and the system of each of the workload's pairs."""
    fleet, found = grouped.fleet, best_split(grouped)
    workload, pairs = fleet.workload, fleet.workload.count.size
    if pairs * len(fleet.systems) > MOST_PAIRS:
        return found, chosen_systems(fleet, found.prices, *workload.sizes())
    single = grouped
    if grouped.sums[0].shape[1] < pairs:
        single = Grouped.of(fleet, np.arange(pairs), pairs, grouped.scales, grouped.slo_s)
        found = refined(single, found)
    choice = improved(single, found.choice)
    return replace(found, cost=float(single.cost(single.totals(choice))[0])), choice


def _sums(fleet: FleetAtRate, choice: Choice) -> list[np.ndarray]:
    """Sums of what each system gets: shapes (width, 1)."""
    found = []
    for s, system in enumerate(fleet.systems):
        found.append(system.sums_by_group(fleet.workload, (choice != s).astype(np.intp), 2)[:, :1])
    return found


def _simulated(fleet: FleetAtRate, arriving: Arriving, choice: Choice) -> SimulatedPlan:
    """By the choice for each of the workload's pairs, of which all requests are."""
    requests, workload = arriving.requests(fleet.workload), fleet.workload
    place = workload.positions(requests.input_tokens, requests.output_tokens, requests.cached_tokens)
    return simulated_plan(fleet, requests, choice[place], sampled=arriving.log is None)


def _plans(
    fleet: FleetAtRate,
    costs: Costs,
    choice: Choice | None,
    scales: Scales,
    slo_s: float | None,
    arriving: Arriving,
    run: SimulatedPlan | None,
) -> PlansAtRate:
    """The plan and each system alone; figures are those of simulations where the plan's ``run`` is given."""
    workload, labels = fleet.workload, [system.label for system in fleet.systems]
    choices = {label: np.full(workload.count.size, s, dtype=np.intp) for s, label in enumerate(labels)}
    if choice is not None:
        choices[PLAN] = choice
    served = [routing.served_by(each, workload.count, len(labels)) for each in choices.values()]
    sums = [np.hstack(each) for each in zip(*(_sums(fleet, one) for one in choices.values()), strict=True)]
    found = ways(fleet, list(choices), sums, plan_errors(costs, fleet, served), costs, scales, slo_s)
    plans = dict(found.plans)
    plan = plans.pop(PLAN, None)
    if run is not None and plan is not None:
        plan = simulated_figures(plan, run, scales, slo_s)
        plans |= _alone_simulated(fleet, arriving, plans, scales, slo_s)
    feasible = [label for label in labels if not plans[label].saturated]
    against = min(feasible, key=lambda label: plans[label].cost or 0.0, default=None)
    compared = served[-1:] if against is None else [served[-1], served[labels.index(against)]]
    too_far = TooFar() if plan is None else costs.too_far_share(workload, compared)
    if plan is None or against is None:
        return PlansAtRate(plan, plans, against, None, too_far)
    effect = effects(found, scales, PLAN, against, too_far.known)
    if run is not None:
        effect = simulated_effects(effect, plan, plans[against])
    return PlansAtRate(plan, plans, against, effect, too_far)


def _alone_simulated(
    fleet: FleetAtRate, arriving: Arriving, plans: dict[str, PlanAtRate], scales: Scales, slo_s: float | None
) -> dict[str, PlanAtRate]:
    """Each system alone that isn't saturated, with the figures of a simulation."""
    requests, found = arriving.requests(fleet.workload), {}
    for s, system in enumerate(fleet.systems):
        if not plans[system.label].saturated:
            alone = np.full(requests.arrival_s.size, s, dtype=np.intp)
            run = simulated_plan(fleet, requests, alone, sampled=arriving.log is None)
            found[system.label] = simulated_figures(plans[system.label], run, scales, slo_s)
    return found


def _by_rate(grouped: Grouped, found: GroupSplit) -> RateCurve:
    prices = [found.prices]
    total = grouped.fleet.workload.requests

    def find(at: FleetAtRate) -> BestAtRate:
        there = grouped.at(at.rate_per_s)
        best = best_split(there, prices[0])
        if not np.isfinite(best.cost):
            there = there.to_the_brim()
            best = best_split(there, prices[0])
        prices[0] = best.prices
        totals = there.totals(best.choice)
        split = at.split(totals)
        shares = np.array([each[0, 0] for each in totals]) / total
        return BestAtRate(best.cost, float(split.energy_j[0]), float(split.e2e_s[0]), shares)

    return rate_curve(grouped.fleet, find, widest_capacity_per_s(grouped), grouped.scales, grouped.slo_s, FEW_RATES)
