"""Cumulative energy of a trace at any time, with its standard deviation. Pure.

How it works. Every sensor becomes a row of nodes: times at which its cumulative energy is known. A counter's are its
updates; a power reading is the mean over the update that it looks into, dated to where it looks. What lies beyond the
node next to an edge is carried on at the mean power there, from either side, and the two count by how sure they are:

- a node lies anywhere between the polls that bracket it, and its clock may be off: the power at it × that time;
- power fluctuates: as its successive differences tell (von Neumann 1941), growing with the time that is carried over;
- a sensor that looks for a part of the time may have seen either side of a step at the edge.

The side at rest tells an edge best: little power is misplaced by an unsure time. Over the window, what a sensor was
blind to and the noise of its readings add the error of their sum, from second differences, which slow changes and steps
hardly touch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.core.arrays import Floats
from harness.core.statistics import Z95, student_95
from harness.energy.nodes import Nodes, Unknown
from harness.energy.readings import Domain

TOO_FEW = "fewer than two sensor updates inside the window: repeat the request more often"
SLOPE_UPDATES = 3
"""Updates on either side of an edge whose mean power is carried up to the edge."""
FLUCTUATION_UPDATES = 12
"""Updates on either side that tell how much power fluctuates there."""
_CLASH = 1.5
"""Squared difference of two sides, in its variances, from which on both are less sure than they say."""
_HIDDEN = 0.1
"""Part of the power that may swing within an update, unseen (standard deviation)."""
_RESTING = 0.6
"""A machine that draws less than this part of what it draws most is at rest."""
_STAMP_S = 0.001
"""How late a reading that comes with its update is stamped, give or take."""
_UNEVEN = 0.03
"""Part of a pace by which single updates miss it."""
_ALONE = {"counter": 1.0, "power": 0.6}
"""Part of the time by which all updates may be late that one may be by itself, as an uneven pace hides in it. That of
counters was seen to wander; of a sensor that looks now and then the load's power tells both edges, and only what the
pace changes between them counts: as for power readings."""
_CAUTION = 1.06
"""How much wider an edge's doubt is for being estimated from few updates."""
_DRIFT = 0.05
"""Part of a clock's error that differs between two edges."""


@dataclass(frozen=True)
class Edge:
    """Cumulative energy at an edge. Its errors: one of its own, and what its nodes and clock share with other edges."""

    joules: float
    own_sd: float
    late_w: float
    """Energy that is misplaced for each second that all nodes are late."""


@dataclass(frozen=True)
class _Side:
    """Cumulative energy at an edge as the nodes on one side of it tell, by the parts of its doubt."""

    joules: float
    power_w: float
    own_variance: float
    """Of all but what makes all nodes late together, in J²."""


def edge(nodes: Nodes, time_s: float, domain: Domain, inside: Literal["before", "after"] | None = None) -> Edge:
    """Cumulative energy at an edge; ``inside`` is where the window lies, None for both.

    Raises Unknown for fewer than two nodes.
    """
    t = nodes.times_s
    if t.size < 2:
        raise Unknown(TOO_FEW)
    # Nodes nearer than this may hold power of the other side.
    near_s = nodes.lag_s / 2.0 + domain.clock_s + _smear_s(domain)
    before, after = np.flatnonzero(t + near_s <= time_s), np.flatnonzero(t - near_s >= time_s)
    sides = [
        _side(nodes, int(before[-1]), -1, time_s, domain) if before.size else None,
        _side(nodes, int(after[0]), 1, time_s, domain) if after.size else None,
    ]
    known = [side for side in sides if side is not None]
    if not known:
        return _interpolated(nodes, time_s)
    if len(known) == 1:
        (side,) = known
        return Edge(side.joules, math.sqrt(side.own_variance), side.power_w)
    return _joined(known, max(float(t[after[0]] - t[before[-1]]), 0.0), late_sd(nodes, domain), domain, inside)


def _interpolated(nodes: Nodes, time_s: float) -> Edge:
    """The edge by the mean power between the two nodes around it, which goes on beyond the first and the last."""
    t, e = nodes.times_s, nodes.joules
    right = int(np.clip(np.searchsorted(t, time_s), 1, t.size - 1))
    apart_s = float(t[right] - t[right - 1])
    power = float(e[right] - e[right - 1]) / apart_s
    unsure_s = math.hypot(apart_s, float(nodes.lag_s[right])) / math.sqrt(12.0)
    return Edge(float(e[right - 1]) + power * (time_s - float(t[right - 1])), abs(power) * unsure_s, power)


def late_sd(nodes: Nodes, domain: Domain) -> float:
    """Standard deviation of the time by which all nodes are late together, in s."""
    phase_s = float(np.median(nodes.lag_s)) if nodes.regular else 0.0
    return math.hypot(phase_s / math.sqrt(12.0), domain.clock_s / math.sqrt(3.0))


def _joined(
    sides: Sequence[_Side], apart_s: float, late_s: float, domain: Domain, inside: Literal["before", "after"] | None
) -> Edge:
    """What the sides before and after an edge tell of it together."""
    powers = np.array([side.power_w for side in sides])
    own = np.array([side.own_variance for side in sides])
    # Of a step at the edge a sensor that looks now and then sees all or nothing: the window has that update inside.
    step = domain.blind_share * float(powers[0] - powers[1]) ** 2 * apart_s**2 / 12.0
    own += step * np.array({"before": (0.0, 1.0), "after": (1.0, 0.0), None: (0.5, 0.5)}[inside])
    variances = np.maximum(own + np.square(powers * late_s), 1e-18)
    weights = 1.0 / variances / float(np.sum(1.0 / variances))
    joules = np.array([side.joules for side in sides])
    clash = float(joules[0] - joules[1]) ** 2 / float(variances.sum())
    own_sd = _CAUTION * math.sqrt(float(weights**2 @ own) * max(1.0, clash / _CLASH))
    return Edge(float(weights @ joules), own_sd, float(weights @ powers))


def _side(nodes: Nodes, near: int, towards: Literal[-1, 1], time_s: float, domain: Domain) -> _Side | None:
    """The edge as the nodes from ``near`` away from it tell; None where there is but one."""
    t, e = nodes.times_s, nodes.joules
    last = int(np.clip(near + towards * FLUCTUATION_UPDATES, 0, t.size - 1))
    if last == near:
        return None
    wide = SLOPE_UPDATES + round(2.0 * _smear_s(domain) / (domain.period_s or math.inf))
    far = int(np.clip(near + towards * wide, 0, t.size - 1))
    power = float((e[near] - e[far]) / (t[near] - t[far]))
    away_s = abs(time_s - float(t[near]))
    low, high = min(near, last), max(near, last)
    lengths = np.diff(t[low : high + 1])
    means = np.diff(e[low : high + 1]) / lengths
    density = _density(means, lengths, nodes, low, high, domain)
    over_s = abs(float(t[near] - t[far]))
    trend = abs(means[0] - means[-1]) / means.size * wide / 2.0 if means.size > 1 else 0.0
    variance = density * away_s * (1.0 + away_s / over_s) + (trend * away_s) ** 2 / 3.0
    if _smear_s(domain) > 0.0:
        watts = nodes.power_w[low + 1 : high + 1]
        noise = float(np.mean(np.diff(watts, 2) ** 2)) / 6.0 if watts.size > 2 else 0.0
        variance += away_s**2 * max(float(watts.var()) - noise, noise / watts.size)
    unsure_s = float(nodes.lag_s[near]) / math.sqrt(12.0)
    if nodes.regular:
        unsure_s = math.hypot(
            _ALONE["power" if domain.beats else domain.kind] * unsure_s, _UNEVEN * (domain.period_s or 0.0)
        )
    unsure_s = math.hypot(unsure_s, _DRIFT * domain.clock_s / math.sqrt(3.0), _STAMP_S * domain.stamped)
    variance += (power * unsure_s) ** 2
    return _Side(float(e[near]) + power * (time_s - float(t[near])), power, variance)


def _density(means: Floats, lengths: Floats, nodes: Nodes, low: int, high: int, domain: Domain) -> float:
    """Variance of the energy of a stretch per second of it, in J²/s, from successive differences of mean powers.

    Between two updates a load in step with them hides what their means don't show; a machine at rest doesn't.
    """
    hidden_w = _HIDDEN * float(np.abs(means).mean())
    if domain.beats or hidden_w < _HIDDEN * _RESTING * float(np.quantile(nodes.power_w, 0.9)):
        hidden_w = 0.0  # requests that could keep step with it get random pauses
    hidden = hidden_w**2 * float(lengths.mean())
    # Readings averaged over several updates differ by what came in and what went out.
    smoothing = max((domain.averaging_s or 0.0) / (domain.period_s or math.inf), 1.0) if domain.kind == "power" else 1.0
    if means.size < 2:
        return float(means[0]) ** 2 * float(lengths[0]) / 3.0
    found = float(np.mean(np.diff(means) ** 2 / (1.0 / lengths[1:] + 1.0 / lengths[:-1]))) * smoothing**2
    if smoothing > 1.0 and means.size > 3:
        # The noise of readings, made larger by as much, says nothing of the power.
        found = max(found - smoothing**2 * float(np.mean(np.diff(means, 2) ** 2) / 6.0 * lengths.mean()), 0.0)
    found *= student_95(max(means.size - 1.0, 2.0)) / Z95
    if not nodes.regular:
        # Nodes of unsure time make means differ too.
        unsure = float(np.mean(nodes.lag_s[low : high + 1] ** 2)) / 12.0
        found = max(found - 4.0 * float(np.mean(means**2)) * unsure / float(lengths.mean()), found / 20.0)
    return found + hidden


def _smear_s(domain: Domain) -> float:
    """How far into the other side a power reading reaches that averages over more than an update."""
    if domain.kind == "counter":
        return 0.0
    return max((domain.averaging_s or 0.0) - (domain.period_s or 0.0), 0.0) / 2.0
