"""Ways to serve a workload, their totals and how sure these are."""

from dataclasses import dataclass, replace

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding import routing
from harness.deciding.costs import Costs
from harness.deciding.draws import half_widths
from harness.deciding.in_time import in_time_shares
from harness.deciding.routing import Mask
from harness.deciding.scales import Scales
from harness.deciding.uncertainty import Interval
from harness.deciding.workload import Workload


@dataclass(frozen=True)
class ServingPlan:
    """Totals of one way to serve the workload."""

    energy_j: float
    """Within the boundary, idle power included or subtracted as asked."""
    energy_ci95_j: float
    """Half-width of the 95 % interval: on another day, against true meters; the sizes of the requests are taken as they
    are."""
    runtime_s: float
    """Sum over the requests."""
    runtime_ci95_s: float
    cost: float
    marginal_energy_j: float | None
    """Energy above idle; None where an idle power is unknown."""
    fleet_energy_j: float | None
    """With every system of the plan switched on, idle or not, for ``horizon_s``; None also where one would be busy
    for longer."""
    horizon_s: float
    """The horizon asked for, or the longest busy time of a system in any of the plans that are compared, when each
    system serves as many requests at a time as its profile says."""
    meets_slo: bool | None
    """Whether every request is expected to be served within the latency objective; None without one."""
    in_time: Interval | None = None
    """Share of the workload's requests that are served within it, each counted with its probability; None without."""
    energy_sd_j: float | None = None
    """Standard deviation over random routings; None for plans without chance."""


def serving_plans(
    costs: Costs,
    workload: Workload,
    scales: Scales,
    requests: Floats,
    horizon_s: float | None,
    allowed: Mask | None,
    slo_s: float | None,
) -> tuple[ServingPlan, dict[str, ServingPlan], tuple[Floats, Floats]]:
    """The plan that ``requests`` is, and its baselines: each system alone by its label, then ``round_robin``,
    ``random`` and ``oracle`` (least cost per request). Last the half-widths of the 95 % intervals of the plan's
    energy in J and busy time in s by system.

    ``allowed`` marks which system may serve which pair; None for all. What none may serve is left out; else only the
    oracle heeds it. ``slo_s`` is the latency objective that plans are held against. Raises UserError when the plan
    doesn't fit into ``horizon_s``.
    """
    systems = len(costs.labels)
    count = workload.count if allowed is None else np.where(allowed.any(axis=0), workload.count, 0.0)
    cost = scales.cost(costs.energy_j, costs.runtime_s)
    alone = [np.outer(np.arange(systems) == s, count) for s in range(systems)]
    even = np.broadcast_to(count / systems, cost.shape)
    oracle = routing.served_by(routing.cheapest(cost, allowed), count, systems)
    plans = (requests, *alone, even, oracle)
    busy_s = [(x * costs.busy_s).sum(axis=1) for x in plans]
    horizon = max(float(b.max()) for b in busy_s) if horizon_s is None else horizon_s
    if busy_s[0].max() > horizon:
        slowest = int(busy_s[0].argmax())
        at_once = costs.profiles[slowest].requests_in_flight
        raise UserError(
            f"--horizon {horizon:g} s is too short: {costs.labels[slowest]} is busy for {busy_s[0][slowest]:,.0f} s "
            f"when it serves {'one request' if at_once == 1 else f'{at_once} requests'} at a time"
        )
    widths = half_widths(costs, workload, plans)
    shares = [None] * len(plans) if slo_s is None else in_time_shares(costs, workload, plans, slo_s)
    totals = zip(widths.energy_j.tolist(), widths.runtime_s.tolist(), strict=True)
    plan, *alone_plans, round_robin, oracle_plan = (
        replace(_plan(costs, scales, x, ci95, horizon, slo_s), in_time=share)
        for x, ci95, share in zip(plans, totals, shares, strict=True)
    )
    # On average a random choice is the even split; it scatters around it.
    spread = float(np.sqrt(count @ costs.energy_j.var(axis=0)))
    named = dict(zip(costs.labels, alone_plans, strict=True))
    named |= {"round_robin": round_robin, "random": replace(round_robin, energy_sd_j=spread), "oracle": oracle_plan}
    return plan, named, (widths.energy_by_system_j[0], widths.runtime_by_system_s[0] / costs.in_flight[:, 0])


def _plan(
    costs: Costs, scales: Scales, requests: Floats, ci95: tuple[float, float], horizon_s: float, slo_s: float | None
) -> ServingPlan:
    """Totals of an assignment; systems that serve nothing are switched off only when one serves all.

    ``ci95`` are the half-widths of energy in J and of runtime in s.
    """
    energy_j, runtime_s, busy_s = ((requests * c).sum(axis=1) for c in (costs.energy_j, costs.runtime_s, costs.busy_s))
    used = requests.sum(axis=1) > 0
    on = used if np.count_nonzero(used) == 1 else np.ones(used.size, dtype=np.bool_)
    energy, runtime = float(energy_j.sum()), float(runtime_s.sum())
    marginal = fleet = None
    if all(power is not None for power, is_on in zip(costs.idle_power_w, on, strict=True) if is_on):
        idle = np.array([power or 0.0 for power in costs.idle_power_w])
        gross = energy_j + idle * busy_s if costs.idle == "subtracted" else energy_j
        marginal = float(np.sum(gross - idle * busy_s, where=on))
        if busy_s.max() <= horizon_s:
            fleet = routing.fleet_energy_j(gross, busy_s, idle, on, horizon_s)
    cost = float(scales.cost(np.array(energy), np.array(runtime)))
    in_time = None if slo_s is None else bool((costs.runtime_s[requests > 0] <= slo_s).all())
    return ServingPlan(energy, ci95[0], runtime, ci95[1], cost, marginal, fleet, horizon_s, in_time)
