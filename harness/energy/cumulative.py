"""Cumulative energy of a trace at any time, with its standard deviation. Pure.

How it works. A counter is interpolated, a power series integrated by trapezoids. Sensors are slow, so what
happens within one update of a window's edge is never seen: power is taken to go on from either side up to the
edge, and the edge counts with an uncertainty of one update's energy, uniformly distributed (sd = P·T/√12).
Power that fluctuates between updates adds the sampling error of its mean, from successive differences. Where the
readings' clock is known within ± δ only, each edge adds P·δ, uniformly distributed too (sd = P·δ/√3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.energy.readings import Domain, Trace

NS = 1e9
SLOPE_UPDATES = 3
"""Updates on either side of an edge whose mean power is carried up to the edge."""
BESIDE_PERIODS = 20.0
"""How near, in periods, a move of unsure time stands to one that was seen at once and says more."""
TOO_FEW = "fewer than two sensor updates inside the window: repeat the request more often"


class Unknown(Exception):
    """The energy can't be told; the message is the reason."""


@dataclass(frozen=True)
class Nodes:
    """Cumulative energy of a trace at its updates; times in seconds after ``origin_ns``."""

    origin_ns: int
    times_s: Floats
    joules: Floats
    lag_s: Floats
    """Longest time by which each node's true time may differ from its stated one, both ways together."""


def unwrap(trace: Trace) -> Floats:
    """Cumulative joules since the first reading, wraps undone. Raises Unknown when the counter was reset."""
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
        raise Unknown("the counter jumped backwards: it was reset or missed a wrap")
    return np.concatenate(([0.0], np.cumsum(np.maximum(steps, 0.0))))


def nodes_of(trace: Trace) -> Nodes:
    """The updates of a trace that has readings. Raises Unknown when a counter was reset."""
    domain = trace.domain
    period = domain.age_s
    origin = int(trace.times_ns[0])
    times = (trace.times_ns - origin) / NS
    if domain.kind == "power":
        centres = times - (period + (domain.averaging_s or 0.0)) / 2.0
        steps = np.diff(centres) * (trace.values[1:] + trace.values[:-1]) / 2.0
        return Nodes(origin, centres, np.concatenate(([0.0], np.cumsum(steps))), np.full(times.size, period))
    joules = unwrap(trace)
    if period == 0.0:
        apart = np.append(np.diff(times) > 0.0, True)  # two readings of one time tell no power
        return Nodes(origin, times[apart], joules[apart], np.zeros(int(apart.sum())))
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
    return Nodes(origin, shown, counts, lags)


def _certain_moves(times_s: Floats, lags_s: Floats, period_s: float) -> NDArray[np.bool_]:
    """Which moves of a counter to keep: not those of unsure time beside one that was waited for and seen at once."""
    seen = seen_at_once(lags_s, period_s)
    if not seen.any():
        return np.ones(times_s.size, dtype=np.bool_)
    at = np.searchsorted(times_s[seen], times_s)
    around = np.concatenate(([-np.inf], times_s[seen], [np.inf]))
    away_s = np.minimum(times_s - around[at], around[at + 1] - times_s)
    return np.asarray(seen | (away_s > BESIDE_PERIODS * period_s), dtype=np.bool_)


def seen_at_once(lags_s: Floats, period_s: float) -> NDArray[np.bool_]:
    """Which moves of a counter came while it was read all the time, as at the edges of a window."""
    return np.asarray(lags_s < period_s / 4.0, dtype=np.bool_)


def interpolate(nodes: Nodes, times_s: Floats) -> Floats:
    """Cumulative joules at any time; the first and last mean power go on beyond the nodes."""
    t, e = nodes.times_s, nodes.joules
    if t.size < 2:
        raise Unknown(TOO_FEW)
    at = np.clip(np.searchsorted(t, times_s) - 1, 0, t.size - 2)
    slope = (e[at + 1] - e[at]) / (t[at + 1] - t[at])
    return np.asarray(e[at] + slope * (times_s - t[at]), dtype=np.float64)


def counter_edge(nodes: Nodes, time_s: float, domain: Domain) -> tuple[float, float]:
    """Cumulative energy at an edge and its standard deviation.

    The load usually steps at an edge, so that straight interpolation would be off by up to ΔP·T/4: the mean
    power of the updates before and of those after is carried to the edge instead, and both must agree with the
    counts around it. Each counts by how near its update is: a counter that is read right at the edge says all.
    """
    t, e = nodes.times_s, nodes.joules
    right = int(np.clip(np.searchsorted(t, time_s), 1, t.size - 1))
    left = right - 1
    before, after = max(left - SLOPE_UPDATES, 0), min(right + SLOPE_UPDATES, t.size - 1)
    local_power = float(np.max(np.diff(e[before : after + 1]) / np.diff(t[before : after + 1])))
    estimates, sds = [], []
    for near, far in ((left, before), (right, after)):
        if near != far:
            beside = near - 1 if far < near else near + 1
            if domain.fresh and abs(t[beside] - t[near]) < BESIDE_PERIODS * (domain.period_s or 0.0):
                far = beside  # two moves that were waited for tell the power right at the edge
            power = (e[near] - e[far]) / (t[near] - t[far])
            away_s = abs(time_s - t[near])
            estimates.append(e[near] + power * (time_s - t[near]))
            # In the middle of an update both together are as sure as a time that lies anywhere in it, P·T/√12.
            sds.append(local_power * math.hypot(away_s * math.sqrt(2.0 / 3.0), nodes.lag_s[near] / math.sqrt(6.0)))
    if not estimates:
        value = float(interpolate(nodes, np.array([time_s]))[0])
        sd = local_power * math.hypot(t[right] - t[left], nodes.lag_s[left]) / math.sqrt(12.0)
        return value, math.hypot(sd, _clock_sd(domain, local_power))
    weights = np.array([1.0 / max(sd, 1e-12) ** 2 for sd in sds])
    value = float(np.average(np.clip(estimates, e[left], e[right]), weights=weights))
    return value, math.hypot(1.0 / math.sqrt(weights.sum()), _clock_sd(domain, local_power))


def power_edge(
    trace: Trace, nodes: Nodes, time_s: float, side: Literal["before", "after"], peak_w: float
) -> tuple[float, float]:
    """Cumulative energy at an edge of a power series and its standard deviation, from the readings on one side.

    A reading smears power over its averaging window and its age. The integral therefore runs past the edge until
    all energy of that side is in it, and what lies beyond is taken off at the power seen there. ``peak_w`` is the
    power of which the edge may have missed one update.
    """
    domain = trace.domain
    # How far from an edge a reading's stated time may lie and still hold power of the other side.
    smear = (domain.age_s + (domain.averaging_s or 0.0)) / 2.0
    update = max(domain.period_s or 0.0, float(np.median(np.diff(nodes.times_s))))
    sign = -1.0 if side == "before" else 1.0
    near, far = time_s + sign * smear, time_s + sign * (smear + SLOPE_UPDATES * update)
    outside = trace.values[(nodes.times_s >= min(near, far)) & (nodes.times_s <= max(near, far))]
    if outside.size == 0:
        outside = trace.values[:1] if side == "before" else trace.values[-1:]
    joules = float(interpolate(nodes, np.array([near]))[0]) - sign * float(outside.mean()) * smear
    parts = (peak_w * update / math.sqrt(12.0), smear * float(outside.std()), _clock_sd(domain, peak_w))
    return joules, math.hypot(*parts)


def _clock_sd(domain: Domain, power_w: float) -> float:
    return power_w * domain.clock_s / math.sqrt(3.0)


def sampling_sd(trace: Trace, start_ns: int, end_ns: int) -> float:
    """Standard deviation of a power integral because power fluctuates between updates, in J.

    From successive differences (von Neumann 1941), which ignore slow changes that the trapezoids follow, over the
    time that no reading's averaging window covers. Counters miss nothing: 0. A load that repeats exactly in step
    with the sensor is not noticed.
    """
    if trace.domain.kind == "counter":
        return 0.0
    inside = np.flatnonzero((trace.times_ns >= start_ns) & (trace.times_ns <= end_ns))
    spacing_ns = float(np.median(np.diff(trace.times_ns))) if trace.times_ns.size > 1 else 0.0
    period_ns = (trace.domain.period_s or 0.0) * NS
    # Readings at least one update apart, so that none shows the same update again.
    kept = inside[:: max(1, round(period_ns / spacing_ns)) if spacing_ns > 0 else 1]
    if kept.size < 3:
        return 0.0
    values, times = trace.values[kept], trace.times_ns[kept] / NS
    spread = float(np.mean(np.diff(values) ** 2)) / 2.0
    unseen_s = np.maximum(np.diff(times) - (trace.domain.averaging_s or 0.0), 0.0)
    return math.sqrt(spread * float(np.sum(unseen_s**2)))


def rounding_sd(domain: Domain, nodes: Nodes, seconds: float) -> float:
    """Standard deviation of an energy because readings are rounded, in J."""
    if domain.kind == "counter":
        return domain.resolution * math.sqrt(2.0 / 12.0)
    return domain.resolution * math.sqrt(seconds * float(np.median(np.diff(nodes.times_s))) / 12.0)
