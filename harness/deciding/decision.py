"""Answers for the operator: where the threshold is or who serves what, what it saves and what it costs in time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding import draws as drawing
from harness.deciding import routing, threshold, uncertainty
from harness.deciding.assignment import Assignment, Limit, assign
from harness.deciding.costs import Costs, TooFar, expected_by_input
from harness.deciding.plans import ServingPlan, serving_plans
from harness.deciding.routing import Choice, Mask
from harness.deciding.scales import Prices, Scales, price_scales, raw_scales, reference_scales
from harness.deciding.threshold import Curve, KeyTotals
from harness.deciding.turning import GainTurn, gain_turn
from harness.deciding.uncertainty import Interval, SavingBand, Uncertainty
from harness.deciding.workload import Tokens, Workload


@dataclass(frozen=True)
class BestThreshold:
    """The best threshold between two systems and how sure it is. System 0 is the small, 1 the large one."""

    key: str
    scales: Scales
    curve: Curve
    best: int
    """Index into ``curve``."""
    uncertainty: Uncertainty
    gain: GainTurn
    """What the meters' gains would have to be for another answer."""
    too_far: TooFar
    """What lies too far outside what was measured: beyond a limit, nothing is called significant."""

    @property
    def threshold(self) -> int:
        """Largest key that goes to the small system; 0 where nothing does."""
        return int(self.curve.threshold[self.best])


@dataclass(frozen=True)
class ThresholdDecision(BestThreshold):
    """The best threshold and the plans that surround it."""

    plan: ServingPlan
    baselines: dict[str, ServingPlan]


@dataclass(frozen=True)
class RoutingDecision:
    """Who serves what among several systems."""

    scales: Scales
    requests: Floats
    """Shape (systems, pairs)."""
    energy_ci95_j: Floats
    """Half-width of the 95 % interval of what each system needs for its requests, shape (systems,)."""
    busy_ci95_s: Floats
    """The same of how long it is busy."""
    plan: ServingPlan
    baselines: dict[str, ServingPlan]
    alone: int
    """The system of least cost among those that serve everything alone; savings are against it."""
    saving: Interval
    """Of energy."""
    cost_saving: Interval
    """Of what was minimised."""
    runtime_ratio: Interval
    too_far: TooFar
    """What lies too far outside what was measured: beyond a limit, nothing is called significant."""
    unserved: float
    """Requests that no system serves within the latency limit."""
    limits: tuple[Limit, ...]
    assignment: Assignment | None
    """How the limits were met; None without any."""
    input_rule: tuple[Tokens, Choice] | None
    """Where requests are routed on their input length alone: ascending lengths and the system of each. ``requests``
    then holds requests that the rule was not learned from."""


def make_scales(
    name: str, weight: float | None, costs: Costs, workload: Workload, reference: int, prices: Prices | None = None
) -> Scales:
    """The scales ``reference``, ``price`` or ``none``; ``weight`` is λ, 1 where None; prices are per kWh and per hour.

    Raises UserError for an unknown name and where prices and scale contradict each other.
    """
    if name not in ("reference", "price", "none"):
        raise UserError(f"unknown scale {name}; use reference, price or none")
    if name == "price":
        if weight is not None:
            raise UserError("prices already weigh energy against time: leave out --weight or --scale price")
        if prices is None:
            raise UserError("--scale price needs --price-per-kwh, --price-per-hour or both")
        return price_scales(prices[0], _per_hour_of_a_request(prices[1], costs))
    if prices is not None:
        raise UserError("--price-per-kwh and --price-per-hour need --scale price")
    energy_weight = 1.0 if weight is None else weight
    if name == "none":
        return raw_scales(energy_weight)
    return reference_scales(energy_weight, costs.energy_j[reference], costs.runtime_s[reference], workload.count)


def _per_hour_of_a_request(price_per_hour: float, costs: Costs) -> float:
    """What an hour of one request's runtime costs of a machine's hour, which the requests in flight share.

    Raises UserError where the systems differ in how many these are: their runtimes then have no price in common.
    """
    shared = dict(zip(costs.labels, costs.in_flight[:, 0].tolist(), strict=True))
    if price_per_hour and len(set(shared.values())) > 1:
        said = ", ".join(f"{label}: {requests:g}" for label, requests in shared.items())
        raise UserError(
            f"an hour of a machine is shared by different numbers of requests in flight ({said}): leave out "
            "--price-per-hour, or fit all at one concurrency (joulebench fit -c)"
        )
    return price_per_hour / next(iter(shared.values()))


def best_thresholds(costs: Costs, workload: Workload, key: str, scales: Sequence[Scales]) -> list[BestThreshold]:
    """The exact best threshold between two systems for each of the scales, with its uncertainty.

    The scales share their draws, which differ only where neighbouring keys are merged around the threshold. Raises
    UserError for an unknown key.
    """
    values = threshold.request_key(key, workload.input_tokens, workload.output_tokens)
    totals = threshold.totals_by_key(values, workload.count, costs.energy_j, costs.runtime_s)
    curve = totals.curve
    draws: dict[int | None, tuple[KeyTotals, KeyTotals]] = {}
    found = []
    for each in scales:
        best = curve.best(each)
        chosen = int(curve.threshold[best])
        merged_around = chosen if totals.key.size > drawing.GROUPS else None
        if merged_around not in draws:
            draws[merged_around] = drawing.threshold_draws(costs, workload, values, totals, chosen)
        too_far = _too_far(costs, workload, values, chosen)
        uncertain = uncertainty.threshold_uncertainty(*draws[merged_around], chosen, each, too_far.known)
        gain = gain_turn(costs, totals, each, best)
        found.append(BestThreshold(key, each, curve, best, uncertain, gain, too_far))
    return found


def _too_far(costs: Costs, workload: Workload, values: Tokens, chosen: int) -> TooFar:
    """What lies too far outside what was measured, for a threshold and for the large system alone."""
    if costs.too_far is None:
        return TooFar()
    plans = [routing.served_by((values > limit).astype(np.intp), workload.count, 2) for limit in (chosen, 0)]
    return costs.too_far_share(workload, plans)


def threshold_band(costs: Costs, workload: Workload, found: BestThreshold) -> SavingBand:
    """What every threshold saves, with 95 % intervals from the draws behind those of the best one."""
    values = threshold.request_key(found.key, workload.input_tokens, workload.output_tokens)
    totals = threshold.totals_by_key(values, workload.count, costs.energy_j, costs.runtime_s)
    return uncertainty.saving_band(*drawing.threshold_draws(costs, workload, values, totals, found.threshold))


def threshold_plans(
    costs: Costs,
    workload: Workload,
    found: BestThreshold,
    horizon_s: float | None = None,
    slo_s: float | None = None,
) -> tuple[ServingPlan, dict[str, ServingPlan]]:
    """The plan that a threshold makes, and its baselines by name; ``slo_s`` is a latency objective that they are held
    against. Raises UserError for a horizon too short for it."""
    values = threshold.request_key(found.key, workload.input_tokens, workload.output_tokens)
    requests = routing.served_by((values > found.threshold).astype(np.intp), workload.count, 2)
    plan, baselines, _ = serving_plans(costs, workload, found.scales, requests, horizon_s, None, slo_s)
    return plan, baselines


def threshold_decision(
    costs: Costs,
    workload: Workload,
    key: str,
    scales: Scales,
    horizon_s: float | None = None,
    slo_s: float | None = None,
) -> ThresholdDecision:
    """Find the exact best threshold between two systems, with its uncertainty and baselines.

    A latency objective ``slo_s`` doesn't move the threshold: plans say what share of the requests they serve in time.
    Raises UserError for an unknown key and when the plan doesn't fit into ``horizon_s``.
    """
    (found,) = best_thresholds(costs, workload, key, [scales])
    plan, baselines = threshold_plans(costs, workload, found, horizon_s, slo_s)
    return ThresholdDecision(**vars(found), plan=plan, baselines=baselines)


def routing_decision(
    costs: Costs,
    workload: Workload,
    scales: Scales,
    limits: tuple[Limit, ...] = (),
    latency_limit_s: float | None = None,
    by_input: bool = False,
    horizon_s: float | None = None,
) -> RoutingDecision:
    """Route each pair, or with ``by_input`` each input length, at least cost within the limits.

    Requests that no system serves within the latency limit are left out of the plan and of its baselines, and
    counted. Raises UserError when nothing can be served or the limits can't be met.
    """
    cost = scales.cost(costs.energy_j, costs.runtime_s)
    allowed = routing.serviceable(costs.runtime_s, latency_limit_s)
    served = np.where(allowed.any(axis=0), workload.count, 0.0)
    if not served.any():
        raise UserError(f"no system serves any request within {latency_limit_s} s")
    if by_input and (limits or latency_limit_s is not None):
        raise UserError("--output-unknown can't be joined with --share, --capacity or --slo")
    input_rule = assignment = None
    if by_input:
        requests, input_rule = _by_input(costs, workload, scales)
    elif limits:
        assignment = assigned(costs, cost, allowed, served, limits)
        requests = assignment.requests
    else:
        requests = routing.served_by(routing.cheapest(cost, allowed), served, len(costs.labels))
    systems = range(len(costs.labels))
    capable = [s for s in systems if allowed[s, served > 0].all()]
    alone = min(capable or systems, key=lambda s: float(cost[s] @ served))
    in_time = None if latency_limit_s is None else allowed
    plan, baselines, own = serving_plans(costs, workload, scales, requests, horizon_s, in_time, latency_limit_s)
    only = routing.served_by(np.full(served.size, alone), requests.sum(axis=0), len(costs.labels))
    too_far = costs.too_far_share(workload, [requests, only])
    effects = _effects(costs, workload, scales, (requests, alone), (plan, baselines[costs.labels[alone]]), too_far)
    unserved = float(workload.count.sum() - served.sum())
    return RoutingDecision(
        scales, requests, *own, plan, baselines, alone, *effects, too_far, unserved, limits, assignment, input_rule
    )


def _effects(
    costs: Costs,
    workload: Workload,
    scales: Scales,
    assigned_and_alone: tuple[Floats, int],
    plans: tuple[ServingPlan, ServingPlan],
    too_far: TooFar,
) -> tuple[Interval, Interval, Interval]:
    """Saving of energy and of cost, and ratio of runtimes, of a plan against one system alone."""
    draws = drawing.routing_draws(costs, workload, *assigned_and_alone)
    energy, runtime = draws.energy_j[:, :, 0], draws.runtime_s[:, :, 0]
    energy_j, runtime_s = (np.array([getattr(plan, name) for plan in plans]) for name in ("energy_j", "runtime_s"))
    savings = (
        uncertainty.estimated_saving(totals, drawn)
        for totals, drawn in ((energy_j, energy), (scales.cost(energy_j, runtime_s), scales.cost(energy, runtime)))
    )
    saving, cost_saving = (replace(each, known=too_far.known) for each in savings)
    return saving, cost_saving, uncertainty.estimated_ratio(runtime_s, runtime)


def served_requests(costs: Costs, workload: Workload, latency_limit_s: float | None) -> float:
    """How many requests some system serves within the latency limit; shares are shares of these."""
    in_time = routing.serviceable(costs.runtime_s, latency_limit_s).any(axis=0)
    return float(workload.count[in_time].sum())


def assigned(costs: Costs, cost: Floats, allowed: Mask, served: Floats, limits: tuple[Limit, ...]) -> Assignment:
    """The cheapest assignment of the served requests within the limits. Raises UserError where there is none."""
    present = np.flatnonzero(served)
    masked = np.where(allowed, cost, np.inf)[:, present]
    assignment = assign(masked, costs.busy_s[:, present], served[present], list(limits))
    requests = np.zeros(cost.shape)
    requests[:, present] = assignment.requests
    return replace(assignment, requests=requests)


def tested_halves(workload: Workload) -> Iterator[tuple[Floats, Floats]]:
    """Requests by pair to test a rule on, and the others to learn it from: two random halves, each tested once.

    A single request, whose other half is empty, is learned from too.
    """
    whole = np.floor(workload.count)
    half = np.random.default_rng(drawing.SEED).binomial(whole.astype(np.int64), 0.5) + (workload.count - whole) / 2
    for tested in (half, workload.count - half):
        yield tested, workload.count - tested if (workload.count > tested).any() else tested


def _by_input(costs: Costs, workload: Workload, scales: Scales) -> tuple[Floats, tuple[Tokens, Choice]]:
    """Output lengths unknown on arrival: one system per input length, by E[cost(m, N) | m].

    Returns (requests, the rule). The rule is learned from all requests. What it is worth is seen on requests it
    was not learned from: the workload is split into two halves at random, and ``requests`` routes each half by
    the rule learned on the other.
    """
    lengths, of_length = np.unique(workload.input_tokens, return_inverse=True)
    requests = np.zeros(costs.energy_j.shape)
    for tested, learned in tested_halves(workload):
        choice = routing.cheapest(expected_by_input(costs, scales, workload, learned))
        requests += routing.served_by(choice[of_length], tested, len(costs.labels))
    rule = routing.cheapest(expected_by_input(costs, scales, workload, workload.count))
    return requests, (lengths, rule)
