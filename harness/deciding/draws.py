"""Draws of what the models' errors and the workload's chance do to totals of many requests, and their closed form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.statistics import joined_95, joined_error
from harness.deciding.costs import Costs
from harness.deciding.errors import (
    ErrorSource,
    GroupSums,
    Part,
    Parts,
    PlanSums,
    Sums,
    SystemErrors,
)
from harness.deciding.threshold import KeyTotals, coarsen, totals_by_key
from harness.deciding.workload import Workload

DRAWS = 400
"""Drawn coefficients and workloads behind each 95 % interval."""
SEED = 0
GROUPS = 1000
"""Distinct keys kept apart when drawing; beyond it neighbours are merged."""
_CERTAIN: tuple[ErrorSource, ...] = ("meter", "idle")
"""Sources whose standard deviations are known."""


class SystemDraws:
    """Joint draws of one system's energy and runtime errors; sums of them over any set of requests.

    The errors are those of ``SystemErrors``: normal, those of energy and those of runtime each with a common scale that
    makes their sum over the workload Student's, by the degrees of freedom that Satterthwaite gives it. Gains of meters
    and idle power, whose standard deviations are known, have none.
    """

    def __init__(self, errors: SystemErrors, gain_normals: Floats, rng: np.random.Generator) -> None:
        """``gain_normals``, shape (draws,), are those of the meters, which systems may share."""
        self.errors = errors
        self._rng = rng
        self._normals: dict[tuple[str, ErrorSource], Floats] = {("energy", "meter"): gain_normals[:, None]}
        self._scales: dict[str, Floats] = {}

    def shifts(self, sums: Sums, scatter: bool = True) -> tuple[Floats, Floats]:
        """What the draws add to sums: energy in J and runtime in s, shape (draws, sums).

        With ``scatter`` the sums are of different requests, each with a chance of its own; else all errors are those
        that the requests have in common.
        """
        parts = self.errors.parts(sums)
        runtime = self._shift("runtime", parts.runtime, (parts.runtime_scatter, parts.scatter_freedom[1]), scatter)
        energy = self._shift("energy", parts.energy, (parts.energy_scatter, parts.scatter_freedom[0]), scatter)
        return energy - parts.idle_power_w * runtime, runtime

    def _shift(self, quantity: str, parts: Parts, chance: tuple[Floats, float], scatter: bool) -> Floats:
        variance, freedom = chance
        unsure, certain = np.zeros((DRAWS, variance.size)), np.zeros((DRAWS, variance.size))
        for source, part in parts.items():
            drawn = certain if source in _CERTAIN else unsure
            drawn += self._drawn(quantity, source, part) @ part.deviations
        if scatter and variance.any():
            unsure += np.sqrt(variance) * self._rng.standard_normal(unsure.shape)
        return np.asarray(self._scale(quantity, parts, float(variance.sum()), freedom) * unsure + certain)

    def _drawn(self, quantity: str, source: ErrorSource, part: Part) -> Floats:
        """The same normals for the same source whatever the sums, shape (draws, directions)."""
        if (quantity, source) not in self._normals:
            self._normals[quantity, source] = self._rng.standard_normal((DRAWS, len(part.deviations)))
        return self._normals[quantity, source]

    def _scale(self, quantity: str, parts: Parts, variance: float, freedom: float) -> Floats:
        """What makes normal errors those of standard deviations known to some degrees of freedom, shape (draws, 1)."""
        if quantity not in self._scales:
            unsure = [part for source, part in parts.items() if source not in _CERTAIN]
            sds = [np.asarray(np.linalg.norm(part.deviations.sum(axis=1))) for part in unsure]
            freedoms = [part.freedom for part in unsure]
            _, known_to = joined_error([*sds, np.asarray(math.sqrt(variance))], [*freedoms, freedom])
            self._scales[quantity] = _student_scales(float(known_to), self._rng)[:, None]
        return self._scales[quantity]


def _student_scales(freedom: float, rng: np.random.Generator) -> Floats:
    return np.sqrt(freedom / rng.chisquare(freedom, DRAWS)) if np.isfinite(freedom) else np.ones(DRAWS)


def all_draws(costs: Costs, workload: Workload, rng: np.random.Generator) -> list[SystemDraws]:
    """Draws of every system, the gains of meters that systems share in common."""
    gains = rng.standard_normal((len(costs.profiles), DRAWS))
    return [
        SystemDraws(SystemErrors(costs, system, workload), gains[meter], rng)
        for system, meter in enumerate(costs.meter_of)
    ]


@dataclass(frozen=True)
class PlanHalfWidths:
    """Half-widths of 95 % intervals of energy in J and runtime in s of some plans."""

    energy_by_system_j: Floats
    """Shape (plans, systems)."""
    runtime_by_system_s: Floats
    energy_j: Floats
    """Of each plan's total, shape (plans,)."""
    runtime_s: Floats


def half_widths(costs: Costs, workload: Workload, plans: Sequence[Floats]) -> PlanHalfWidths:
    """How sure the totals of plans are, all sources of ``SystemErrors`` included.

    A plan says how many requests of each pair each system serves, shape (systems, pairs). The errors are those that
    ``SystemDraws`` draws, in closed form. Systems err independently of each other, but for the gain of a meter that
    they share.
    """
    energies, runtimes = [], []
    # A gain that several share is one error.
    gains: dict[int, Floats] = {}
    for system, meter in enumerate(costs.meter_of):
        sums = PlanSums([plan[system] for plan in plans])
        parts = SystemErrors(costs, system, workload).parts(sums)
        energies.append(parts.energy_sds())
        runtimes.append(parts.runtime_sds())
        gains[meter] = gains.get(meter, 0.0) + parts.energy["meter"].deviations[0]
    energy_by_system, runtime_by_system = (
        np.stack([_joined(each) for each in sds], axis=1) for sds in (energies, runtimes)
    )
    own = [each for sds in energies for each in sds if each[0] != "meter"]
    energy = _joined([*own, *(("meter", np.abs(sd), math.inf) for sd in gains.values())])
    runtime = _joined([each for sds in runtimes for each in sds])
    return PlanHalfWidths(energy_by_system, runtime_by_system, energy, runtime)


def _joined(sds: Sequence[tuple[ErrorSource, Floats, float]]) -> Floats:
    return joined_95([sd for _, sd, _ in sds], [freedom for *_, freedom in sds])


def threshold_draws(
    costs: Costs, workload: Workload, key: NDArray[np.int64], exact: KeyTotals, chosen: int
) -> tuple[KeyTotals, KeyTotals]:
    """The totals ``exact`` of ``key``, coarsened to about ``GROUPS`` keys on either side of the threshold
    ``chosen``, and draws of them. System 0 is the small, 1 the large one."""
    rng = np.random.default_rng(SEED)
    totals, group_of_key = coarsen(exact, GROUPS, chosen)
    group = group_of_key[np.searchsorted(exact.key, key)]
    sums = GroupSums(workload.count, group, totals.key.size)
    moments = second_moments(group, sums.groups, workload.count, np.vstack([costs.energy_j, costs.runtime_s]))
    shifts = np.empty((2, DRAWS, 2, sums.groups))
    for s, draws in enumerate(all_draws(costs, workload, rng)):
        shifts[0, :, s], shifts[1, :, s] = draws.shifts(sums)
    return totals, draw_totals(totals, shifts[0], shifts[1], moments, rng)


def routing_draws(costs: Costs, workload: Workload, requests: Floats, baseline: int) -> KeyTotals:
    """Draws of the totals of an assignment (index 0) and of one system serving the same requests (index 1).

    ``requests`` has shape (systems, pairs). The result has one key.
    """
    rng = np.random.default_rng(SEED)
    alone = np.zeros_like(requests)
    alone[baseline] = served = requests.sum(axis=0)
    one_group = np.zeros(workload.count.size, dtype=np.int64)
    shifts = np.zeros((2, DRAWS, 2, 1))
    for s, draws in enumerate(all_draws(costs, workload, rng)):
        # What the baseline serves in both is the same requests.
        common = s == baseline
        further = alone[s] - requests[s] if common else alone[s]
        for quantity, drawn in enumerate(draws.shifts(PlanSums([requests[s], further]))):
            shifts[quantity, :, 0, 0] += drawn[:, 0]
            shifts[quantity, :, 1, 0] += drawn[:, 1] + common * drawn[:, 0]
    per_request = [
        np.divide((x * c).sum(axis=0), served, out=np.zeros(served.shape), where=served > 0)
        for c in (costs.energy_j, costs.runtime_s)
        for x in (requests, alone)
    ]
    totals = totals_by_key(one_group, served, np.stack(per_request[:2]), np.stack(per_request[2:]))
    moments = second_moments(one_group, 1, served, np.stack(per_request))
    return draw_totals(totals, shifts[0], shifts[1], moments, rng)


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
