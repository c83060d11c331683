"""How sure the figures of systems at an arrival rate are: from the models' errors at the loads that they work at.

The relative errors of a system's seconds and joules, drawn as everywhere (``draws``), move its figures to first order:
requests that take longer are like more of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.arrays import Floats
from harness.core.statistics import Z95
from harness.deciding import draws as drawing
from harness.deciding.costs import Costs
from harness.deciding.errors import PlanSums
from harness.deciding.rates.fleet import FleetAtRate, RatedSystem
from harness.deciding.rates.threshold import KeySums
from harness.deciding.scales import Scales
from harness.deciding.threshold import request_key, totals_by_key
from harness.serving.occupancy import Occupancy

_STEP = 0.01
"""Relative change of a rate by which slopes are found."""


@dataclass(frozen=True)
class DrawnSplit:
    """Draws of what ways to split the requests do, shape (draws, ways); NaN where a system is saturated."""

    energy_j: Floats
    """Of a request."""
    e2e_s: Floats
    """Mean of a request."""
    time_s: Floats
    """As ``Split.time_s``."""


def drawn_split(
    fleet: FleetAtRate,
    sums: Sequence[Floats],
    scales: Scales,
    errors: tuple[Floats, Floats],
    costs: Costs,
) -> DrawnSplit:
    """Draws around ``fleet.split(sums)``; ``errors`` are relative ones of energy and of runtime, of shape (draws,
    systems, ways)."""
    here, more, less = (fleet.split([each * factor for each in sums]) for factor in (1, 1 + _STEP, 1 - _STEP))
    energy, held, machines = (np.zeros((errors[0].shape[0], here.rate_per_s.size)) for _ in range(3))
    rng = np.random.default_rng(drawing.SEED)
    for s, system in enumerate(fleet.systems):
        joules, seconds = errors[0][:, s], errors[1][:, s]
        at = here.occupancies[s]
        slope = _slope(system, at, more.occupancies[s], less.occupancies[s])
        waiting = system.fleet.replicas * system.waiting_w
        idle_w = np.where(at.rate_per_s > 0, waiting * (1 - at.busy_share), 0.0)
        working = here.power_w[s] - idle_w
        # Seconds that are longer by a factor are a higher rate in longer seconds.
        energy += working * joules + (slope[0] - working) * seconds - waiting * slope[1] * seconds
        energy += idle_w * _idle_error(system, costs) * rng.standard_normal((seconds.shape[0], 1))
        held += slope[2] * seconds
        machines += (system.fleet.replicas * slope[1] * seconds) if system.fleet.off_when_idle else 0.0
    e2e = np.where(here.saturated, np.nan, here.e2e_s) + held / here.rate_per_s
    time = here.time_s(scales) + machines / here.rate_per_s if scales.name == "price" else e2e
    return DrawnSplit(here.energy_j + energy / here.rate_per_s, e2e, time)


def _slope(system: RatedSystem, at: Occupancy, more: Occupancy, less: Occupancy) -> tuple[Floats, Floats, Floats]:
    """Derivatives by the logarithm of the rate: of power while it works, of the busy share, of the requests held.

    The last is NaN where it is saturated.
    """
    net = [each.power_w - system.fleet.replicas * each.busy_share * system.subtracted_w for each in (more, less)]
    change = 2 * _STEP
    held = [np.where(each.saturated > 0, np.nan, each.held) for each in (at, more, less)]
    rise = np.where(np.isnan(held[1]), (held[0] - held[2]) / _STEP, (held[1] - held[2]) / change)
    return (net[0] - net[1]) / change, (more.busy_share - less.busy_share) / change, rise


def _idle_error(system: RatedSystem, costs: Costs) -> float:
    """Relative standard deviation of the power of a replica while nothing is in it: its own, and the meters' gain."""
    if not system.waiting_w:
        return 0.0
    half_widths = [half or 0.0 for half in system.profile.idle_power_ci95_w(costs.components)]
    gain = system.profile.gain_ci95(costs.components) or 0.0
    return float(np.hypot(sum(half_widths) / system.waiting_w, gain)) / Z95


def threshold_errors(
    fleet: FleetAtRate, costs: Costs, key: str, sums: KeySums, chosen: int
) -> tuple[np.ndarray, tuple[Floats, Floats]]:
    """Places in ``sums`` of about ``drawing.GROUPS`` thresholds, ``chosen`` among them, and the relative errors of what
    they give both systems."""
    workload = fleet.workload
    values = request_key(key, workload.input_tokens, workload.output_tokens)
    exact = totals_by_key(values, workload.count, costs.energy_j, costs.runtime_s)
    coarse, draws = drawing.threshold_draws(costs, workload, values, exact, chosen)
    found = []
    for drawn, known in ((draws.energy_j, coarse.energy_j), (draws.runtime_s, coarse.runtime_s)):
        shifts, totals = _both(drawn - known), _both(known)
        found.append(np.divide(shifts, totals, out=np.zeros_like(shifts), where=totals != 0))
    return np.searchsorted(sums.threshold, coarse.curve.threshold), (found[0], found[1])


def _both(by_key: Floats) -> Floats:
    """Small system's prefix and large system's remainder: (…, 2, keys) → (…, 2, keys + 1)."""
    prefix = np.cumsum(by_key, axis=-1)
    zero = np.zeros((*by_key.shape[:-2], 1))
    small = np.concatenate([zero, prefix[..., 0, :]], axis=-1)
    large = prefix[..., 1, -1:] - np.concatenate([zero, prefix[..., 1, :]], axis=-1)
    large[..., -1] = 0.0
    return np.stack([small, large], axis=-2)


def plan_errors(costs: Costs, fleet: FleetAtRate, plans: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Relative errors of energy and of runtime of what plans give each system, shape (draws, systems, plans).

    The models' errors are common to all plans; that the requests to come are others is drawn as a Poisson bootstrap, as
    in ``drawing.draw_totals``.
    """
    workload, rng = fleet.workload, np.random.default_rng(drawing.SEED)
    systems, ways = len(fleet.systems), len(plans)
    totals = np.array([[[plan[s] @ each[s] for plan in plans] for s in range(systems)] for each in _costs(costs)])
    shifts = np.zeros((2, drawing.DRAWS, systems, ways))
    for s, draws in enumerate(drawing.all_draws(costs, workload, rng)):
        for quantity, drawn in enumerate(draws.shifts(PlanSums([plan[s] for plan in plans]), scatter=False)):
            shifts[quantity, :, s] = drawn
    per_request = np.divide(plans, workload.count, out=np.zeros(np.shape(plans)), where=workload.count > 0)
    values = np.stack([each[None] * per_request for each in _costs(costs)]).reshape(-1, workload.count.size)
    moments, vectors = np.linalg.eigh((values * workload.count) @ values.T)
    noise = rng.standard_normal((drawing.DRAWS, moments.size)) @ (vectors * np.sqrt(np.maximum(moments, 0))).T
    shifts += noise.reshape(-1, 2, ways, systems).transpose(1, 0, 3, 2)
    energy, runtime = np.divide(shifts, totals[:, None], out=np.zeros_like(shifts), where=totals[:, None] != 0)
    return energy, runtime


def _costs(costs: Costs) -> tuple[Floats, Floats]:
    return costs.energy_j, costs.runtime_s


def half_width(values: Floats, draws: Floats) -> Floats:
    """Half-widths of 95 % intervals around values from draws, the first axis; NaN where nobody knows."""
    known = np.isfinite(values) & np.isfinite(draws).all(axis=0)
    errors = np.where(known, draws - np.where(known, values, 0.0), 0.0)
    return np.where(known, np.percentile(np.abs(errors), 95, axis=0), np.nan)
