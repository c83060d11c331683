"""From traces and phase marks to joules per request, with method and uncertainty. Pure.

Figures are per request: the window's energy over its number of requests. Domains that hold each other's energy are
never added; a sum takes the worst method of its parts and is null when a part is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, get_args

import numpy as np

from harness.core.quantities import Method, weakest
from harness.energy.integrate import Energy, phase_energy, phase_marks, window_energy
from harness.energy.readings import Domain, Trace, Window

PHASE_LIMIT = 0.10
"""A phase whose 95 % half-width passes this share of its energy is null."""
DISAGREEMENT_LIMIT = 0.02
"""Counter and integrated power of one thing that differ by more than this are reported …"""
DISAGREEMENT_WINDOW_S = 5.0
"""… over windows of at least this length, where edges no longer explain it."""

_PHASES = ("prefill", "decode")
_METHODS: tuple[str, ...] = get_args(Method)


def attribute(
    traces: Sequence[Trace], window: Window, rank: Sequence[str] = (), working: Collection[str] = ("cpu", "system")
) -> dict[str, Any]:
    """Energy per request of every domain, component and their total, as stored in a trial's record.

    ``rank`` lists probe names, preferred first, and settles ties between equal methods. ``working`` are the components
    that can't have been off, so that no energy is no reading. Returns
    ``{"domains": {name: figure}, "components": {component: figure}, "total": figure, "warnings": [str]}``, where a
    figure has ``method``, ``request_j``, ``prefill_j`` and ``decode_j`` with their 95 % half-widths ``…_ci95_j``,
    and the reasons ``reason`` and ``phase_reason`` for what is null. Raises ValueError for an empty window.
    """
    requests = int(window.start_ns.size)
    if requests == 0:
        raise ValueError("a window needs at least one request")
    parts = {trace.domain.name: _energies(trace, window, trace.domain.component in working) for trace in traces}
    chosen = choose([trace.domain for trace in traces], rank)
    methods = {trace.domain.name: trace.domain.method for trace in traces}
    everything = _innermost([trace.domain for trace in traces], chosen)
    return {
        "domains": {name: _figure([name], parts, methods, requests) for name in parts},
        "components": {key: _figure(names, parts, methods, requests) for key, names in chosen.items()},
        "total": _figure(everything, parts, methods, requests),
        "warnings": _disagreements(traces, parts, window),
    }


def choose(domains: Sequence[Domain], rank: Sequence[str] = ()) -> dict[str, list[str]]:
    """For each component the names of the domains to add up: the best probe's, and its best domain per source.

    A domain that contains another one of its component gives way to it, so that nothing is counted twice.
    """

    def preference(domain: Domain) -> tuple[int, int, str]:
        place = rank.index(domain.probe) if domain.probe in rank else len(rank)
        return _METHODS.index(domain.method), place, domain.name

    chosen: dict[str, list[str]] = {}
    for component in dict.fromkeys(domain.component for domain in domains):
        rivals = sorted((domain for domain in domains if domain.component == component), key=preference)
        sources = {domain.source for domain in rivals}
        rivals = [domain for domain in rivals if not sources.intersection(domain.contains)]
        best: dict[str, str] = {}
        for domain in rivals:
            if domain.probe == rivals[0].probe:
                best.setdefault(domain.source, domain.name)
        chosen[component] = list(best.values())
    return chosen


def powers(report: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The mean powers behind a report of one request that took ``seconds``: domains, components and total."""

    def power(figure: Mapping[str, Any]) -> dict[str, Any]:
        joules, ci95_j = figure["request_j"], figure["request_ci95_j"]
        return {
            "power_w": None if joules is None else joules / seconds,
            "ci95_w": None if ci95_j is None else ci95_j / seconds,
            "method": figure["method"],
            "reason": figure["reason"],
        }

    groups = ("domains", "components")
    return {
        **{group: {name: power(figure) for name, figure in report[group].items()} for group in groups},
        "total": power(report["total"]),
    }


def _innermost(domains: Sequence[Domain], chosen: Mapping[str, list[str]]) -> list[str]:
    """The chosen domains that hold no other chosen one's energy: what a total adds up."""
    names = {name for group in chosen.values() for name in group}
    picked = [domain for domain in domains if domain.name in names]
    sources = {domain.source for domain in picked}
    return [domain.name for domain in picked if not sources.intersection(domain.contains)]


def _energies(trace: Trace, window: Window, working: bool) -> dict[str, Energy]:
    """Energy of the whole window and of all its prefill and decode stretches."""
    energies = {"request": window_energy(trace, int(window.start_ns[0]), int(window.end_ns[-1]))}
    if working and energies["request"].joules == 0.0:
        stuck = Energy(None, None, "the readings did not move although it worked")
        return dict.fromkeys(("request", *_PHASES), stuck)
    for phase in _PHASES:
        starts, ends = phase_marks(window, phase)
        if np.all(ends <= starts):
            energies[phase] = Energy(None, None, f"{phase} is empty")
        else:
            energies[phase] = phase_energy(trace, starts, ends)
    return energies


def _figure(
    names: Sequence[str],
    parts: Mapping[str, Mapping[str, Energy]],
    methods: Mapping[str, str],
    requests: int,
) -> dict[str, Any]:
    """One figure of a record: the sum of the named domains, per request."""
    figure: dict[str, Any] = {"method": weakest(methods[name] for name in names)}
    reasons = []
    for key in ("request", *_PHASES):
        total = _sum({name: parts[name][key] for name in names})
        if key != "request":
            total = _certain(total, key)
            reasons += [total.reason] if total.reason else []
        else:
            figure["reason"] = total.reason
        figure[f"{key}_j"] = None if total.joules is None else total.joules / requests
        figure[f"{key}_ci95_j"] = None if total.ci95_j is None else total.ci95_j / requests
    figure["phase_reason"] = "; ".join(dict.fromkeys(reasons)) or None
    return figure


def _sum(energies: Mapping[str, Energy]) -> Energy:
    """Sum of independent energies; null, with the parts' reasons, when one of them is."""
    if not energies:
        return Energy(None, None, "no power source")
    if len(energies) == 1:
        return next(iter(energies.values()))
    missing = [f"{name}: {energy.reason}" for name, energy in energies.items() if energy.joules is None]
    if missing:
        empty = all(energy.reason and energy.reason.endswith(" is empty") for energy in energies.values())
        return Energy(None, None, next(iter(energies.values())).reason if empty else "; ".join(missing))
    joules = sum(energy.joules or 0.0 for energy in energies.values())
    return Energy(joules, math.hypot(*(energy.ci95_j or 0.0 for energy in energies.values())))


def _certain(energy: Energy, phase: str) -> Energy:
    """The energy, or null where a phase is too short for the sensor."""
    if energy.joules is None or energy.ci95_j is None:
        return energy
    if energy.joules == 0.0:
        return energy  # a rail that was off was off in its phases too
    if energy.ci95_j <= PHASE_LIMIT * energy.joules:
        return energy
    share = energy.ci95_j / energy.joules
    return Energy(None, None, f"{phase} is too short for the sensor: uncertain by {share:.0%}")


def _disagreements(traces: Sequence[Trace], parts: Mapping[str, Mapping[str, Energy]], window: Window) -> list[str]:
    """Warnings on counters and integrated powers of one source that differ over a long window."""
    if (int(window.end_ns[-1]) - int(window.start_ns[0])) / 1e9 < DISAGREEMENT_WINDOW_S:
        return []
    warnings = []
    for one, other in combinations([trace.domain for trace in traces], 2):
        if one.source != other.source or one.kind == other.kind:
            continue
        counter, power = (one, other) if one.kind == "counter" else (other, one)
        counted, integrated = parts[counter.name]["request"].joules, parts[power.name]["request"].joules
        if counted is None or integrated is None or counted <= 0.0:
            continue
        difference = integrated / counted - 1.0
        if abs(difference) > DISAGREEMENT_LIMIT:
            warnings.append(f"{power.name} integrates to {difference:+.1%} of what {counter.name} counted")
    return warnings
