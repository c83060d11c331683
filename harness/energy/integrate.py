"""From one domain's raw readings to joules between two times, with a 95 % half-width. Pure.

``cumulative`` tells how a trace is read at an edge, and how sure that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from harness.core.statistics import Z95
from harness.energy.cumulative import SLOPE_UPDATES, TOO_FEW, Edge, edge, late_sd
from harness.energy.nodes import BESIDE_PERIODS, NS, Nodes, Unknown, nodes_of, seen_at_once, unwrap
from harness.energy.readings import Calibration, Domain, Trace
from harness.energy.sampling import rounding_sd, sampling_sd

_MOST_W = 1e6
"""No machine draws more: readings that say so are damaged."""
_QUIET_COUNTS = 3.0
"""Counts in a window up to which a modelled rail is taken to be all but off."""


@dataclass(frozen=True)
class Energy:
    """Joules with a 95 % half-width, or None with the reason."""

    joules: float | None
    ci95_j: float | None
    reason: str | None = None


def window_energy(trace: Trace, start_ns: int, end_ns: int) -> Energy:
    """Energy of ``trace`` between two CLOCK_MONOTONIC times, in J.

    ``joules`` is None, with the reason, when the readings don't span the window, when fewer than two lie inside
    it and none right at its edges, when the sensor died, or when a counter jumped or never moved. A modelled rail that
    was off is 0 J.
    """
    try:
        _require_span(trace, start_ns, end_ns)
        quiet = quiet_energy(trace, start_ns, end_ns)
        if quiet is not None:
            return quiet
        joules, sd = _window(trace, start_ns, end_ns)
        _require_signal(trace.domain, joules, (end_ns - start_ns) / NS)
    except Unknown as unknown:
        return Energy(None, None, str(unknown))
    return Energy(joules, Z95 * sd)


def stretch_energies(trace: Trace, edges_ns: Sequence[int]) -> list[Energy]:
    """Energy of each stretch between two consecutive times, in J; together they are ``window_energy`` of the whole.

    What the trace says at an edge is the same for the stretches on both sides, so that they add up; the errors of the
    two at their common edge are opposite, which the half-width of the whole knows. A stretch shorter than an update
    isn't refused: its half-width tells. One without length is 0 J.
    """
    return [_stretch(trace, start_ns, end_ns, edges_ns) for start_ns, end_ns in pairwise(edges_ns)]


def part_energy(trace: Trace, start_ns: int, end_ns: int) -> Energy:
    """Energy between two times of a trace that reaches beyond both; those of parts that follow each other add up."""
    try:
        _require_span(trace, start_ns, end_ns)
        off = quiet_energy(trace, start_ns, end_ns)
    except Unknown as unknown:
        return Energy(None, None, str(unknown))
    # No edge is an outer one: on both sides of each there is more of the same.
    return off or _stretch(trace, start_ns, end_ns, (int(trace.times_ns[0]) - 1, int(trace.times_ns[-1]) + 1))


def _stretch(trace: Trace, start_ns: int, end_ns: int, edges_ns: Sequence[int]) -> Energy:
    """The energy of one of the stretches."""
    if start_ns == end_ns:
        return Energy(0.0, 0.0)
    try:
        _require_span(trace, start_ns, end_ns)
        off = quiet_energy(trace, edges_ns[0], edges_ns[-1], (end_ns - start_ns) / (edges_ns[-1] - edges_ns[0]))
        if off is not None:
            return off
        nodes = nodes_of(trace)
        first_s, start, end, last_s = (
            (ns - nodes.origin_ns) / NS for ns in (edges_ns[0], start_ns, end_ns, edges_ns[-1])
        )
        _require_updates(nodes, first_s, last_s, trace.domain)
        first = edge(nodes, start, trace.domain, "after" if start_ns == edges_ns[0] else None)
        last = edge(nodes, end, trace.domain, "before" if end_ns == edges_ns[-1] else None)
    except Unknown as unknown:
        return Energy(None, None, str(unknown))
    joules, sd = _between(first, last, trace, nodes, start_ns, end_ns)
    if not -Z95 * sd <= joules <= _MOST_W * max(end - start, 1.0):
        return Energy(None, None, _nonsense(trace.domain, joules))
    return Energy(joules, Z95 * sd)


def edge_uncertainty_s(domain: Domain, poll_s: float) -> float:
    """95 % half-width of a window's energy that its two edges cause, in seconds of its mean power, as a plan.

    An update lies anywhere between the poll that shows it and the one before, or within one period where polls are
    rarer. What readings then tell is mostly better: the side at rest misplaces little power.
    """
    unseen_s = min(max(domain.period_s or 0.0, 0.0 if domain.fresh else poll_s), poll_s)
    blind_s = domain.blind_share * (domain.period_s or 0.0)
    return Z95 * math.hypot(unseen_s, blind_s, 2.0 * domain.clock_s) * math.sqrt(2.0 / 12.0)


def margin_s(domain: Domain, poll_s: float) -> float:
    """How far readings should reach beyond either edge of a window for the edge to be told well, in s."""
    update = max(domain.period_s or 0.0, poll_s)
    return (SLOPE_UPDATES + 2) * update + 2.0 * (domain.averaging_s or 0.0) + domain.lag_s + domain.filter_s


def calibrate(trace: Trace, calibration: Calibration) -> Trace:
    """The trace with a meter's correction applied: power = gain × read power + offset_w.

    A counter that was reset leaves no readings, with the reason as the trace's failure.
    """
    if trace.domain.kind == "power":
        domain = replace(trace.domain, calibrated=True)
        return replace(trace, domain=domain, values=calibration.gain * trace.values + calibration.offset_w)
    domain = replace(trace.domain, wrap_j=None, calibrated=True)
    try:
        joules = unwrap(trace)
    except Unknown as unknown:
        return Trace(domain, trace.times_ns[:0], trace.values[:0], str(unknown))
    since_s = (trace.times_ns - trace.times_ns[:1]) / NS
    return replace(trace, domain=domain, values=calibration.gain * joules + calibration.offset_w * since_s)


def _require_span(trace: Trace, start_ns: int, end_ns: int) -> None:
    if trace.times_ns.size == 0:
        raise Unknown(trace.failure or "no readings")
    if trace.times_ns[0] > start_ns:
        raise Unknown("no reading before the window's start")
    if trace.times_ns[-1] < end_ns:
        raise Unknown(trace.failure or "no reading after the window's end")
    if np.isnan(trace.values).any():
        unreadable = f"{trace.domain.probe} sent a reading in or near the window that can't be understood"
        raise Unknown(trace.domain.lost_means or unreadable)


def _require_signal(domain: Domain, joules: float, seconds: float) -> None:
    """Refuse what can't be, and a silent zero: only a modelled rail is really 0 when its part of the chip is off."""
    if not 0.0 <= joules <= _MOST_W * max(seconds, 1.0):
        raise Unknown(_nonsense(domain, joules))
    if joules == 0.0 and domain.method != "modelled":
        raise Unknown("the readings did not move during the window")


def _nonsense(domain: Domain, joules: float) -> str:
    return f"the readings make {joules:.4g} J, which can't be: {domain.probe} delivers wrong numbers"


def quiet_energy(trace: Trace, start_ns: int, end_ns: int, share: float = 1.0) -> Energy | None:
    """Energy of a modelled rail that is all but off, over a ``share`` of a window; None where it is not.

    Such a rail shows too few updates to be interpolated, yet its counts before and after the window bound what it
    used to within one count: that is a measurement. Two updates on either side must show it too, so that a rail
    which only updates late is not taken for one that is off.
    """
    domain = trace.domain
    if domain.method != "modelled" or domain.kind != "counter":
        return None
    beyond_ns = int(2.0 * (domain.period_s or 0.0) * NS)
    first = int(np.searchsorted(trace.times_ns, start_ns - beyond_ns, side="right")) - 1
    last = int(np.searchsorted(trace.times_ns, end_ns + beyond_ns))
    if first < 0 or last == trace.times_ns.size:
        return None
    joules = unwrap(trace)
    used = float(joules[last] - joules[first])
    if used > _QUIET_COUNTS * domain.resolution:
        return None
    return Energy(used * share, used + domain.resolution)


def _window(trace: Trace, start_ns: int, end_ns: int) -> tuple[float, float]:
    """Energy and its standard deviation."""
    domain, nodes = trace.domain, nodes_of(trace)
    start, end = (start_ns - nodes.origin_ns) / NS, (end_ns - nodes.origin_ns) / NS
    if domain.kind == "power" and np.count_nonzero((trace.times_ns >= start_ns) & (trace.times_ns <= end_ns)) < 2:
        raise Unknown(TOO_FEW)
    if domain.kind == "power" and nodes.times_s[-1] < start:
        raise Unknown(TOO_FEW)  # dated back to what it tells of, even the last reading lies before the window
    _require_updates(nodes, start, end, domain)
    first, last = edge(nodes, start, domain, "after"), edge(nodes, end, domain, "before")
    return _between(first, last, trace, nodes, start_ns, end_ns)


def _between(first: Edge, last: Edge, trace: Trace, nodes: Nodes, start_ns: int, end_ns: int) -> tuple[float, float]:
    """Energy between two edges and its standard deviation."""
    late_j = (last.late_w - first.late_w) * late_sd(nodes, trace.domain)
    rounding = rounding_sd(trace.domain, nodes, (end_ns - start_ns) / NS)
    parts = (first.own_sd, last.own_sd, late_j, sampling_sd(trace, start_ns, end_ns), rounding)
    return last.joules - first.joules, math.hypot(*parts)


def _require_updates(nodes: Nodes, start_s: float, end_s: float, domain: Domain) -> None:
    """Refuse a window that a sensor hardly saw: fewer than two updates, nor any that was waited for at either edge."""
    near_s = BESIDE_PERIODS * (domain.period_s or 0.0)
    if domain.fresh and end_s - start_s > near_s:
        awaited = nodes.times_s[seen_at_once(nodes.lag_s, domain.period_s or 0.0)]
        before, after = awaited[awaited <= start_s], awaited[awaited >= end_s]
        if before.size and after.size and start_s - before[-1] < near_s and after[0] - end_s < near_s:
            return
    inside = np.count_nonzero((nodes.times_s >= start_s) & (nodes.times_s <= end_s))
    if inside < 2:
        raise Unknown(TOO_FEW if inside else "the readings did not move during the window")


def relative_half_width_so_far(traces: Sequence[Trace], start_ns: int, now_ns: int) -> float | None:
    """Half-width of the energy from a window's start to now, relative to it, as if the window ended now.

    For a window that is still running, as often as readings come: its end will cost what the plan says. The traces are
    those of the domains that are added up, from a while before the start. None while readings don't tell, or without
    traces.
    """
    joules, variance = 0.0, 0.0
    for trace in traces:
        found = _so_far(trace, start_ns, now_ns)
        if found is None:
            return None
        joules, variance = joules + found[0], variance + found[1] ** 2
    return Z95 * math.sqrt(variance) / joules if joules > 0.0 else None


def _so_far(trace: Trace, start_ns: int, now_ns: int) -> tuple[float, float] | None:
    """Joules since a window's start and their standard deviation, if it ended now; None while that can't be told."""
    domain = trace.domain
    if trace.times_ns.size == 0 or trace.times_ns[0] > start_ns or np.isnan(trace.values).any():
        return None
    try:
        nodes = nodes_of(trace)
        start, now = (start_ns - nodes.origin_ns) / NS, (now_ns - nodes.origin_ns) / NS
        inside = np.flatnonzero((nodes.times_s >= start) & (nodes.times_s <= now))
        if inside.size < 2:
            return None
        first = edge(nodes, start, domain, "after")
        until_s, until_j = float(nodes.times_s[inside[-1]]), float(nodes.joules[inside[-1]])
    except Unknown:
        return None
    power_w = (until_j - first.joules) / (until_s - start) if until_s > start else 0.0
    if power_w <= 0.0:
        return None
    last_sd = (
        power_w * edge_uncertainty_s(domain, float(np.median(np.diff(trace.times_ns))) / NS) / Z95 / math.sqrt(2.0)
    )
    late_j = (power_w - first.late_w) * late_sd(nodes, domain)
    sampling = sampling_sd(trace, start_ns, nodes.origin_ns + round(until_s * NS)) * (now - start) / (until_s - start)
    return power_w * (now - start), math.hypot(first.own_sd, last_sd, late_j, sampling)
