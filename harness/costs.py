"""What every request of a workload costs on every system, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness import comparable, routing, threshold
from harness.errors import UserError
from harness.forms import Bilinear, Sizes
from harness.prediction import CostFunction
from harness.profile import Profile
from harness.workload import Workload, marginal

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

DRAWS = 400
"""Drawn coefficients and workloads behind each 95 % interval."""
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
    powers = tuple(_idle_power_w(p, comparison.boundary) for p in profiles)
    if idle == "subtracted":
        unknown = [p.name for p, power in zip(profiles, powers, strict=True) if power is None]
        if unknown:
            raise UserError(f"the idle power of {', '.join(unknown)} was not measured: use --idle included")
    nothing = np.empty((len(profiles), 0))
    systems = Costs(
        tuple(profiles),
        _labels(profiles),
        nothing,
        nothing,
        "+".join(comparison.boundary) if comparison.boundary else "sum",
        idle,
        comparison.mixed,
        (*comparison.warnings, *_range_warnings(profiles, workload)),
        powers,
    )
    energy_j, runtime_s = systems.at(workload.input_tokens, workload.output_tokens)
    return replace(systems, energy_j=energy_j, runtime_s=runtime_s)


def _idle_power_w(profile: Profile, boundary: Sequence[str] | None) -> float | None:
    try:
        return profile.idle_power_w(boundary)
    except UserError:
        return None


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

    Two sources: the coefficients' covariance, and the misfit of the form (the relative standard deviation of
    held-out points), taken as one error per octave of m and of n, the spacing of the usual sweep: constant
    within an octave, independent between them.
    """

    def __init__(self, costs: Costs, system: int, workload: Workload, rng: np.random.Generator) -> None:
        profile = costs.profiles[system]
        boundary = None if costs.boundary == "sum" else costs.boundary
        self.workload = workload
        octaves = [np.frexp(tokens.astype(float))[1] for tokens in (workload.input_tokens, workload.output_tokens)]
        _, self.cell = np.unique(octaves[0] * 64 + octaves[1], return_inverse=True)
        self.runtime = [profile.runtime_function]
        self.energy = profile.energy_functions(boundary)
        self.idle_power_w = costs.idle_power_w[system] if costs.idle == "subtracted" else None
        cells = int(self.cell.max()) + 1
        self.normals = [
            rng.standard_normal((DRAWS, function.coefficients.size + cells))
            for function in (*self.runtime, *self.energy)
        ]

    def shifts(self, weight: Floats, group: Indices, groups: int) -> tuple[Floats, Floats]:
        """What the draws add to Σ weight·cost by group of pairs: energy in J, runtime in s, (draws, groups)."""
        parts = [
            normals @ self._deviations(function, weight, group, groups)
            for function, normals in zip((*self.runtime, *self.energy), self.normals, strict=True)
        ]
        runtime, energy = parts[0], np.add.reduce(parts[1:])
        return (energy if self.idle_power_w is None else energy - self.idle_power_w * runtime), runtime

    def _deviations(self, function: CostFunction, weight: Floats, group: Indices, groups: int) -> Floats:
        """Standard deviations of the sums in independent directions: shape (directions, groups)."""
        m, n = self.workload.input_tokens, self.workload.output_tokens
        by_coefficient = np.stack([np.bincount(group, weight * d, groups) for d in _derivatives(function, m, n)])
        values, vectors = np.linalg.eigh(function.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        cells = int(self.cell.max()) + 1
        cost = weight * function.cost(m, n) * function.misfit
        by_cell = np.bincount(self.cell * groups + group, cost, cells * groups).reshape(cells, groups)
        return np.vstack([root.T @ by_coefficient, by_cell])


def _derivatives(function: CostFunction, m: NDArray[np.int64], n: NDArray[np.int64]) -> Iterator[Floats]:
    """Derivatives of the cost with respect to each coefficient, each of shape (pairs,)."""
    if isinstance(function.form, Bilinear):
        design = function.form.design(function.coefficients, Sizes(m.astype(float), n.astype(float)))
        yield from design.T
        return
    before, after = function.form.tables(function.coefficients, int((m + n).max()))
    for column in range(before.shape[1]):
        yield before[m, column] + after[m + n, column]


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
