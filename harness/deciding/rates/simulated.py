"""A plan at a rate, simulated: percentiles of its times, and its figures where the closed form is off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.deciding.rates.fleet import FleetAtRate
from harness.serving.simulated_figures import SimulatedFigure, mean_figure, quantile_figure
from harness.serving.simulated_fleet import SimulatedFleet, simulate_fleet
from harness.serving.simulation import Requests

LEVELS = (0.5, 0.9, 0.95, 0.99)
"""Of the percentiles."""


@dataclass(frozen=True)
class SimulatedPlan:
    """What a simulation says of a plan. Times are in s."""

    requests: int
    energy_j: float
    """Per request, idle power included as asked."""
    power_w: float
    """Mean, of the same."""
    e2e_s: float
    """Mean."""
    busy_share: tuple[float, ...]
    """By system; 0 of one without requests."""
    steps_per_s: tuple[float | None, ...]
    """By system; None where steps aren't known."""
    powers_w: tuple[float, ...]
    """By system, mean, of all its replicas; 0 of one without requests."""
    times_s: tuple[float | None, ...]
    """By system, mean time of its requests; None of one without."""
    concurrency: tuple[float, ...]
    """By system, mean number of requests that a replica works on while it works; 0 of one without."""
    percentiles: dict[str, dict[str, SimulatedFigure]]
    """Of ``ttft``, ``tpot`` and ``e2e``: ``mean``, ``p50``, ``p90``, ``p95`` and ``p99`` over all systems; without TTFT
    and TPOT where a system doesn't know them."""
    piled_up: bool
    """Whether ever more requests waited."""


def simulated_plan(
    fleet: FleetAtRate, requests: Requests, choice: NDArray[np.intp], *, sampled: bool = True
) -> SimulatedPlan:
    """Send each request to the system whose position ``choice`` has. Raises UserError."""
    run = simulate_fleet([system.fleet for system in fleet.systems], requests, choice, sampled=sampled)
    e2e = np.empty(requests.arrival_s.size)
    for s, part in enumerate(run.parts):
        if part is not None:
            e2e[choice == s] = part.simulated.e2e_s
    powers_w = _powers_w(fleet, run)
    power_w = sum(powers_w)
    return SimulatedPlan(
        requests.arrival_s.size,
        energy_j=power_w * run.duration_s / requests.arrival_s.size,
        power_w=power_w,
        e2e_s=float(e2e.mean()),
        busy_share=tuple(
            0.0 if part is None else float(part.simulated.busy_s.sum()) / (part.system.replicas * run.duration_s)
            for part in run.parts
        ),
        steps_per_s=tuple(
            0.0 if part is None else None if part.simulated.work is None else part.simulated.steps / run.duration_s
            for part in run.parts
        ),
        powers_w=powers_w,
        times_s=tuple(None if part is None else float(part.simulated.e2e_s.mean()) for part in run.parts),
        concurrency=tuple(
            0.0
            if part is None
            else float((part.simulated.end_s - part.simulated.start_s).sum() / part.simulated.busy_s.sum())
            for part in run.parts
        ),
        percentiles=_percentiles(run, choice),
        piled_up=any(part is not None and part.piled_up for part in run.parts),
    )


def _powers_w(fleet: FleetAtRate, run: SimulatedFleet) -> tuple[float, ...]:
    """Mean power of each system that counts, as ``RatedSystem.power_w``."""
    found = [0.0] * len(fleet.systems)
    for s, (system, part) in enumerate(zip(fleet.systems, run.parts, strict=True)):
        if part is not None:
            busy_s, idle_s = float(part.simulated.busy_s.sum()), part.simulated.idle_s(run.duration_s)
            joules = part.simulated.joules or 0.0
            found[s] = (joules + system.waiting_w * idle_s - system.subtracted_w * busy_s) / run.duration_s
    return tuple(found)


def _percentiles(run: SimulatedFleet, choice: NDArray[np.intp]) -> dict[str, dict[str, SimulatedFigure]]:
    found: dict[str, dict[str, SimulatedFigure]] = {}
    parts = [(s, part.simulated) for s, part in enumerate(run.parts) if part is not None]
    for name in ("ttft", "tpot", "e2e"):
        if not all(name in simulated.times() for _, simulated in parts):
            continue
        values = np.full(choice.size, np.nan)
        for s, simulated in parts:
            has = simulated.requests.output_tokens > (1 if name == "tpot" else 0)
            values[np.flatnonzero(choice == s)[has]] = simulated.times()[name]
        values = values[~np.isnan(values)]
        if values.size:
            levels = {f"p{100 * level:g}": quantile_figure(values, level) for level in LEVELS}
            found[name] = {"mean": mean_figure(values), **levels}
    return found
