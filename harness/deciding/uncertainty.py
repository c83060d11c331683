"""How sure the costs of a workload are: what the models' errors do to sums of many requests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.deciding.costs import Costs
from harness.deciding.scales import Scales
from harness.deciding.threshold import KeyTotals, coarsen, totals_by_key
from harness.deciding.workload import Workload
from harness.modelling.cost_function import CostFunction

Indices = NDArray[np.intp]

DRAWS = 400
"""Drawn coefficients and workloads behind each 95 % interval."""
SEED = 0
Z95 = 1.959964
"""Half-width of a normal 95 % interval in standard deviations."""
GROUPS = 1000
"""Distinct keys kept apart when drawing; beyond it neighbours are merged."""


@dataclass(frozen=True)
class Interval:
    """A value with a 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Uncertainty:
    """What the draws say about one chosen threshold."""

    threshold_low: int
    threshold_high: int
    """95 % interval of the best threshold."""
    plateau_low: int
    plateau_high: int
    """Thresholds around the chosen one whose cost doesn't differ significantly from its own."""
    saving: Interval
    """Energy saved against the large system alone, as a fraction of it."""
    cost_saving: Interval
    """The same of the cost, which is what the threshold minimises."""
    runtime_ratio: Interval
    """Total runtime divided by that of the large system alone."""


@dataclass(frozen=True)
class SavingBand:
    """What every threshold does against the large system alone; arrays have one entry per threshold."""

    threshold: NDArray[np.int64]
    """Ascending from 0, which sends everything to the large system; at most about ``GROUPS`` of them."""
    saving: Floats
    """Energy saved, as a fraction of what the large system alone needs."""
    saving_ci95: Floats
    """Half-width of its 95 % interval."""
    runtime_ratio: Floats
    """Total runtime divided by that of the large system alone."""
    runtime_ratio_low: Floats
    runtime_ratio_high: Floats
    """Ends of its 95 % interval."""


class SystemDraws:
    """Joint draws of one system's energy and runtime errors; sums of them over any set of requests.

    Three sources: the coefficients' covariance; the misfit of the form (the relative standard deviation of
    held-out points), taken as one error per octave of m and of n, the spacing of the usual sweep: constant
    within an octave, independent between them; and, where it is subtracted, the idle power.

    Energy is the sum of components whose correlation is not stored: their errors are taken to move together, the
    cautious choice, as in ``Profile.predict_energy``. The errors of energy and of runtime are drawn independently
    of each other; where both come from the same trials their true correlation is positive, so that the error of
    net energy, E − P_idle·R/c, is drawn a little too wide.
    """

    def __init__(self, costs: Costs, system: int, workload: Workload, rng: np.random.Generator) -> None:
        profile = costs.profiles[system]
        self.workload = workload
        self.cell = _cells(workload)
        self.cells = int(self.cell.max()) + 1
        self.runtime = profile.runtime_function
        self.energy = profile.energy_functions(costs.components)
        self.runtime_s = costs.runtime_s[system]
        self.idle_power_w, self.idle_sd_w = _subtracted_w(costs, system)
        coefficients = max(function.coefficients.size for function in (self.runtime, *self.energy))
        self.runtime_normals, self.energy_normals = rng.standard_normal((2, DRAWS, self.cells + coefficients))
        self.idle_normals = rng.standard_normal((DRAWS, 1))

    def shifts(self, weight: Floats, group: Indices, groups: int) -> tuple[Floats, Floats]:
        """What the draws add to Σ weight·cost by group of pairs: energy in J, runtime in s, (draws, groups)."""
        runtime = self._drawn(self.runtime_normals, self.runtime, weight, group, groups)
        parts = [self._drawn(self.energy_normals, function, weight, group, groups) for function in self.energy]
        known_s = np.bincount(group, weight * self.runtime_s, groups)
        energy = np.add.reduce(parts) - self.idle_power_w * runtime - self.idle_sd_w * self.idle_normals * known_s
        return energy, runtime

    def _drawn(self, normals: Floats, function: CostFunction, weight: Floats, group: Indices, groups: int) -> Floats:
        """Errors of the sums, shape (draws, groups); normals are those of the cells, then of the coefficients."""
        m, n = self.workload.input_tokens, self.workload.output_tokens
        derivatives = function.derivatives(m, n)
        by_coefficient = np.stack([np.bincount(group, weight * d, groups) for d in derivatives])
        root = _aligned_root(function.covariance, derivatives @ self.workload.count)
        cost = weight * function.cost(m, n) * function.misfit.sd
        by_cell = np.bincount(self.cell * groups + group, cost, self.cells * groups).reshape(self.cells, groups)
        deviations = np.vstack([by_cell, root.T @ by_coefficient])
        return normals[:, : len(deviations)] @ deviations


def _cells(workload: Workload) -> Indices:
    """For each pair the number of its cell: the octave of m joined with the octave of n."""
    octaves = [np.frexp(tokens.astype(float))[1] for tokens in (workload.input_tokens, workload.output_tokens)]
    code = octaves[0] * 64 + octaves[1]
    # There are few codes and many pairs: to count them is faster than to sort them.
    number: Indices = np.cumsum(np.bincount(code) > 0) - 1
    return number[code]


def half_widths(costs: Costs, workload: Workload, plans: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Half-widths of the 95 % intervals of energy in J and runtime in s, each of shape (plans, systems).

    A plan says how many requests of each pair each system serves, shape (systems, pairs). The errors are those that
    ``SystemDraws`` draws, in closed form, since sums are linear in them; only the coefficients of several components
    are taken to err together in every sum, which is at most wider. Systems err independently of each other.
    """
    cell = _cells(workload)
    energy_variance, runtime_variance = np.zeros((2, len(plans), len(costs.profiles)))
    for s, profile in enumerate(costs.profiles):
        served = [plan[s] for plan in plans]
        runtime_variance[:, s] = _variance([profile.runtime_function], served, workload, cell)
        energy_variance[:, s] = _variance(profile.energy_functions(costs.components), served, workload, cell)
        idle_w, idle_sd_w = _subtracted_w(costs, s)
        runtime_s = np.array([costs.runtime_s[s] @ x for x in served])
        energy_variance[:, s] += idle_w**2 * runtime_variance[:, s] + (idle_sd_w * runtime_s) ** 2
    return Z95 * np.sqrt(energy_variance), Z95 * np.sqrt(runtime_variance)


def _variance(functions: Sequence[CostFunction], served: Sequence[Floats], workload: Workload, cell: Indices) -> Floats:
    """Variance of Σ x·cost for each x of ``served``, by pair, where cost is the sum of the functions."""
    m, n = workload.input_tokens, workload.output_tokens
    by_cell, coefficient_sd = np.zeros((len(served), int(cell.max()) + 1)), np.zeros(len(served))
    for function in functions:
        derivatives, misfit = function.derivatives(m, n), function.cost(m, n) * function.misfit.sd
        by_cell += np.stack([np.bincount(cell, misfit * x) for x in served])
        by_coefficient = np.stack([derivatives @ x for x in served])
        variance = np.einsum("pi,ij,pj->p", by_coefficient, function.covariance, by_coefficient)
        # Rounding may leave less than nothing of a covariance without full rank.
        coefficient_sd += np.sqrt(np.maximum(variance, 0.0))
    return np.asarray(coefficient_sd**2 + (by_cell**2).sum(axis=1))


def _subtracted_w(costs: Costs, system: int) -> tuple[float, float]:
    """Idle power that is subtracted for a second of one request's runtime and its standard deviation; 0 both where
    none is. The requests in flight share the machine's."""
    if costs.idle == "included":
        return 0.0, 0.0
    half_widths_w = costs.profiles[system].idle_power_ci95_w(costs.components)
    in_flight = costs.profiles[system].requests_in_flight
    idle_w, sd_w = costs.idle_power_w[system] or 0.0, sum(half or 0.0 for half in half_widths_w) / Z95
    return idle_w / in_flight, sd_w / in_flight


def _aligned_root(covariance: Floats, direction: Floats) -> Floats:
    """L with L·Lᵀ = covariance, whose first column alone moves ``direction`` · coefficients, upwards.

    Functions whose coefficients are drawn with the same normals then err together in that sum.
    """
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(np.maximum(values, 0))
    moved = root.T @ direction
    mirror = moved - np.linalg.norm(moved) * np.eye(moved.size)[0]
    size = float(mirror @ mirror)
    # A Householder reflection; without one where the first column has the direction already.
    return root if size == 0 else root - 2 * np.outer(root @ mirror, mirror) / size


def threshold_draws(
    costs: Costs, workload: Workload, key: NDArray[np.int64], exact: KeyTotals, chosen: int
) -> tuple[KeyTotals, KeyTotals]:
    """The totals ``exact`` of ``key``, coarsened to about ``GROUPS`` keys on either side of the threshold
    ``chosen``, and draws of them. System 0 is the small, 1 the large one."""
    rng = np.random.default_rng(SEED)
    totals, group_of_key = coarsen(exact, GROUPS, chosen)
    group = group_of_key[np.searchsorted(exact.key, key)]
    groups = totals.key.size
    shifts = np.array([SystemDraws(costs, s, workload, rng).shifts(workload.count, group, groups) for s in (0, 1)])
    moments = second_moments(group, groups, workload.count, np.vstack([costs.energy_j, costs.runtime_s]))
    energy_shift, runtime_shift = shifts.transpose(1, 2, 0, 3)
    return totals, draw_totals(totals, energy_shift, runtime_shift, moments, rng)


def routing_draws(costs: Costs, workload: Workload, requests: Floats, baseline: int) -> KeyTotals:
    """Draws of the totals of an assignment (index 0) and of one system serving the same requests (index 1).

    ``requests`` has shape (systems, pairs). The result has one key.
    """
    rng = np.random.default_rng(SEED)
    alone = np.zeros_like(requests)
    alone[baseline] = served = requests.sum(axis=0)
    one_group = np.zeros(workload.count.size, dtype=np.int64)
    shifts = np.zeros((2, 2, DRAWS, 1))
    for s in range(len(costs.profiles)):
        draws = SystemDraws(costs, s, workload, rng)
        shifts += [draws.shifts(weight, one_group, 1) for weight in (requests[s], alone[s])]
    per_request = [
        np.divide((x * c).sum(axis=0), served, out=np.zeros(served.shape), where=served > 0)
        for c in (costs.energy_j, costs.runtime_s)
        for x in (requests, alone)
    ]
    totals = totals_by_key(one_group, served, np.stack(per_request[:2]), np.stack(per_request[2:]))
    moments = second_moments(one_group, 1, served, np.stack(per_request))
    energy_shift, runtime_shift = shifts.transpose(1, 2, 0, 3)
    return draw_totals(totals, energy_shift, runtime_shift, moments, rng)


def threshold_uncertainty(totals: KeyTotals, draws: KeyTotals, chosen: int, scales: Scales) -> Uncertainty:
    """Intervals of what the threshold ``chosen`` does, from draws of the totals, shape (draws, 2, keys).

    A threshold belongs to the plateau while the 95 % interval of its cost minus the chosen one's reaches 0. The saving
    is that of ``chosen`` on the workload it was chosen on, so it is a little optimistic: one number was fitted. Check a
    narrow saving on another trace. ``chosen`` must be 0 or one of the keys.
    """
    estimate, curve = totals.curve, draws.curve
    exact_cost, cost = (scales.cost(c.energy_j, c.runtime_s) for c in (estimate, curve))
    at = int(np.searchsorted(curve.threshold, chosen))
    drawn_best = curve.threshold[np.argmin(cost, axis=-1)]
    best_low, best_high = np.percentile(drawn_best, [2.5, 97.5], method="nearest").astype(int).tolist()
    equal = np.percentile(cost - cost[:, [at]], 2.5, axis=0) <= 0
    unequal = np.flatnonzero(~equal)
    # The unbroken run of equal ones around the chosen one lies between the nearest two that aren't.
    before, after = unequal[unequal < at], unequal[unequal > at]
    run = [before[-1] + 1 if before.size else 0, after[0] - 1 if after.size else equal.size - 1]
    plateau_low, plateau_high = curve.threshold[run].tolist()
    saving, cost_saving = (
        estimated_evenly(1 - float(exact[at] / exact[0]), 1 - drawn[:, at] / drawn[:, 0])
        for exact, drawn in ((estimate.energy_j, curve.energy_j), (exact_cost, cost))
    )
    runtime_ratio = estimated_ratio(estimate.runtime_s[[at, 0]], curve.runtime_s[:, [at, 0]])
    return Uncertainty(best_low, best_high, plateau_low, plateau_high, saving, cost_saving, runtime_ratio)


def saving_band(totals: KeyTotals, draws: KeyTotals) -> SavingBand:
    """Saving and runtime ratio at every threshold, from the totals and their draws, shape (draws, 2, keys).

    At the threshold that ``threshold_uncertainty`` is asked about, both say the same.
    """
    exact, drawn = totals.curve, draws.curve
    ratio = exact.energy_j / exact.energy_j[0]
    half = np.percentile(np.abs(drawn.energy_j / drawn.energy_j[:, :1] - ratio), 95, axis=0)
    runtimes = exact.runtime_s, exact.runtime_s[:1], drawn.runtime_s, drawn.runtime_s[:, :1]
    return SavingBand(exact.threshold, 1 - ratio, np.asarray(half), *_ratio_95(*runtimes))


def estimated_ratio(values: Floats, draws: Floats) -> Interval:
    """The first of two positive totals divided by the second; ``draws`` has shape (draws, 2). See ``_ratio_95``."""
    value, low, high = (float(each) for each in _ratio_95(values[0], values[1], draws[:, 0], draws[:, 1]))
    return Interval(value, low, high)


def _ratio_95(first: Floats, second: Floats, drawn_first: Floats, drawn_second: Floats) -> tuple[Floats, ...]:
    """A ratio of positive totals with the ends of its 95 % interval, which is one on the logarithmic scale.

    The errors of the models are relative, and runtimes can't be negative: a drawn error of 20 % is taken as the factor
    exp(0.2). The interval is then positive however large the errors are, and 1/ratio has the inverse interval. For
    small errors it is the interval of the drawn ratios themselves; these go below 0, or anywhere, as soon as a
    normal error of more than about 50 % leaves less than nothing of a total. Draws lie along the first axis.
    """
    ratio = np.asarray(first / second)
    errors = drawn_first / first - drawn_second / second
    low, high = np.percentile(errors, [2.5, 97.5], axis=0)
    return ratio, ratio * np.exp(np.minimum(low, 0.0)), ratio * np.exp(np.maximum(high, 0.0))


def estimated_evenly(value: float, draws: Floats) -> Interval:
    """A value ± the distance from it that 95 % of its draws keep within."""
    half = float(np.percentile(np.abs(draws - value), 95))
    return Interval(value, value - half, value + half)


def draw_totals(
    totals: KeyTotals, energy_shift: Floats, runtime_shift: Floats, second_moments: Floats, rng: np.random.Generator
) -> KeyTotals:
    """Draws of the totals under both uncertainties, shape (draws, 2, keys).

    ``energy_shift`` and ``runtime_shift``, shape (draws, 2, keys), are what drawn model coefficients add to the
    totals. Resampling the workload is a Poisson bootstrap: the number of requests of each size varies as a
    Poisson count, so that the four totals of a key (energy and runtime, small and large) vary with covariance
    Σ count·c·cᵀ over its pairs, which is ``second_moments``, shape (keys, 4, 4); drawn as a normal variate.
    """
    values, vectors = np.linalg.eigh(second_moments)
    root = vectors * np.sqrt(np.clip(values, 0, None))[:, None, :]
    noise = np.einsum("kij,dkj->dik", root, rng.standard_normal((energy_shift.shape[0], totals.key.size, 4)))
    return KeyTotals(
        totals.key,
        totals.count,
        totals.energy_j + energy_shift + noise[:, :2],
        totals.runtime_s + runtime_shift + noise[:, 2:],
    )


def second_moments(group: NDArray[np.int64], groups: int, count: Floats, costs: Floats) -> Floats:
    """Σ count·c·cᵀ by group for per-request costs of shape (4, pairs): shape (groups, 4, 4)."""
    moments = np.empty((groups, 4, 4))
    for i, j in zip(*np.triu_indices(4), strict=True):
        moments[:, i, j] = moments[:, j, i] = np.bincount(group, count * costs[i] * costs[j], groups)
    return moments
