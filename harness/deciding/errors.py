"""How far a system's energy and runtime may be off in sums over many requests, by source of doubt. Pure.

Sums are linear in the errors of the models, so each source is a few independent directions with the standard deviation
that each gives each sum: drawn or added up in closed form, it is the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from harness.core.arrays import Floats
from harness.core.statistics import joined_error
from harness.deciding.costs import Costs
from harness.deciding.octaves import Indices, Octaves
from harness.deciding.workload import Workload
from harness.modelling.cost_function import Z95, CostFunction
from harness.modelling.doubt import Source

_LEAST = 1e-30
"""A cost that is as good as none."""
_CHUNK = 1 << 17
"""Pairs that are summed at a time; by einsum, since threads of BLAS wait for each other on so few."""
ErrorSource = Source | Literal["idle"]
"""``idle``: the interval of the idle power, where that is subtracted."""


class Sums(Protocol):
    """Some sums over requests."""

    def over(self, values: Floats, at: slice) -> Floats:
        """The sums of values per request of the pairs ``at``: shape (…, pairs) → (…, sums)."""

    def by_cell(self, values: Floats, octaves: Octaves, at: slice) -> Floats:
        """What each cell adds to each sum: shape (pairs,) → (cells, sums)."""


@dataclass(frozen=True)
class GroupSums:
    """Σ weight·value over groups of pairs."""

    weight: Floats
    """How many requests of each pair are summed."""
    group: Indices
    groups: int

    def over(self, values: Floats, at: slice) -> Floats:
        """As ``Sums``."""
        if values.ndim > 1:
            return np.stack([self.over(row, at) for row in values])
        return np.asarray(np.bincount(self.group[at], self.weight[at] * values, self.groups))

    def by_cell(self, values: Floats, octaves: Octaves, at: slice) -> Floats:
        """As ``Sums``."""
        cell = octaves.cell[at] * self.groups + self.group[at]
        found = np.bincount(cell, self.weight[at] * values, octaves.cells * self.groups)
        return np.asarray(found.reshape(octaves.cells, self.groups), dtype=np.float64)


@dataclass(frozen=True)
class PlanSums:
    """Σ requests·value for several plans."""

    requests: Sequence[Floats]
    """Of each plan how many requests of each pair are summed."""

    def over(self, values: Floats, at: slice) -> Floats:
        """As ``Sums``."""
        served = [requests[at] for requests in self.requests]
        # Plans of one system alone leave the others without any.
        none = np.zeros(values.shape[:-1])
        return np.stack([np.einsum("...p,p->...", values, x) if x.any() else none for x in served], axis=-1)

    def by_cell(self, values: Floats, octaves: Octaves, at: slice) -> Floats:
        """As ``Sums``."""
        cell, none = octaves.cell[at], np.zeros(octaves.cells)
        served = [requests[at] for requests in self.requests]
        found = [np.bincount(cell, x * values, octaves.cells) if x.any() else none for x in served]
        return np.stack(found, axis=1)


@dataclass(frozen=True)
class Part:
    """What one source of doubt does to sums."""

    deviations: Floats
    """Standard deviation that each independent direction gives each sum, shape (directions, sums)."""
    freedom: float
    """Degrees of freedom that their common scale is known to."""

    @property
    def sd(self) -> Floats:
        """Standard deviation of each sum."""
        return np.asarray(np.sqrt(np.square(self.deviations).sum(axis=0)))


Parts = Mapping[ErrorSource, Part]


@dataclass(frozen=True)
class SystemParts:
    """What every source but the requests' own scatter does to sums of one system's costs."""

    energy: Parts
    """Of gross energy; the gain of the meters is that of the energy that counts, idle power subtracted or not."""
    runtime: Parts
    idle_power_w: float
    """Of the runtime, with its error, this is subtracted from the energy; 0 where idle power is included."""
    energy_scatter: Floats
    """Variance of each sum that single requests leave, J²."""
    runtime_scatter: Floats
    scatter_freedom: tuple[float, float]
    """Of energy and of runtime."""

    def energy_sds(self) -> list[tuple[ErrorSource, Floats, float]]:
        """Every independent source of the energy that counts: (source, sd in J, degrees of freedom)."""
        own = [(source, part.sd, part.freedom) for source, part in self.energy.items()]
        if self.idle_power_w:
            own += [(source, self.idle_power_w * sd, freedom) for source, sd, freedom in self.runtime_sds()]
        return [*own, ("scatter", np.sqrt(self.energy_scatter), self.scatter_freedom[0])]

    def runtime_sds(self) -> list[tuple[ErrorSource, Floats, float]]:
        """Every independent source of the runtime: (source, sd in s, degrees of freedom)."""
        own: list[tuple[ErrorSource, Floats, float]]
        own = [(source, part.sd, part.freedom) for source, part in self.runtime.items()]
        return [*own, ("scatter", np.sqrt(self.runtime_scatter), self.scatter_freedom[1])]


class SystemErrors:
    """The errors of one system's energy and runtime, for any sums over a workload.

    Sources: the coefficients' covariance; the misfit of the form, taken as one error per octave of m and of n, the
    spacing of the usual sweep: constant within an octave, independent between them, each pair's by its own relative
    standard deviation; what a session does to all its costs; the gain of the meters; the requests' own scatter; and,
    where it is subtracted, the idle power.

    Energy is the sum of components whose correlation is not stored: their errors are taken to move together, the
    cautious choice, as in ``Profile.predict_energy``. The errors of energy and of runtime are taken to be independent
    of each other; where both come from the same trials their true correlation is positive, so that the interval of
    net energy, E − P_idle·R/c, is a little too wide.
    """

    def __init__(self, costs: Costs, system: int, workload: Workload) -> None:
        profile = costs.profiles[system]
        self.workload = workload
        self.cached = costs.not_computed(system, workload.not_computed)
        self.spot_cached = costs.not_computed(system, workload.octaves.spot_cached)
        self.runtime_function = profile.runtime_function
        self.energy_functions = profile.energy_functions(costs.components)
        self.runtime_s = costs.runtime_s[system]
        idle = costs.subtracted(system)
        self.idle_w, self.idle_sd_w = idle.power_w, idle.sd_w
        # One gain is on the energy and on the idle power that is taken from it.
        gains = [function.gain_ci95 / Z95 for function in self.energy_functions]
        self.idle_gain_sd_w = sum(gain * w for gain, w in zip(gains, idle.parts_w, strict=True))

    def parts(self, sums: Sums) -> SystemParts:
        """What each source does to the sums."""
        functions = (self.runtime_function, *self.energy_functions)
        relative = [self._relative_sds(function) for function in functions]
        found: list[list[Floats]] = [[] for _ in functions]
        variances: list[Floats] = []
        # Chunk by chunk: of millions of pairs the derivatives alone take hundreds of megabytes.
        for at in _chunks(self.workload.count.size):
            scatters = []
            for function, sds, sum_of in zip(functions, relative, found, strict=True):
                sums_here, scatter = self._summed(function, sds, sums, at)
                sum_of[:] = [a + b for a, b in zip(sum_of, sums_here, strict=True)] if sum_of else sums_here
                scatters.append(scatter)
            here = np.stack([sums.over(np.square(sd), at) for sd in (scatters[0], np.add.reduce(scatters[1:]))])
            variances.append(here)
        runtime, *energies = (
            self._parts(function, *sums_of) for function, sums_of in zip(functions, found, strict=True)
        )
        energy = energies[0]
        for further in energies[1:]:
            energy = {source: _together(part, further[source]) for source, part in energy.items()}
        known_s = self.runtime_function.coefficients @ found[0][0]
        if self.idle_sd_w:
            energy["idle"] = Part(self.idle_sd_w * known_s[None], math.inf)
        energy["meter"] = Part(energy["meter"].deviations - self.idle_gain_sd_w * known_s, math.inf)
        freedom = min(function.scatter.freedom for function in self.energy_functions)
        runtime_scatter, energy_scatter = np.add.reduce(variances)
        freedoms = freedom, self.runtime_function.scatter.freedom
        return SystemParts(energy, runtime, self.idle_w, energy_scatter, runtime_scatter, freedoms)

    def _summed(
        self, function: CostFunction, relative: tuple[Floats, Floats], sums: Sums, at: slice
    ) -> tuple[list[Floats], Floats]:
        """Sums by coefficient, of the misfit by cell, and of the derivatives over the workload; and the standard
        deviation of single requests by pair."""
        workload, octaves = self.workload, self.workload.octaves
        cached = 0 if self.cached is None else self.cached[at]
        derivatives = function.derivatives(workload.input_tokens[at], workload.output_tokens[at], cached)
        cost = np.einsum("k,kp->p", function.coefficients, derivatives)
        misfit, scatter = (sd[octaves.spot[at]] for sd in relative)
        direction = np.einsum("kp,p->k", derivatives, workload.count[at])
        return [sums.over(derivatives, at), sums.by_cell(cost * misfit, octaves, at), direction], cost * scatter

    def _parts(
        self, function: CostFunction, by_coefficient: Floats, misfit: Floats, direction: Floats
    ) -> dict[ErrorSource, Part]:
        root = _root(function.covariance)
        if len(self.energy_functions) > 1:
            root = _aligned(root, direction)
        known = function.coefficients @ by_coefficient
        return {
            "trials": Part(root.T @ by_coefficient, function.freedom),
            "model": Part(misfit, function.misfit.freedom),
            "sessions": Part(function.session.sd * known[None], function.session.freedom),
            "meter": Part(function.gain_ci95 / Z95 * known[None], math.inf),
        }

    def _relative_sds(self, function: CostFunction) -> tuple[Floats, Floats]:
        """Relative standard deviations of the misfit and of single requests, by spot.

        They change slowly with the size, so that those of its spot do for a pair.
        """
        m, n = self.workload.octaves.spot_sizes
        k = 0 if self.spot_cached is None else self.spot_cached
        # Where nothing is spent, nothing is uncertain; powers know no 0.
        cost = np.maximum(np.abs(function.cost(m, n, k)), _LEAST)
        misfit = function.misfit.relative_sd(function.octaves_away(m, n, k), cost)
        scatter = function.scatter.sd(cost) / cost if function.scatter.factor else np.zeros(cost.size)
        return misfit, np.asarray(scatter)

    def request_runtime(self) -> tuple[Floats, Floats, Floats]:
        """Of one new request of each pair: standard deviation in s of its runtime, the degrees of freedom that it is
        known to, and the part of it that is the request's own."""
        function = self.runtime_function
        cached = 0 if self.cached is None else self.cached
        derivatives = function.derivatives(self.workload.input_tokens, self.workload.output_tokens, cached)
        cost = function.coefficients @ derivatives
        trials = np.sqrt(np.square(_root(function.covariance).T @ derivatives).sum(axis=0))
        spot = self.workload.octaves.spot
        misfit, scatter = (cost * relative[spot] for relative in self._relative_sds(function))
        freedoms = [function.freedom, function.misfit.freedom, function.session.freedom, function.scatter.freedom]
        return *joined_error([trials, misfit, cost * function.session.sd, scatter], freedoms), scatter


def _chunks(pairs: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, pairs, _CHUNK)]


def _together(one: Part, other: Part) -> Part:
    """The sum of two errors that move together."""
    short, long = sorted((one.deviations, other.deviations), key=len)
    together = long.copy()
    together[: len(short)] += short
    return Part(together, min(one.freedom, other.freedom))


def _aligned(root: Floats, direction: Floats) -> Floats:
    """L with the L·Lᵀ of a root, whose first column alone moves ``direction`` · coefficients, upwards.

    Functions whose coefficients err along the same directions then err together in that sum.
    """
    moved = root.T @ direction
    mirror = moved - np.linalg.norm(moved) * np.eye(moved.size)[0]
    size = float(mirror @ mirror)
    # A Householder reflection; without one where the first column has the direction already.
    return root if size == 0 else root - 2 * np.outer(root @ mirror, mirror) / size


def _root(covariance: Floats) -> Floats:
    """L with L·Lᵀ = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))
