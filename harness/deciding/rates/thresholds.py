"""The best threshold between two systems at an arrival rate, with all that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.core.arrays import Floats
from harness.deciding import routing
from harness.deciding.answers import load_distinct
from harness.deciding.costs import Costs, TooFar
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
from harness.deciding.rates.doubt import DrawnSplit, drawn_split, threshold_errors
from harness.deciding.rates.effects import effects, simulated_effects, simulated_figures, ways
from harness.deciding.rates.fleet import FleetAtRate
from harness.deciding.rates.plans import PlansAtRate, RateCurve, ThresholdAtRate
from harness.deciding.rates.simulated import SimulatedPlan, simulated_plan
from harness.deciding.rates.threshold import EVERY_KEY, FEW_KEYS, KeySums, ThresholdCurve, key_sums, tried
from harness.deciding.scales import Scales
from harness.deciding.threshold import Curve, request_key
from harness.deciding.uncertainty import SavingBand, Uncertainty, curve_band, curve_uncertainty
from harness.deciding.workload import Workload
from harness.modelling.profile_fit import ProfileLike

CANDIDATES = 9
"""Thresholds that a simulation tries where the closed form is off."""
PLAN = "with threshold"


def decide_threshold_at_rate(
    small: ProfileLike,
    large: ProfileLike,
    workload: Workload,
    arriving: Arriving,
    *,
    key: str = "input",
    asked: RateOptions | None = None,
) -> ThresholdAtRate:
    """Find the size up to which requests should go to the small system when they come at a rate.

    How they come is said by ``arriving`` or ``arriving_as_logged``. Each system's load, times and power follow from
    what it gets. Else as ``decide_threshold``. Raises UserError.
    """
    asked = asked or RateOptions()
    loaded = load_distinct([small, large])
    fleet, notes = rated_fleet(loaded, workload, arriving.rate_per_s, asked)
    unit = 1 if asked.reference is None else position_of(fleet, loaded, asked.reference)
    scales = rate_scales(fleet, asked, unit)
    sums = key_sums(fleet, key)
    curve = tried(fleet, sums, scales, asked.slo_s, EVERY_KEY)
    best = curve.best if np.isfinite(curve.cost).any() else None
    bursts = None if best is None else arriving.burstiness(float(curve.split.e2e_s[best]))
    reason, runs = "", dict[int, SimulatedPlan]()
    if best is not None:
        reason = simulation_reason(fleet, bool(curve.split.rough[best]), bursts)
        runs = _simulated(fleet, arriving, key, scales, curve, best, bool(reason))
        if reason:
            allowed = [place for place in runs if np.isfinite(curve.cost[place])]
            best = min(allowed, key=lambda place: _cost(curve, place, runs[place], scales, asked.slo_s))
    costs = costs_at_load(fleet, curve.split, [*([] if best is None else [best]), 0, curve.place.size - 1], asked)
    plans, uncertain, band = _plans(fleet, costs, key, sums, curve, best, scales, asked.slo_s, runs if reason else {})
    return ThresholdAtRate(
        fleet=fleet,
        arriving=arriving,
        costs=costs,
        scales=scales,
        slo_s=asked.slo_s,
        plans=plans,
        by_rate=_by_rate(fleet, sums, scales, asked.slo_s),
        burstiness=bursts,
        simulated=None if best is None else runs[best],
        by_simulation=reason,
        notes=tuple(notes),
        fitted=tuple(note for one in loaded for note in one.fitted),
        key=key,
        curve=curve,
        best=best,
        uncertainty=uncertain,
        band=band,
    )


def _simulated(
    fleet: FleetAtRate,
    how: Arriving,
    key: str,
    scales: Scales,
    curve: ThresholdCurve,
    best: int,
    several: bool,
) -> dict[int, SimulatedPlan]:
    """Simulations of the best threshold and, where ``several`` are to be tried, of others that plans may have and of
    each system alone, where it isn't saturated; by their place in the curve."""
    ends = [end for end in (0, curve.place.size - 1) if not curve.split.saturated[end]]
    places = [best]
    if several:
        allowed = np.flatnonzero(np.isfinite(curve.cost))
        spread = np.linspace(0, allowed.size - 1, CANDIDATES).round().astype(int)
        places = sorted({best, *allowed[spread].tolist(), *ends})
    requests = how.requests(fleet.workload)
    values = request_key(key, requests.input_tokens, requests.output_tokens)
    return {
        place: simulated_plan(
            fleet, requests, (values > curve.threshold[place]).astype(np.intp), sampled=how.log is None
        )
        for place in places
    }


def _cost(curve: ThresholdCurve, place: int, run: SimulatedPlan, scales: Scales, slo_s: float | None) -> float:
    if slo_s is not None and run.e2e_s > slo_s:
        return float("inf")
    machine_s = float(curve.split.machines[place] / curve.split.rate_per_s[place])
    time_s = machine_s if scales.name == "price" else run.e2e_s
    return float(scales.cost(np.array(run.energy_j), np.array(time_s)))


def _by_rate(fleet: FleetAtRate, sums: KeySums, scales: Scales, slo_s: float | None) -> RateCurve:
    few = sums.part(sums.spread(FEW_KEYS))
    capacity = float(fleet.capacity_per_s(few).max())

    def find(at: FleetAtRate) -> BestAtRate:
        curve = tried(at, sums, scales, slo_s, FEW_KEYS)
        best, share = curve.best, float(curve.small_share[curve.best])
        return BestAtRate(
            float(curve.cost[best]),
            float(curve.split.energy_j[best]),
            float(curve.split.e2e_s[best]),
            np.array([share, 1 - share]),
            int(curve.threshold[best]),
        )

    return rate_curve(fleet, find, capacity, scales, slo_s)


def _plans(
    fleet: FleetAtRate,
    costs: Costs,
    key: str,
    sums: KeySums,
    curve: ThresholdCurve,
    best: int | None,
    scales: Scales,
    slo_s: float | None,
    runs: dict[int, SimulatedPlan],
) -> tuple[PlansAtRate, Uncertainty | None, SavingBand | None]:
    """The plan and each system alone with intervals, and what the plan saves; by simulations where there are any."""
    small, large = (system.label for system in fleet.systems)
    chosen = 0 if best is None else int(curve.threshold[best])
    places, errors = threshold_errors(fleet, costs, key, sums, chosen)
    at = {small: places.size - 1, large: 0}
    if best is not None:
        at[PLAN] = int(np.searchsorted(sums.threshold[places], chosen))
    picked = list(at.values())
    some = errors[0][:, :, picked], errors[1][:, :, picked]
    found = ways(fleet, list(at), sums.part(places[picked]), some, costs, scales, slo_s)
    against, plans = found.against([large, small]), dict(found.plans)
    plan = plans.pop(PLAN, None)
    too_far = TooFar() if plan is None else _too_far(fleet, costs, key, chosen)
    if best is None or against is None or plan is None:
        return PlansAtRate(plan, plans, against, None, too_far), None, None
    effect = effects(found, scales, PLAN, against, too_far.known)
    uncertain, band = _uncertain(fleet, costs, sums, places, errors, chosen, scales, at[against], too_far.known, slo_s)
    if runs:
        plan = simulated_figures(plan, runs[best], scales, slo_s)
        for label, alone in ((small, curve.place.size - 1), (large, 0)):
            if alone in runs:
                plans[label] = simulated_figures(plans[label], runs[alone], scales, slo_s)
        effect = simulated_effects(effect, plan, plans[against])
    uncertain = replace(uncertain, saving=effect.saving, cost_saving=effect.cost_saving, runtime_ratio=effect.e2e_ratio)
    return PlansAtRate(plan, plans, against, effect, too_far), uncertain, band


def _uncertain(
    fleet: FleetAtRate,
    costs: Costs,
    sums: KeySums,
    places: np.ndarray,
    errors: tuple[Floats, Floats],
    chosen: int,
    scales: Scales,
    against: int,
    known: bool,
    slo_s: float | None,
) -> tuple[Uncertainty, SavingBand]:
    """Over all thresholds that plans may have; of a request, whose time is as ``Split.time_s``."""
    part = sums.part(places)
    split, drawn = fleet.split(part), drawn_split(fleet, part, scales, errors, costs)
    allowed = np.isfinite(fleet.cost(part, split, scales, None))
    if not allowed.any():
        allowed = ~split.saturated
    allowed[[against, int(np.searchsorted(sums.threshold[places], chosen))]] = True
    kept = np.flatnonzero(allowed)
    at = sums.threshold[places]
    threshold, share = at[kept], (sums.requests[places] / fleet.workload.requests)[kept]
    exact = Curve(threshold, split.energy_j[kept], split.time_s(scales)[kept], share)
    draws = Curve(threshold, drawn.energy_j[:, kept], drawn.time_s[:, kept], share)
    base = int(np.searchsorted(kept, against))
    found = curve_uncertainty(exact, draws, chosen, scales, known, base)
    low, high = _drawn_best(fleet, part, drawn, errors[1], scales, slo_s)
    found = replace(found, threshold_low=int(at[low]), threshold_high=int(at[high]))
    return found, curve_band(exact, draws, base)


def _drawn_best(
    fleet: FleetAtRate,
    part: Sequence[Floats],
    drawn: DrawnSplit,
    seconds: Floats,
    scales: Scales,
    slo_s: float | None,
) -> tuple[int, int]:
    """The 95 % interval of the best way. Where requests take longer than expected a system can serve fewer."""
    loads = fleet.loads(part) * (1 + seconds)
    cost = scales.cost(drawn.energy_j, drawn.time_s if scales.runtime_weight else np.zeros(1))
    cost = np.where((loads <= fleet.most_load).all(axis=1) & np.isfinite(cost), cost, np.inf)
    if slo_s is not None:
        cost = np.where(drawn.e2e_s <= slo_s, cost, np.inf)
    best = np.argmin(cost, axis=1)[np.isfinite(cost).any(axis=1)]
    low, high = np.percentile(best, [2.5, 97.5], method="nearest").astype(int).tolist() if best.size else (0, 0)
    return low, high


def _too_far(fleet: FleetAtRate, costs: Costs, key: str, chosen: int) -> TooFar:
    workload = fleet.workload
    values = request_key(key, workload.input_tokens, workload.output_tokens)
    plans = [routing.served_by((values > limit).astype(np.intp), workload.count, 2) for limit in (chosen, 0)]
    return costs.too_far_share(workload, plans)
