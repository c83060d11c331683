"""From one domain's raw readings to joules between two times, with a 95 % half-width. Pure.

How it works. A counter is interpolated, a power series integrated by trapezoids. Sensors are slow, so what
happens within one update of a window's edge is never seen: power is taken to go on from either side up to the
edge, and the edge counts with an uncertainty of one update's energy, uniformly distributed (sd = P·T/√12).
Power that fluctuates between updates adds the sampling error of its mean, from successive differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.energy.readings import Calibration, Domain, Trace, Window

_NS = 1e9
_SLOPE_UPDATES = 3
"""Updates on either side of an edge whose mean power is carried up to the edge."""
_BESIDE_PERIODS = 20.0
"""How near, in periods, a move of unsure time stands to one that was seen at once and says more."""
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


class _Unknown(Exception):
    """The energy can't be told; the message is the reason."""


@dataclass(frozen=True)
class _Nodes:
    """Cumulative energy of a trace at its updates; times in seconds after ``origin_ns``."""

    origin_ns: int
    times_s: Floats
    joules: Floats
    lag_s: Floats
    """Longest time by which each node's true time may differ from its stated one, both ways together."""


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
        _require_signal(trace.domain, joules, (end_ns - start_ns) / _NS)
    except _Unknown as unknown:
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
        nodes = _nodes(trace)
        starts, ends = (starts_ns - nodes.origin_ns) / _NS, (ends_ns - nodes.origin_ns) / _NS
        joules = float(np.sum(_interpolate(nodes, ends) - _interpolate(nodes, starts)))
        inside = (nodes.times_s >= starts[0]) & (nodes.times_s <= ends[-1])
        if inside.sum() < 2:
            raise _Unknown(_TOO_FEW)
        _require_signal(trace.domain, joules, float(np.sum(ends - starts)))
        misplaced = _misplaced_s(starts, ends, trace.domain, nodes)
        sampling = _sampling_sd(trace, int(starts_ns[0]), int(ends_ns[-1])) * share
    except _Unknown as unknown:
        return Energy(None, None, str(unknown))
    steps = np.flatnonzero(inside)
    power = np.diff(nodes.joules[steps]) / np.diff(nodes.times_s[steps])
    edge_j = float(power.max()) * misplaced
    return Energy(joules, math.hypot(edge_j, _Z95 * sampling))


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
    return _Z95 * math.hypot(update, min(domain.age_s, poll_s)) * math.sqrt(2.0 / 12.0)


def margin_s(domain: Domain, poll_s: float) -> float:
    """How far readings should reach beyond either edge of a window for the edge to be told well, in s."""
    update = max(domain.period_s or 0.0, poll_s)
    return (_SLOPE_UPDATES + 2) * update + 2.0 * (domain.averaging_s or 0.0)


def calibrate(trace: Trace, calibration: Calibration) -> Trace:
    """The trace with a meter's correction applied: power = gain × read power + offset_w.

    A counter that was reset leaves no readings, with the reason as the trace's failure.
    """
    if trace.domain.kind == "power":
        return replace(trace, values=calibration.gain * trace.values + calibration.offset_w)
    domain = replace(trace.domain, wrap_j=None)
    try:
        joules = _unwrap(trace)
    except _Unknown as unknown:
        return Trace(domain, trace.times_ns[:0], trace.values[:0], str(unknown))
    since_s = (trace.times_ns - trace.times_ns[:1]) / _NS
    return replace(trace, domain=domain, values=calibration.gain * joules + calibration.offset_w * since_s)


_TOO_FEW = "fewer than two sensor updates inside the window: repeat the request more often"


def _require_span(trace: Trace, start_ns: int, end_ns: int) -> None:
    if trace.times_ns.size == 0:
        raise _Unknown(trace.failure or "no readings")
    if trace.times_ns[0] > start_ns:
        raise _Unknown("no reading before the window's start")
    if trace.times_ns[-1] < end_ns:
        raise _Unknown(trace.failure or "no reading after the window's end")
    if np.isnan(trace.values).any():
        unreadable = f"{trace.domain.probe} sent a reading in or near the window that can't be understood"
        raise _Unknown(trace.domain.lost_means or unreadable)


def _require_signal(domain: Domain, joules: float, seconds: float) -> None:
    """Refuse what can't be, and a silent zero: only a modelled rail is really 0 when its part of the chip is off."""
    if not 0.0 <= joules <= _MOST_W * max(seconds, 1.0):
        raise _Unknown(f"the readings make {joules:.4g} J, which can't be: {domain.probe} delivers wrong numbers")
    if joules == 0.0 and domain.method != "modelled":
        raise _Unknown("the readings did not move during the window")


def _quiet(trace: Trace, start_ns: int, end_ns: int, share: float = 1.0) -> Energy | None:
    """Energy of a modelled rail that is all but off, over a ``share`` of a window; None where it is not.

    Such a rail shows too few updates to be interpolated, yet its counts before and after the window bound what it
    used to within one count: that is a measurement. Two updates on either side must show it too, so that a rail
    which only updates late is not taken for one that is off.
    """
    domain = trace.domain
    if domain.method != "modelled" or domain.kind != "counter":
        return None
    beyond_ns = int(2.0 * (domain.period_s or 0.0) * _NS)
    first = int(np.searchsorted(trace.times_ns, start_ns - beyond_ns, side="right")) - 1
    last = int(np.searchsorted(trace.times_ns, end_ns + beyond_ns))
    if first < 0 or last == trace.times_ns.size:
        return None
    joules = _unwrap(trace)
    used = float(joules[last] - joules[first])
    if used > _QUIET_COUNTS * domain.resolution:
        return None
    return Energy(used * share, used + domain.resolution)


def _unwrap(trace: Trace) -> Floats:
    """Cumulative joules since the first reading, wraps undone. Raises _Unknown when the counter was reset."""
    if trace.values.size == 0:
        return np.zeros(0)
    steps = np.diff(trace.values)
    wrap = trace.domain.wrap_j
    if wrap is not None:
        steps = np.where(steps < 0.0, steps + wrap, steps)
        # A true wrap moves on by far less than the whole range between two polls; a reset does not.
        reset = np.any(steps < 0.0) or np.any(steps > 0.5 * wrap)
    else:
        reset = np.any(steps < -trace.domain.resolution)
    if reset:
        raise _Unknown("the counter jumped backwards: it was reset or missed a wrap")
    return np.concatenate(([0.0], np.cumsum(np.maximum(steps, 0.0))))


def _nodes(trace: Trace) -> _Nodes:
    domain = trace.domain
    period = domain.age_s
    origin = int(trace.times_ns[0])
    times = (trace.times_ns - origin) / _NS
    if domain.kind == "power":
        centres = times - (period + (domain.averaging_s or 0.0)) / 2.0
        steps = np.diff(centres) * (trace.values[1:] + trace.values[:-1]) / 2.0
        return _Nodes(origin, centres, np.concatenate(([0.0], np.cumsum(steps))), np.full(times.size, period))
    joules = _unwrap(trace)
    if period == 0.0:
        apart = np.append(np.diff(times) > 0.0, True)  # two readings of one time tell no power
        return _Nodes(origin, times[apart], joules[apart], np.zeros(int(apart.sum())))
    # An update lies between the poll that first shows it and the one before, at most one period back.
    lags = np.minimum(np.diff(times, prepend=times[0] - period), period)
    new = np.concatenate(([True], np.diff(joules) > 0.0))
    shown, counts, lags = (times - lags / 2.0)[new], joules[new], lags[new]
    if domain.echo_s > 0.0:
        # Of an update in two parts the later one has all; polls may show the parts a poll apart.
        whole = np.append(np.diff(shown) > domain.echo_s + float(np.median(np.diff(times))), True)
        shown, counts, lags = shown[whole], counts[whole], lags[whole]
    if domain.fresh:
        certain = _certain_moves(shown, lags, period)
        shown, counts, lags = shown[certain], counts[certain], lags[certain]
    return _Nodes(origin, shown, counts, lags)


def _certain_moves(times_s: Floats, lags_s: Floats, period_s: float) -> NDArray[np.bool_]:
    """Which moves of a counter to keep: not those of unsure time beside one that was waited for and seen at once."""
    seen = _seen_at_once(lags_s, period_s)
    if not seen.any():
        return np.ones(times_s.size, dtype=np.bool_)
    at = np.searchsorted(times_s[seen], times_s)
    around = np.concatenate(([-np.inf], times_s[seen], [np.inf]))
    away_s = np.minimum(times_s - around[at], around[at + 1] - times_s)
    return np.asarray(seen | (away_s > _BESIDE_PERIODS * period_s), dtype=np.bool_)


def _seen_at_once(lags_s: Floats, period_s: float) -> NDArray[np.bool_]:
    """Which moves of a counter came while it was read all the time, as at the edges of a window."""
    return np.asarray(lags_s < period_s / 4.0, dtype=np.bool_)


def _interpolate(nodes: _Nodes, times_s: Floats) -> Floats:
    """Cumulative joules at any time; the first and last mean power go on beyond the nodes."""
    t, e = nodes.times_s, nodes.joules
    if t.size < 2:
        raise _Unknown(_TOO_FEW)
    at = np.clip(np.searchsorted(t, times_s) - 1, 0, t.size - 2)
    slope = (e[at + 1] - e[at]) / (t[at + 1] - t[at])
    return np.asarray(e[at] + slope * (times_s - t[at]), dtype=np.float64)


def _counter_window(trace: Trace, start_ns: int, end_ns: int) -> tuple[float, float]:
    """Energy and its standard deviation from a counter."""
    nodes = _nodes(trace)
    start, end = (start_ns - nodes.origin_ns) / _NS, (end_ns - nodes.origin_ns) / _NS
    _require_updates(nodes, start, end, trace.domain)
    first, first_sd = _counter_edge(nodes, start, trace.domain)
    last, last_sd = _counter_edge(nodes, end, trace.domain)
    rounding = trace.domain.resolution * math.sqrt(2.0 / 12.0)
    return last - first, math.hypot(first_sd, last_sd, rounding)


def _require_updates(nodes: _Nodes, start_s: float, end_s: float, domain: Domain) -> None:
    """Refuse a window that a counter hardly saw: fewer than two updates, nor any that was waited for at either edge."""
    near_s = _BESIDE_PERIODS * (domain.period_s or 0.0)
    if domain.fresh and end_s - start_s > near_s:
        awaited = nodes.times_s[_seen_at_once(nodes.lag_s, domain.period_s or 0.0)]
        before, after = awaited[awaited <= start_s], awaited[awaited >= end_s]
        if before.size and after.size and start_s - before[-1] < near_s and after[0] - end_s < near_s:
            return
    inside = np.count_nonzero((nodes.times_s >= start_s) & (nodes.times_s <= end_s))
    if inside < 2:
        raise _Unknown(_TOO_FEW if inside else "the readings did not move during the window")


def _counter_edge(nodes: _Nodes, time_s: float, domain: Domain) -> tuple[float, float]:
    """Cumulative energy at an edge and its standard deviation.

    The load usually steps at an edge, so that straight interpolation would be off by up to ΔP·T/4: the mean
    power of the updates before and of those after is carried to the edge instead, and both must agree with the
    counts around it. Each counts by how near its update is: a counter that is read right at the edge says all.
    """
    t, e = nodes.times_s, nodes.joules
    right = int(np.clip(np.searchsorted(t, time_s), 1, t.size - 1))
    left = right - 1
    before, after = max(left - _SLOPE_UPDATES, 0), min(right + _SLOPE_UPDATES, t.size - 1)
    local_power = float(np.max(np.diff(e[before : after + 1]) / np.diff(t[before : after + 1])))
    estimates, sds = [], []
    for near, far in ((left, before), (right, after)):
        if near != far:
            beside = near - 1 if far < near else near + 1
            if domain.fresh and abs(t[beside] - t[near]) < _BESIDE_PERIODS * (domain.period_s or 0.0):
                far = beside  # two moves that were waited for tell the power right at the edge
            power = (e[near] - e[far]) / (t[near] - t[far])
            away_s = abs(time_s - t[near])
            estimates.append(e[near] + power * (time_s - t[near]))
            # In the middle of an update both together are as sure as a time that lies anywhere in it, P·T/√12.
            sds.append(local_power * math.hypot(away_s * math.sqrt(2.0 / 3.0), nodes.lag_s[near] / math.sqrt(6.0)))
    if not estimates:
        value = float(_interpolate(nodes, np.array([time_s]))[0])
        return value, local_power * math.hypot(t[right] - t[left], nodes.lag_s[left]) / math.sqrt(12.0)
    weights = np.array([1.0 / max(sd, 1e-12) ** 2 for sd in sds])
    value = float(np.average(np.clip(estimates, e[left], e[right]), weights=weights))
    return value, float(1.0 / math.sqrt(weights.sum()))


def _power_window(trace: Trace, start_ns: int, end_ns: int) -> tuple[float, float]:
    """Energy and its standard deviation from a power series.

    A reading smears power over its averaging window and its age. The integral therefore runs past both edges
    until all of the window's energy is in it, and what lies outside is taken off at the power seen there.
    """
    if np.count_nonzero((trace.times_ns >= start_ns) & (trace.times_ns <= end_ns)) < 2:
        raise _Unknown(_TOO_FEW)
    nodes = _nodes(trace)
    start, end = (start_ns - nodes.origin_ns) / _NS, (end_ns - nodes.origin_ns) / _NS
    domain = trace.domain
    # How far from an edge a reading's stated time may lie and still hold power of the other side.
    smear = (domain.age_s + (domain.averaging_s or 0.0)) / 2.0
    spacing = float(np.median(np.diff(nodes.times_s)))
    update = max(domain.period_s or 0.0, spacing)
    reach = _SLOPE_UPDATES * update
    joules = float(np.diff(_interpolate(nodes, np.array([start - smear, end + smear])))[0])
    variance = _sampling_sd(trace, start_ns, end_ns) ** 2
    # Readings are dated back by their age: those of a sensor that died at the window's end may all lie before it.
    inside = trace.values[(nodes.times_s >= start) & (nodes.times_s <= end)]
    if inside.size == 0:
        raise _Unknown(_TOO_FEW)
    peak = float(inside.max())
    for low, high in ((start - smear - reach, start - smear), (end + smear, end + smear + reach)):
        outside = trace.values[(nodes.times_s >= low) & (nodes.times_s <= high)]
        if outside.size == 0:
            outside = trace.values[:1] if high <= start else trace.values[-1:]
        joules -= float(outside.mean()) * smear
        variance += (peak * update) ** 2 / 12.0 + (smear * float(outside.std())) ** 2
    return joules, math.sqrt(variance + domain.resolution**2 / 12.0 * (end - start) * spacing)


def _sampling_sd(trace: Trace, start_ns: int, end_ns: int) -> float:
    """Standard deviation of a power integral because power fluctuates between updates, in J.

    From successive differences (von Neumann 1941), which ignore slow changes that the trapezoids follow, over the
    time that no reading's averaging window covers. Counters miss nothing: 0. A load that repeats exactly in step
    with the sensor is not noticed.
    """
    if trace.domain.kind == "counter":
        return 0.0
    inside = np.flatnonzero((trace.times_ns >= start_ns) & (trace.times_ns <= end_ns))
    spacing_ns = float(np.median(np.diff(trace.times_ns))) if trace.times_ns.size > 1 else 0.0
    period_ns = (trace.domain.period_s or 0.0) * _NS
    # Readings at least one update apart, so that none shows the same update again.
    kept = inside[:: max(1, round(period_ns / spacing_ns)) if spacing_ns > 0 else 1]
    if kept.size < 3:
        return 0.0
    values, times = trace.values[kept], trace.times_ns[kept] / _NS
    spread = float(np.mean(np.diff(values) ** 2)) / 2.0
    unseen_s = np.maximum(np.diff(times) - (trace.domain.averaging_s or 0.0), 0.0)
    return math.sqrt(spread * float(np.sum(unseen_s**2)))


def _misplaced_s(starts_s: Floats, ends_s: Floats, domain: Domain, nodes: _Nodes) -> float:
    """Most time, summed over all edges, whose energy may have been given to the wrong side."""
    gaps_s = np.diff(nodes.times_s)
    # The gap that an inner edge is likely to fall into: readings may stand closer at the window's own edges.
    spacing = float(np.sum(gaps_s**2) / np.sum(gaps_s))
    # Time around an inner edge within which energy can't be told apart.
    edge_s = max(spacing, domain.period_s or 0.0) + float(np.median(nodes.lag_s)) / 2.0 + (domain.averaging_s or 0.0)
    own = ends_s - starts_s
    gaps = starts_s[1:] - ends_s[:-1]
    far = np.array([math.inf])
    limit = np.minimum(own, edge_s / 2.0)
    at_starts = np.minimum(limit, np.concatenate((far, gaps)))
    at_ends = np.minimum(limit, np.concatenate((gaps, far)))
    return float(np.sum(at_starts) + np.sum(at_ends))
