"""What every request of a workload costs on every system, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness import comparable, routing, threshold
from harness.errors import UserError
from harness.prediction import CostFunction
from harness.profile import Profile
from harness.workload import Workload, marginal

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

DRAWS = 400
"""Drawn coefficients and workloads behind each 95 % interval."""
Z95 = 1.959964
"""Half-width of a normal 95 % interval in standard deviations."""
GROUPS = 1000
"""Distinct keys kept apart when drawing; beyond it neighbours are merged."""


@dataclass(frozen=True)
class Costs:
    """Predicted costs of a workload's pairs: ``energy_j`` and ``runtime_s`` have shape (systems, pairs)."""

    profiles: tuple[Profile, ...]
    labels: tuple[str, ...]
    """Short names of the systems, distinct."""
    energy_j: Floats
    """Per request, within the boundary; idle power subtracted when ``idle`` says so."""
    runtime_s: Floats
    boundary: str
    idle: str
    """``included`` or ``subtracted``."""
    mixed: bool
    warnings: tuple[str, ...]
    idle_power_w: tuple[float | None, ...]
    """None where it was not measured."""

    def at(self, m: NDArray[np.int64], n: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Energy in J and runtime in s of other requests on the same systems, each of shape (systems, sizes)."""
        boundary = None if self.boundary == "sum" else self.boundary
        runtime_s = np.stack([p.runtime_s(m, n) for p in self.profiles])
        energy_j = np.stack([p.energy_j(m, n, boundary) for p in self.profiles])
        if self.idle == "subtracted":
            energy_j -= np.array(self.idle_power_w, dtype=float)[:, None] * runtime_s
        return energy_j, runtime_s


def cost_table(
    profiles: Sequence[Profile],
    workload: Workload,
    boundary: str | None = None,
    idle: str = "included",
    allow_mixed: bool = False,
) -> Costs:
    """Predict every pair on every system.

    Raises UserError when the profiles can't be compared, or ``idle`` is ``subtracted`` and an idle power is
    unknown.
    """
    comparison = comparable.check(profiles, boundary, allow_mixed)
    warnings = [*comparison.warnings, *_range_warnings(profiles, workload)]
    powers = tuple(_idle_power_w(p, comparison.boundary) for p in profiles)
    if idle == "subtracted":
        unknown = [p.name for p, power in zip(profiles, powers, strict=True) if power is None]
        if unknown:
            raise UserError(f"the idle power of {', '.join(unknown)} was not measured: use --idle included")
        unsure = [p.name for p in profiles if None in _idle_ci95_w(p, comparison.boundary)]
        warnings += [f"the idle power subtracted for {name} has no stated uncertainty" for name in unsure]
    nothing = np.empty((len(profiles), 0))
    systems = Costs(
        tuple(profiles),
        _labels(profiles),
        nothing,
        nothing,
        "+".join(comparison.boundary) if comparison.boundary else "sum",
        idle,
        comparison.mixed,
        tuple(warnings),
        powers,
    )
    energy_j, runtime_s = systems.at(workload.input_tokens, workload.output_tokens)
    return replace(systems, energy_j=energy_j, runtime_s=runtime_s)


def _idle_power_w(profile: Profile, boundary: Sequence[str] | None) -> float | None:
    try:
        return profile.idle_power_w(boundary)
    except UserError:
        return None


def _idle_ci95_w(profile: Profile, boundary: Sequence[str] | None) -> list[float | None]:
    """Half-widths of the 95 % intervals of the idle powers that add up to that of the boundary."""
    if boundary is None or set(boundary) == set(profile.components):
        parts = [profile.energy]
    else:
        parts = [part for name, part in profile.components.items() if name in boundary]
    return [part.idle_power_ci95_w for part in parts if part is not None]


def _labels(profiles: Sequence[Profile]) -> tuple[str, ...]:
    """The systems' names, or the profiles' where systems repeat."""
    systems = [p.identity.system for p in profiles]
    return tuple(systems if len(set(systems)) == len(systems) else [p.name for p in profiles])


def _range_warnings(profiles: Sequence[Profile], workload: Workload) -> list[str]:
    warnings = []
    for profile in profiles:
        inside = profile.runtime_function.range.covers(workload.input_tokens, workload.output_tokens)
        outside = float(workload.count[~inside].sum()) / workload.requests
        if outside > 0:
            share = f"{100 * outside:.1f} %" if outside >= 0.001 else "less than 0.1 %"
            warnings.append(f"{share} of the requests lie outside the range measured on {profile.name}")
    return warnings


def expected_by_input(costs: Costs, scales: threshold.Scales, workload: Workload, count: Floats) -> Floats:
    """E[cost(m, N) | m] when the output length is unknown on arrival: shape (systems, distinct input lengths).

    The distribution of N at m is that of all requests in the pool of m (``routing.pools``), so that a length
    seen a few times is not judged by its few outputs; of all requests where input and output lengths are known
    to be independent. ``count`` are the requests learned from, shape (pairs,); some may be 0, not all.
    """
    lengths, of_length = np.unique(workload.input_tokens, return_inverse=True)
    requests = np.bincount(of_length, count, lengths.size).astype(np.float64)
    pool = routing.pools(requests) if workload.pairs_known else np.zeros(lengths.size, dtype=np.intp)
    order = np.argsort(of_length, kind="stable")
    first_pair = np.searchsorted(pool[of_length[order]], np.arange(pool[-1] + 2))
    expected = np.empty((len(costs.profiles), lengths.size))
    for p in range(pool[-1] + 1):
        pairs = order[first_pair[p] : first_pair[p + 1]]
        n, weight = marginal(workload.output_tokens[pairs], count[pairs])
        n, weight = n[weight > 0], weight[weight > 0]
        here = np.flatnonzero(pool == p)
        at = scales.cost(*costs.at(np.repeat(lengths[here], n.size), np.tile(n, here.size)))
        expected[:, here] = at.reshape(-1, here.size, n.size) @ (weight / weight.sum())
    return expected


class SystemDraws:
    """Joint draws of one system's energy and runtime errors; sums of them over any set of requests.

    Three sources: the coefficients' covariance; the misfit of the form (the relative standard deviation of
    held-out points), taken as one error per octave of m and of n, the spacing of the usual sweep: constant
    within an octave, independent between them; and, where it is subtracted, the idle power.

    Energy is the sum of components whose correlation is not stored: their errors are taken to move together, the
    cautious choice, as in ``Profile.predict_energy``. The errors of energy and of runtime are drawn independently
    of each other; where both come from the same trials their true correlation is positive, so that the error of
    net energy, E − P_idle·R, is drawn a little too wide.
    """

    def __init__(self, costs: Costs, system: int, workload: Workload, rng: np.random.Generator) -> None:
        profile = costs.profiles[system]
        boundary = None if costs.boundary == "sum" else costs.boundary.split("+")
        self.workload = workload
        octaves = [np.frexp(tokens.astype(float))[1] for tokens in (workload.input_tokens, workload.output_tokens)]
        _, self.cell = np.unique(octaves[0] * 64 + octaves[1], return_inverse=True)
        self.cells = int(self.cell.max()) + 1
        self.runtime = profile.runtime_function
        self.energy = profile.energy_functions(boundary)
        self.runtime_s = costs.runtime_s[system]
        self.idle_power_w = costs.idle_power_w[system] if costs.idle == "subtracted" else None
        self.idle_sd_w = sum(half or 0.0 for half in _idle_ci95_w(profile, boundary)) / Z95
        coefficients = max(function.coefficients.size for function in (self.runtime, *self.energy))
        self.runtime_normals, self.energy_normals = rng.standard_normal((2, DRAWS, self.cells + coefficients))
        self.idle_normals = rng.standard_normal((DRAWS, 1))

    def shifts(self, weight: Floats, group: Indices, groups: int) -> tuple[Floats, Floats]:
        """What the draws add to Σ weight·cost by group of pairs: energy in J, runtime in s, (draws, groups)."""
        runtime = self._drawn(self.runtime_normals, self.runtime, weight, group, groups)
        parts = [self._drawn(self.energy_normals, function, weight, group, groups) for function in self.energy]
        energy = np.add.reduce(parts)
        if self.idle_power_w is not None:
            busy_s = np.bincount(group, weight * self.runtime_s, groups)
            energy = energy - self.idle_power_w * runtime - self.idle_sd_w * self.idle_normals * busy_s
        return energy, runtime

    def _drawn(self, normals: Floats, function: CostFunction, weight: Floats, group: Indices, groups: int) -> Floats:
        """Errors of the sums, shape (draws, groups); normals are those of the cells, then of the coefficients."""
        m, n = self.workload.input_tokens, self.workload.output_tokens
        derivatives = function.derivatives(m, n)
        by_coefficient = np.stack([np.bincount(group, weight * d, groups) for d in derivatives])
        root = _aligned_root(function.covariance, derivatives @ self.workload.count)
        cost = weight * function.cost(m, n) * function.misfit
        by_cell = np.bincount(self.cell * groups + group, cost, self.cells * groups).reshape(self.cells, groups)
        deviations = np.vstack([by_cell, root.T @ by_coefficient])
        return normals[:, : len(deviations)] @ deviations


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
    costs: Costs,
    workload: Workload,
    key: NDArray[np.int64],
    exact: threshold.KeyTotals,
    chosen: int,
    seed: int = 0,
) -> tuple[threshold.KeyTotals, threshold.KeyTotals]:
    """The totals ``exact`` of ``key``, coarsened to about ``GROUPS`` keys on either side of the threshold
    ``chosen``, and draws of them. System 0 is the small, 1 the large one."""
    rng = np.random.default_rng(seed)
    totals, group_of_key = threshold.coarsen(exact, GROUPS, chosen)
    group = group_of_key[np.searchsorted(exact.key, key)]
    groups = totals.key.size
    shifts = [SystemDraws(costs, s, workload, rng).shifts(workload.count, group, groups) for s in (0, 1)]
    moments = threshold.second_moments(group, groups, workload.count, np.vstack([costs.energy_j, costs.runtime_s]))
    energy_shift, runtime_shift = (np.stack(parts, axis=1) for parts in zip(*shifts, strict=True))
    return totals, threshold.draw_totals(totals, energy_shift, runtime_shift, moments, rng)


def routing_draws(
    costs: Costs, workload: Workload, requests: Floats, baseline: int, seed: int = 0
) -> threshold.KeyTotals:
    """Draws of the totals of an assignment (index 0) and of one system serving the same requests (index 1).

    ``requests`` has shape (systems, pairs). The result has one key.
    """
    rng = np.random.default_rng(seed)
    alone = np.zeros_like(requests)
    alone[baseline] = requests.sum(axis=0)
    served = alone[baseline]
    one_group = np.zeros(workload.count.size, dtype=np.intp)
    shifts = np.zeros((2, 2, DRAWS))
    for s in range(len(costs.profiles)):
        draws = SystemDraws(costs, s, workload, rng)
        for i, weight in enumerate((requests[s], alone[s])):
            energy, runtime = draws.shifts(weight, one_group, 1)
            shifts[:, i] += energy[:, 0], runtime[:, 0]
    per_request = [
        np.divide((x * c).sum(axis=0), served, out=np.zeros(served.shape), where=served > 0)
        for c in (costs.energy_j, costs.runtime_s)
        for x in (requests, alone)
    ]
    totals = threshold.totals_by_key(
        one_group.astype(np.int64), served, np.stack(per_request[:2]), np.stack(per_request[2:])
    )
    moments = threshold.second_moments(one_group, 1, served, np.stack(per_request))
    energy_shift, runtime_shift = (np.moveaxis(s, 0, 1)[:, :, None] for s in shifts)
    return threshold.draw_totals(totals, energy_shift, runtime_shift, moments, rng)
