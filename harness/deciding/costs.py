"""What every request of a workload costs on every system."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.quantities import Method
from harness.core.wording import percent
from harness.deciding import routing, threshold
from harness.deciding.workload import Workload, marginal
from harness.modelling import comparable
from harness.modelling.cost_function import TOO_FAR, Z95, Range
from harness.modelling.profile import Profile
from harness.modelling.system_names import told_apart

MOST_TOO_FAR = 0.05
"""Share of the energy of requests too far outside the measured range beyond which nothing is called significant."""


@dataclass(frozen=True)
class SubtractedIdle:
    """Idle power that is subtracted for a second of one request's runtime, of which requests in flight share the
    machine's; 0 where none is."""

    power_w: float
    sd_w: float
    """Its standard deviation, without the meters' gain."""
    parts_w: tuple[float, ...]
    """What each of the functions that add up to the energy has of it."""


@dataclass(frozen=True)
class TooFar:
    """Requests too far outside what was measured, on any of the systems, for any interval to be known."""

    requests: float = 0.0
    """Share of the requests."""
    energy: float = 0.0
    """Share of the energy of the plan or of what it is compared with, whichever is larger."""

    @property
    def known(self) -> bool:
        """Whether they are so few that a saving can be called significant."""
        return self.energy <= MOST_TOO_FAR


@dataclass(frozen=True)
class Costs:
    """Predicted costs of a workload's pairs: ``energy_j`` and ``runtime_s`` have shape (systems, pairs)."""

    profiles: tuple[Profile, ...]
    labels: tuple[str, ...]
    """Names of the systems: those of the machines, told apart by what differs where machines repeat."""
    energy_j: Floats
    """Per request, within the boundary; idle power subtracted when ``idle`` says so."""
    runtime_s: Floats
    """How long a request takes with as many in flight as its profile says."""
    boundary: str
    idle: str
    """``included`` or ``subtracted``."""
    mixed: bool
    warnings: tuple[str, ...]
    idle_power_w: tuple[float | None, ...]
    """None where it was not measured."""
    mark: str = ""
    """What every result must begin with where systems that aren't comparable were compared; else empty."""
    too_far: NDArray[np.bool_] | None = None
    """Which pairs lie too far outside what was measured on a system to know an interval; None where none does."""

    @cached_property
    def in_flight(self) -> Floats:
        """Requests that share the time of each system, shape (systems, 1); 1 where unknown."""
        return np.array([[float(profile.requests_in_flight)] for profile in self.profiles])

    @cached_property
    def busy_s(self) -> Floats:
        """Each request's share of the time that a system is busy, of the shape of ``runtime_s``: R/c."""
        return self.runtime_s / self.in_flight

    @property
    def components(self) -> list[str] | None:
        """The components of the boundary; None for the sum that each profile holds."""
        return None if self.boundary == "sum" else self.boundary.split("+")

    @property
    def energy_methods(self) -> dict[str, Method | None]:
        """How the energy of each system, by its label, was measured."""
        return {label: p.energy_method(self.components) for label, p in zip(self.labels, self.profiles, strict=True)}

    @property
    def estimated(self) -> bool:
        """Whether the energy of a system is estimated, not measured: then no interval says how sure it is."""
        return "estimated" in self.energy_methods.values()

    @cached_property
    def meter_of(self) -> tuple[int, ...]:
        """For each system the first one whose energy the same sensor reads: these share its gain."""
        systems = range(len(self.profiles))
        return tuple(next(t for t in systems if t == s or self._share_meters(s, t)) for s in systems)

    def _share_meters(self, one: int, other: int) -> bool:
        """Of several sensors the gains cancel only as far as their shares agree: then they are taken to be apart."""
        both = [self.profiles[system] for system in (one, other)]
        meters = [profile.meters(self.components) for profile in both]
        return len(meters[0]) == 1 and meters[0] == meters[1]

    def subtracted(self, system: int) -> SubtractedIdle:
        """Idle power of one system that is subtracted."""
        profile = self.profiles[system]
        parts = len(profile.energy_functions(self.components))
        if self.idle == "included":
            return SubtractedIdle(0.0, 0.0, (0.0,) * parts)
        in_flight = profile.requests_in_flight
        half_widths_w = profile.idle_power_ci95_w(self.components)
        each = [self.components] if parts == 1 else [[component] for component in self.components or []]
        return SubtractedIdle(
            (self.idle_power_w[system] or 0.0) / in_flight,
            sum(half or 0.0 for half in half_widths_w) / Z95 / in_flight,
            tuple(profile.idle_power_w(part) / in_flight for part in each),
        )

    def too_far_share(self, workload: Workload, plans: Sequence[Floats]) -> TooFar:
        """What share of the workload's requests, and of the energy of plans of shape (systems, pairs), is too far."""
        if self.too_far is None:
            return TooFar()
        energies = [(requests * self.energy_j).sum(axis=0) for requests in plans]
        energy = max(float(each[self.too_far].sum() / each.sum()) for each in energies)
        return TooFar(float(workload.count[self.too_far].sum()) / workload.requests, energy)

    def system(self, name: str) -> int:
        """Position of the system with this label or profile name. Raises UserError."""
        for names in (self.labels, tuple(profile.name for profile in self.profiles)):
            if names.count(name) > 1:
                raise UserError(f"{name} names {names.count(name)} systems: choose among {', '.join(self.labels)}")
            if name in names:
                return names.index(name)
        raise UserError(f"no system {name} among {', '.join(self.labels)}")

    def at(self, m: NDArray[np.int64], n: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Energy in J and runtime in s of other requests on the same systems, each of shape (systems, sizes)."""
        runtime_s = np.stack([p.runtime_s(m, n) for p in self.profiles])
        energy_j = np.stack([p.energy_j(m, n, self.components) for p in self.profiles])
        if self.idle == "subtracted":
            energy_j -= np.array(self.idle_power_w, dtype=float)[:, None] * (runtime_s / self.in_flight)
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
    unknown, and for another ``idle`` than ``included`` and ``subtracted``.
    """
    if idle not in ("included", "subtracted"):
        raise UserError(f"unknown idle rule {idle}; use included or subtracted")
    comparison = comparable.check(profiles, boundary, allow_mixed)
    warnings = [*comparison.warnings, *_range_warnings(profiles, workload)]
    powers = tuple(_idle_power_w(p, comparison.boundary) for p in profiles)
    if idle == "subtracted":
        unmeasured = [p.name for p, power in zip(profiles, powers, strict=True) if power is None]
        if unmeasured:
            raise UserError(f"the idle power of {', '.join(unmeasured)} was not measured: use --idle included")
        unsure = [p.name for p in profiles if None in p.idle_power_ci95_w(comparison.boundary)]
        warnings += [f"the idle power subtracted for {name} has no stated uncertainty" for name in unsure]
    labels = tuple(told_apart([p.identity.system for p in profiles], [p.identity for p in profiles]))
    within = "+".join(comparison.boundary or ["sum"])
    unknown = np.empty((len(profiles), 0))
    costs = Costs(tuple(profiles), labels, unknown, unknown, within, idle, comparison.mixed, tuple(warnings), powers)
    energy_j, runtime_s = costs.at(workload.input_tokens, workload.output_tokens)
    far = _too_far(costs, workload)
    return replace(costs, energy_j=energy_j, runtime_s=runtime_s, mark=comparison.mark, too_far=far)


def _idle_power_w(profile: Profile, boundary: Sequence[str] | None) -> float | None:
    try:
        return profile.idle_power_w(boundary)
    except UserError:
        return None


def _too_far(costs: Costs, workload: Workload) -> NDArray[np.bool_] | None:
    """The pairs that lie more than ``TOO_FAR`` octaves outside what was measured on a system; None where none does.

    With so many requests in flight beyond those measured, all do.
    """
    m, n = workload.input_tokens, workload.output_tokens
    near: list[Range] = []
    for profile in costs.profiles:
        for function in (profile.runtime_function, *profile.energy_functions(costs.components)):
            if function.range.octaves_beyond > TOO_FAR:
                return np.ones(m.size, dtype=np.bool_)
            reach = _widened(function.range, 2**TOO_FAR)
            if reach not in near:
                near.append(reach)
    far = np.asarray(~np.logical_and.reduce([reach.covers(m, n) for reach in near]))
    return far if far.any() else None


def _widened(measured: Range, factor: float) -> Range:
    """A range without steps whose ends lie further out by a factor: quicker than distances of millions of sizes."""
    most = [(measured.max_input_tokens * factor, measured.max_output_tokens * factor)]
    return Range(measured.min_input_tokens / factor, measured.min_output_tokens / factor, most)


def _range_warnings(profiles: Sequence[Profile], workload: Workload) -> list[str]:
    """How much of the workload is extrapolated, in one line; nothing where all of it was measured."""
    parts: list[str] = []
    for profile in profiles:
        inside = profile.runtime_function.range.covers(workload.input_tokens, workload.output_tokens)
        outside = float(workload.count[~inside].sum()) / workload.requests
        if outside > 0:
            share = percent(outside) if outside >= 0.001 else "less than 0.1 %"
            parts.append(f"{share} {'' if parts else 'of the requests '}on {profile.name}")
    return [f"outside the measured range, so extrapolated: {', '.join(parts)}"] if parts else []


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
