"""From traces and phase marks to joules per request, with method and uncertainty. Pure.

Figures are per request: the window's energy over its number of requests. Domains that hold each other's energy are
never added; a sum takes the worst method of its parts and is null when a part is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from typing import Any, ClassVar, Literal, get_args

from harness.core.quantities import Facts, Method, weakest
from harness.core.wording import percent
from harness.energy.gains import gain_of, joined_gain
from harness.energy.integrate import Energy, window_energy
from harness.energy.phases import phase_energies
from harness.energy.readings import AS_IT_STANDS, Domain, Trace, Window

PHASE_LIMIT = 0.10
"""A phase whose 95 % half-width passes this share of its energy is null."""
DISAGREEMENT_LIMIT = 0.02
"""Counter and integrated power of one thing that differ by more than this are reported …"""
DISAGREEMENT_WINDOW_S = 5.0
"""… over windows of at least this length, where edges no longer explain it."""

NO_SOURCE = "no power source"
"""Why a sum of nothing is null."""
STUCK = "the readings did not move although it worked"

_PHASES = ("prefill", "decode")
_METHODS: tuple[str, ...] = get_args(Method)


def known_together(value: float | None, half_width: float | None, name: str) -> None:
    """Raises ValueError unless a value and its half-width are both known or neither, and the latter isn't negative."""
    if (value is None) != (half_width is None):
        raise ValueError(f"{name} and its half-width must both be known or neither")
    if half_width is not None and half_width < 0:
        raise ValueError(f"the half-width of {name} must not be negative")


@dataclass(frozen=True)
class EnergyFigure:
    """Joules per request of a domain, a component or a sum, whole and by phase, each with its 95 % half-width.

    None is what could not be measured; ``reason`` and ``phase_reason`` say why.
    """

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    method: Method | None
    request_j: float | None
    request_ci95_j: float | None
    prefill_j: float | None
    prefill_ci95_j: float | None
    decode_j: float | None
    decode_ci95_j: float | None
    reason: str | None
    phase_reason: str | None = None
    gain_ci95: float | None = None
    """Relative half-width of the 95 % interval of the meters' gain, which all windows that they measure share; it is in
    no ``ci95_j``. None where it is unknown, or there is no energy."""

    def __post_init__(self) -> None:
        known_together(self.request_j, self.request_ci95_j, "request_j")
        known_together(self.prefill_j, self.prefill_ci95_j, "prefill_j")
        known_together(self.decode_j, self.decode_ci95_j, "decode_j")
        if self.request_j is not None and self.method is None:
            raise ValueError("an energy needs its method")

    def total_ci95_j(self, part: Literal["request", "prefill", "decode"] = "request") -> float | None:
        """Half-width of the 95 % interval with the meters' gain in it, in J; None where energy or gain are unknown."""
        joules, ci95_j = getattr(self, f"{part}_j"), getattr(self, f"{part}_ci95_j")
        if joules is None or self.gain_ci95 is None:
            return None
        return math.hypot(ci95_j, joules * self.gain_ci95)

    def over(self, requests: float) -> EnergyFigure:
        """What each of that many requests has of it, which were counted as one."""
        names = [each.name for each in fields(self) if each.name.endswith("_j")]
        joules: dict[str, Any] = {name: _per(getattr(self, name), requests) for name in names}
        return replace(self, **joules)


@dataclass(frozen=True)
class EnergyReport:
    """The energy of a window's requests: by domain, by component, and their sum without counting anything twice."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    components: dict[str, EnergyFigure]
    total: EnergyFigure
    domains: dict[str, EnergyFigure] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def over(self, requests: float) -> EnergyReport:
        """What each of that many requests has of it, which were counted as one."""
        components, domains = (
            {name: figure.over(requests) for name, figure in figures.items()}
            for figures in (self.components, self.domains)
        )
        return replace(self, components=components, total=self.total.over(requests), domains=domains)


@dataclass(frozen=True)
class PowerFigure:
    """Mean power of a domain, a component or a sum, in W, with its 95 % half-width; None with the reason."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    power_w: float | None
    ci95_w: float | None
    method: Method | None = None
    reason: str | None = None
    gain_ci95: float | None = None
    """As in ``EnergyFigure``."""

    def __post_init__(self) -> None:
        known_together(self.power_w, self.ci95_w, "power_w")


@dataclass(frozen=True)
class IdleBaseline:
    """What the machine drew at rest for a while that began at ``start_ns`` (CLOCK_MONOTONIC)."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    components: dict[str, PowerFigure]
    total: PowerFigure
    domains: dict[str, PowerFigure] = field(default_factory=dict)
    conditions: Facts = field(default_factory=dict)
    start_ns: int | None = None
    duration_s: float | None = None


def attribute(
    traces: Sequence[Trace],
    window: Window,
    rank: Sequence[str] = (),
    working: Collection[str] = ("cpu", "system"),
    absent: str = NO_SOURCE,
    paused: bool = False,
) -> EnergyReport:
    """Energy per request of every domain, component and their total.

    ``rank`` lists probe names, preferred first, and settles ties between equal methods. ``working`` are the components
    that can't have been off, so that no energy is no reading. ``absent`` says why there are no traces. Where it was
    ``paused`` between requests the pauses' energy is no request's. Raises ValueError for an empty window.
    """
    requests = int(window.start_ns.size)
    if requests == 0:
        raise ValueError("a window needs at least one request")
    domains = [trace.domain for trace in traces]
    parts = {trace.domain.name: _energies(trace, window, trace.domain.component in working, paused) for trace in traces}
    chosen = choose(domains, rank)
    known = {domain.name: domain for domain in domains}
    return EnergyReport(
        domains={name: _figure([name], parts, known, requests) for name in parts},
        components={key: _figure(names, parts, known, requests) for key, names in chosen.items()},
        total=_figure(innermost(domains, chosen), parts, known, requests, absent),
        warnings=disagreements(
            {trace.domain: parts[trace.domain.name]["request"] for trace in traces},
            (int(window.end_ns[-1]) - int(window.start_ns[0])) / 1e9,
        ),
    )


def choose(domains: Sequence[Domain], rank: Sequence[str] = ()) -> dict[str, list[str]]:
    """For each component the names of the domains to add up: the best probe's, and its best domain per source.

    Of domains of one component that contain each other the outermost counts (a package, not its cores), unless the
    inner one is a process's share that is read no worse or by the same probe: it is only there where it was asked for.
    """

    def preference(domain: Domain) -> tuple[int, int, str]:
        place = rank.index(domain.probe) if domain.probe in rank else len(rank)
        return _METHODS.index(domain.method), place, domain.name

    chosen: dict[str, list[str]] = {}
    for component in dict.fromkeys(domain.component for domain in domains):
        rivals = sorted((domain for domain in domains if domain.component == component), key=preference)
        shares = [domain for domain in rivals if domain.scope in ("process", "gpu process")]
        rivals = [domain for domain in rivals if not any(_gives_way(domain, share) for share in shares)]
        rivals = [domain for domain in rivals if not any(other.contains(domain) for other in rivals)]
        best: dict[str, str] = {}
        for domain in rivals:
            if domain.probe == rivals[0].probe:
                best.setdefault(domain.source, domain.name)
        chosen[component] = list(best.values())
    return chosen


def _gives_way(domain: Domain, share: Domain) -> bool:
    no_worse = _METHODS.index(share.method) <= _METHODS.index(domain.method)
    return domain.contains(share) and (no_worse or share.probe == domain.probe)


def powers(report: EnergyReport, seconds: float) -> tuple[dict[str, PowerFigure], dict[str, PowerFigure], PowerFigure]:
    """The mean powers behind a report of one request that took ``seconds``: of domains, of components, in all."""

    def power(figure: EnergyFigure) -> PowerFigure:
        power_w, ci95_w = _per(figure.request_j, seconds), _per(figure.request_ci95_j, seconds)
        return PowerFigure(power_w, ci95_w, figure.method, figure.reason, figure.gain_ci95)

    def each(figures: Mapping[str, EnergyFigure]) -> dict[str, PowerFigure]:
        return {name: power(figure) for name, figure in figures.items()}

    return each(report.domains), each(report.components), power(report.total)


def innermost(domains: Sequence[Domain], chosen: Mapping[str, list[str]]) -> list[str]:
    """Names of the domains that a total adds up: the chosen ones that hold no other chosen one's energy."""
    names = {name for group in chosen.values() for name in group}
    picked = [domain for domain in domains if domain.name in names]
    return [domain.name for domain in picked if not any(domain.contains(other) for other in picked)]


def _energies(trace: Trace, window: Window, working: bool, paused: bool) -> dict[str, Energy]:
    """Energy of all requests of a window, and of all their prefills and decodes."""
    whole = window_energy(trace, int(window.start_ns[0]), int(window.end_ns[-1]))
    if working and whole.joules == 0.0:
        stuck = Energy(None, None, STUCK)
        return dict.fromkeys(("request", *_PHASES), stuck)
    phases = phase_energies(trace, window, whole)
    energies = {"request": _without(whole, phases.pauses, _paused_share(window)) if paused else whole}
    took_ns = {"prefill": window.prefill_end_ns - window.start_ns, "decode": window.end_ns - window.prefill_end_ns}
    for phase, found in (("prefill", phases.prefill), ("decode", phases.decode)):
        energies[phase] = found if took_ns[phase].any() else Energy(None, None, f"{phase} is empty")
    return energies


def _paused_share(window: Window) -> float:
    """Share of a window's time in which no request ran."""
    whole_ns = int(window.end_ns[-1]) - int(window.start_ns[0])
    return 1.0 - int((window.end_ns - window.start_ns).sum()) / whole_ns if whole_ns else 0.0


def _without(whole: Energy, pauses: Energy, share: float) -> Energy:
    """The energy of a window less that of its pauses, which take a ``share`` of its time.

    Their errors count as independent, which is the cautious choice where more of the one is less of the other. Pauses
    draw anything between nothing and the window's mean power: few readings don't tell it any better.
    """
    if whole.joules is None or whole.ci95_j is None:
        return whole
    at_most_j = share * whole.joules
    if pauses.joules is None or pauses.ci95_j is None or pauses.ci95_j > at_most_j / 2.0:
        pauses = Energy(at_most_j / 2.0, at_most_j / 2.0)
    paused_j, paused_ci95_j = pauses.joules or 0.0, pauses.ci95_j or 0.0
    return Energy(whole.joules - paused_j, math.hypot(whole.ci95_j, paused_ci95_j))


def _figure(
    names: Sequence[str],
    parts: Mapping[str, Mapping[str, Energy]],
    domains: Mapping[str, Domain],
    requests: int,
    absent: str = NO_SOURCE,
) -> EnergyFigure:
    """The sum of the named domains, per request."""
    keys = ("request", *_PHASES)
    request, prefill, decode = (summed({name: parts[name][key] for name in names}, absent) for key in keys)
    prefill, decode = _certain(prefill, "prefill"), _certain(decode, "decode")
    phase_reasons = dict.fromkeys(phase.reason for phase in (prefill, decode) if phase.reason)

    def each(energy: Energy) -> tuple[float | None, float | None]:
        return _per(energy.joules, requests), _per(energy.ci95_j, requests)

    method, phase_reason = weakest(domains[name].method for name in names), "; ".join(phase_reasons) or None
    gain_ci95 = summed_gain({name: parts[name]["request"] for name in names}, domains)
    return EnergyFigure(method, *each(request), *each(prefill), *each(decode), request.reason, phase_reason, gain_ci95)


def summed_gain(energies: Mapping[str, Energy], domains: Mapping[str, Domain]) -> float | None:
    """Relative half-width of the gain in a sum of energies by domain; None where one of them is."""
    if not energies or any(energy.joules is None for energy in energies.values()):
        return None
    gains = {name: gain_of(domains[name]).ci95 for name in energies}
    if len(gains) == 1:
        return next(iter(gains.values()))
    return joined_gain((domains[name].probe, energy.joules or 0.0, gains[name]) for name, energy in energies.items())


def _per(value: float | None, number: float) -> float | None:
    return None if value is None else value / number


def summed(energies: Mapping[str, Energy], absent: str = NO_SOURCE) -> Energy:
    """Sum of independent energies; null, with the parts' reasons, when one of them is, or ``absent`` of none."""
    if not energies:
        return Energy(None, None, absent)
    if len(energies) == 1:
        return next(iter(energies.values()))
    missing = [f"{name}: {energy.reason}" for name, energy in energies.items() if energy.joules is None]
    if missing:
        empty = all(energy.reason and energy.reason.endswith(" is empty") for energy in energies.values())
        return Energy(None, None, next(iter(energies.values())).reason if empty else "; ".join(missing))
    joules = sum(energy.joules or 0.0 for energy in energies.values())
    return Energy(joules, math.hypot(*(energy.ci95_j or 0.0 for energy in energies.values())))


def _certain(energy: Energy, phase: str) -> Energy:
    """The energy, or null where the readings hardly tell it from the rest of the window."""
    if energy.joules is None or energy.ci95_j is None or energy.joules == 0.0:
        return energy  # a rail that was off was off in its phases too
    if energy.ci95_j <= PHASE_LIMIT * energy.joules:
        return energy
    share = percent(energy.ci95_j / abs(energy.joules), digits=0)
    return Energy(None, None, f"the sensor can't tell {phase} from the rest: uncertain by {share}")


def disagreements(energies: Mapping[Domain, Energy], seconds: float) -> tuple[str, ...]:
    """Warnings on counters and integrated powers of one source that differ over a long window."""
    if seconds < DISAGREEMENT_WINDOW_S:
        return ()
    warnings = []
    for one, other in combinations(energies, 2):
        if one.source != other.source or one.kind == other.kind:
            continue
        counter, power = (one, other) if one.kind == "counter" else (other, one)
        counted, integrated = energies[counter].joules, energies[power].joules
        if counted is None or integrated is None or counted <= 0.0:
            continue
        difference = integrated / counted - 1.0
        if abs(difference) > DISAGREEMENT_LIMIT:
            warnings.append(f"{power.name} integrates to {difference:+.1%} of what {counter.name} counted")
    return tuple(warnings)
