"""From one domain's raw readings to joules between two times, with a 95 % half-width. Pure.

``cumulative`` tells how a trace is read at an edge, and how sure that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.energy.cumulative import (
    BESIDE_PERIODS,
    NS,
    SLOPE_UPDATES,
    TOO_FEW,
    Nodes,
    Unknown,
    counter_edge,
    interpolate,
    nodes_of,
    power_edge,
    rounding_sd,
    sampling_sd,
    seen_at_once,
    unwrap,
)
from harness.energy.readings import Calibration, Domain, Trace, Window

_Z95 = 1.959964
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
        quiet = _quiet(trace, start_ns, end_ns)
        if quiet is not None:
            return quiet
        measure = _counter_window if trace.domain.kind == "counter" else _power_window
        joules, sd = measure(trace, start_ns, end_ns)
        _require_signal(trace.domain, joules, (end_ns - start_ns) / NS)
    except Unknown as unknown:
        return Energy(None, None, str(unknown))
    return Energy(joules, _Z95 * sd)


def phase_energy(trace: Trace, starts_ns: NDArray[np.int64], ends_ns: NDArray[np.int64]) -> Energy:
    """Energy of all stretches [starts_ns[i], ends_ns[i]] together, in J; the stretches are in time order.

    At each edge up to half an update's energy may belong to the other side, and never more than the shorter of
    the two sides holds. These errors have the same sign at every repetition, so that they add up linearly.
    """
    try:
        _require_span(trace, int(starts_ns[0]), int(ends_ns[-1]))
        share = float(np.sum(ends_ns - starts_ns)) / float(ends_ns[-1] - starts_ns[0])
        quiet = _quiet(trace, int(starts_ns[0]), int(ends_ns[-1]), share)
        if quiet is not None:
            return quiet
        nodes = nodes_of(trace)
        starts, ends = (starts_ns - nodes.origin_ns) / NS, (ends_ns - nodes.origin_ns) / NS
        joules = float(np.sum(interpolate(nodes, ends) - interpolate(nodes, starts)))
        inside = (nodes.times_s >= starts[0]) & (nodes.times_s <= ends[-1])
        if inside.sum() < 2:
            raise Unknown(TOO_FEW)
        _require_signal(trace.domain, joules, float(np.sum(ends - starts)))
        misplaced = _misplaced_s(starts, ends, trace.domain, nodes)
        sampling = sampling_sd(trace, int(starts_ns[0]), int(ends_ns[-1])) * share
    except Unknown as unknown:
        return Energy(None, None, str(unknown))
    steps = np.flatnonzero(inside)
    power = np.diff(nodes.joules[steps]) / np.diff(nodes.times_s[steps])
    edge_j = float(power.max()) * misplaced
    return Energy(joules, math.hypot(edge_j, _Z95 * sampling))


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
        off = _quiet(trace, start_ns, end_ns)
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
        off = _quiet(trace, edges_ns[0], edges_ns[-1], (end_ns - start_ns) / (edges_ns[-1] - edges_ns[0]))
        if off is not None:
            return off
        nodes = nodes_of(trace)
        first_s, start, end, last_s = (
            (ns - nodes.origin_ns) / NS for ns in (edges_ns[0], start_ns, end_ns, edges_ns[-1])
        )
        _require_updates(nodes, first_s, last_s, trace.domain)
        first, first_sd = _edge(trace, nodes, start, "before" if start_ns == edges_ns[0] else None)
        last, last_sd = _edge(trace, nodes, end, "after" if end_ns == edges_ns[-1] else None)
    except Unknown as unknown:
        return Energy(None, None, str(unknown))
    parts = (first_sd, last_sd, sampling_sd(trace, start_ns, end_ns), rounding_sd(trace.domain, nodes, end - start))
    ci95_j = _Z95 * math.hypot(*parts)
    if not -ci95_j <= last - first <= _MOST_W * max(end - start, 1.0):
        return Energy(None, None, _nonsense(trace.domain, last - first))
    return Energy(last - first, ci95_j)


def _edge(trace: Trace, nodes: Nodes, time_s: float, side: Literal["before", "after"] | None) -> tuple[float, float]:
    """Cumulative energy at an edge and its standard deviation; from the readings on both sides where none is named.

    Of a power series the outer edges of a whole are told from the rest beyond them.
    """
    if trace.domain.kind == "counter":
        return counter_edge(nodes, time_s, trace.domain)
    reach_s = margin_s(trace.domain, float(np.median(np.diff(nodes.times_s))))
    near = trace.values[np.abs(nodes.times_s - time_s) <= reach_s]
    peak_w = float((near if near.size else trace.values).max())
    if side:
        return power_edge(trace, nodes, time_s, side, peak_w)
    (one, one_sd), (other, other_sd) = (power_edge(trace, nodes, time_s, side, peak_w) for side in ("before", "after"))
    # Both miss the same update.
    return (one + other) / 2.0, max(one_sd, other_sd)


def phase_marks(window: Window, phase: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end times of every ``prefill`` or ``decode`` stretch of a window."""
    if phase == "prefill":
        return window.start_ns, window.prefill_end_ns
    return window.prefill_end_ns, window.end_ns


def edge_uncertainty_s(domain: Domain, poll_s: float) -> float:
    """95 % half-width of a window's energy that its two edges cause, in seconds of its mean power.

    A power reading's averaging window adds nothing: ``margin_s`` leaves twice its length of rest on either side of a
    window, and what is smeared into a rest of steady power is taken back from there.
    """
    update = max(domain.period_s or 0.0, 0.0 if domain.fresh else poll_s)
    return _Z95 * math.hypot(update, min(domain.age_s, poll_s), 2.0 * domain.clock_s) * math.sqrt(2.0 / 12.0)


def margin_s(domain: Domain, poll_s: float) -> float:
    """How far readings should reach beyond either edge of a window for the edge to be told well, in s."""
    update = max(domain.period_s or 0.0, poll_s)
    return (SLOPE_UPDATES + 2) * update + 2.0 * (domain.averaging_s or 0.0)


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


def _quiet(trace: Trace, start_ns: int, end_ns: int, share: float = 1.0) -> Energy | None:
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


def _counter_window(trace: Trace, start_ns: int, end_ns: int) -> tuple[float, float]:
    """Energy and its standard deviation from a counter."""
    nodes = nodes_of(trace)
    start, end = (start_ns - nodes.origin_ns) / NS, (end_ns - nodes.origin_ns) / NS
    _require_updates(nodes, start, end, trace.domain)
    first, first_sd = counter_edge(nodes, start, trace.domain)
    last, last_sd = counter_edge(nodes, end, trace.domain)
    return last - first, math.hypot(first_sd, last_sd, rounding_sd(trace.domain, nodes, end - start))


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


def _power_window(trace: Trace, start_ns: int, end_ns: int) -> tuple[float, float]:
    """Energy and its standard deviation from a power series, from the rest on either side of the window."""
    if np.count_nonzero((trace.times_ns >= start_ns) & (trace.times_ns <= end_ns)) < 2:
        raise Unknown(TOO_FEW)
    nodes = nodes_of(trace)
    start, end = (start_ns - nodes.origin_ns) / NS, (end_ns - nodes.origin_ns) / NS
    # Readings are dated back by their age: those of a sensor that died at the window's end may all lie before it.
    inside = trace.values[(nodes.times_s >= start) & (nodes.times_s <= end)]
    if inside.size == 0:
        raise Unknown(TOO_FEW)
    peak_w = float(inside.max())
    first, first_sd = power_edge(trace, nodes, start, "before", peak_w)
    last, last_sd = power_edge(trace, nodes, end, "after", peak_w)
    parts = (first_sd, last_sd, sampling_sd(trace, start_ns, end_ns), rounding_sd(trace.domain, nodes, end - start))
    return last - first, math.hypot(*parts)


def _misplaced_s(starts_s: Floats, ends_s: Floats, domain: Domain, nodes: Nodes) -> float:
    """Most time, summed over all edges, whose energy may have been given to the wrong side."""
    gaps_s = np.diff(nodes.times_s)
    # The gap that an inner edge is likely to fall into: readings may stand closer at the window's own edges.
    spacing = float(np.sum(gaps_s**2) / np.sum(gaps_s))
    # Time around an inner edge within which energy can't be told apart.
    edge_s = max(spacing, domain.period_s or 0.0) + float(np.median(nodes.lag_s)) / 2.0 + (domain.averaging_s or 0.0)
    edge_s += 2.0 * domain.clock_s
    own = ends_s - starts_s
    gaps = starts_s[1:] - ends_s[:-1]
    far = np.array([math.inf])
    limit = np.minimum(own, edge_s / 2.0)
    at_starts = np.minimum(limit, np.concatenate((far, gaps)))
    at_ends = np.minimum(limit, np.concatenate((gaps, far)))
    return float(np.sum(at_starts) + np.sum(at_ends))


def relative_half_width_so_far(traces: Sequence[Trace], start_ns: int, now_ns: int) -> float | None:
    """Half-width of the energy from a window's start to now, relative to it, as if the window ended now.

    For a window that is still running: what the edge at its end will cost is taken to be what one costs at best, with
    readings on both sides. The traces are those of the domains that are added up. None while readings don't tell, or
    without traces.
    """
    raise NotImplementedError
