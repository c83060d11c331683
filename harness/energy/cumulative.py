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
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.statistics import student_95
from harness.energy.readings import Domain, Trace

NS = 1e9
Z95 = 1.959964
SLOPE_UPDATES = 3
"""Updates on either side of an edge whose mean power is carried up to the edge."""
FLUCTUATION_UPDATES = 12
"""Updates on either side that tell how much power fluctuates there."""
_CLASH = 2.0
"""Squared difference of two sides, in its variances, from which on both are less sure than they say."""
_HIDDEN = 0.1
"""Part of the power that may swing within an update, unseen (standard deviation)."""
_STAMP_S = 0.001
"""How late a reading that comes with its update is stamped, give or take."""
_AROUND = 8
"""Updates on either side of one that tell its time by their pace."""
_UNEVEN = 0.03
"""Part of a pace by which single updates miss it."""
_STEP = 1.0 / math.sqrt(720.0)
"""Standard deviation of x·(1 − x)/2 for x anywhere in [0, 1]."""
_RESTING = 0.6
"""A machine that draws less than this part of what it draws most is at rest."""
_ALONE = {True: 0.5, False: 1.0}
"""Part of the time by which all updates may be late that one may be by itself, as an uneven pace hides in it; by whether
both edges are told by the load's power, so that only what the pace changes between them counts."""
_DRIFT = 0.1
"""Part of a clock's error that differs between two edges."""
_QUARTILE = 0.3186 * math.sqrt(6.0)
"""Lower quartile of second differences of noise of standard deviation 1."""
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
    power_w: Floats
    """What was read of the time up to each node: a power reading, or the mean between two counts."""
    regular: bool = False
    """Whether the nodes come at an even pace, so that their times are off alike."""


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
    return _counter_nodes(trace) if trace.domain.kind == "counter" else _power_nodes(trace)


def _counter_nodes(trace: Trace) -> Nodes:
    domain, period = trace.domain, trace.domain.age_s
    origin = int(trace.times_ns[0])
    times = (trace.times_ns - origin) / NS
    joules = unwrap(trace)
    if period == 0.0:
        apart = np.append(np.diff(times) > 0.0, True)  # two readings of one time tell no power
        times, joules = times[apart], joules[apart]
        return Nodes(origin, times - domain.lag_s, joules, np.zeros(times.size), _means(times, joules))
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
    shown, lags, even = _regular(shown, lags, period)
    # What was seen in a part of the period stands for all of it, half before and half after that part.
    late_s = (period - domain.seen_s) / 2.0 if domain.seen_s is not None else 0.0
    return Nodes(origin, shown + late_s - domain.lag_s, counts, lags, _means(shown, counts), even is not None)


def _power_nodes(trace: Trace) -> Nodes:
    domain = trace.domain
    origin = int(trace.times_ns[0])
    shown, watts, lags, stayed = _updates((trace.times_ns - origin) / NS, trace.values, domain)
    shown, lags, even = _regular(shown, lags, domain.age_s)
    each, since_s = _repeats(shown if even is None else even, stayed, domain.age_s)
    shown, watts, lags = shown[each] + since_s, watts[each], lags[each]
    even = None if even is None else even[each] + since_s
    lengths = _lengths(shown if even is None else even)
    centres = shown - (domain.averaging_s or 0.0) / 2.0 - domain.lag_s
    if domain.filter_s > 0.0 or centres.size < 2:
        # A first-order low-pass y of P obeys P = y + τ·dy/dt, so that ∫P = ∫y + τ·Δy exactly. Between two readings
        # y is no straight line: power that stays the same bends it.
        steps = np.diff(centres if even is None else even) * (watts[1:] + watts[:-1]) / 2.0
        joules = np.concatenate(([0.0], np.cumsum(steps))) + _memory_s(centres, domain.filter_s) * watts
        return Nodes(origin, centres, joules, lags, watts, even is not None)
    halves = np.diff(centres) / 2.0
    bounds = np.concatenate((centres - np.append(halves[0], halves), [centres[-1] + halves[-1]]))
    joules = np.concatenate(([0.0], np.cumsum(watts * lengths)))
    return Nodes(origin, bounds, joules, np.append(lags, lags[-1]), np.append(watts[0], watts), even is not None)


def _lengths(times_s: Floats) -> Floats:
    """How long each reading stands for: half-way to those before and after it."""
    halves = np.diff(times_s) / 2.0
    return np.append(halves[:1], halves) + np.append(halves, halves[-1:]) if halves.size else np.zeros(times_s.size)


def _memory_s(times_s: Floats, filter_s: float) -> float:
    """What a reading of a low-pass adds to the trapezoids up to it, in s of its power: about the time constant."""
    if times_s.size < 2 or filter_s == 0.0:
        return filter_s
    step_s = float(np.median(np.diff(times_s)))
    return step_s / -math.expm1(-step_s / filter_s) - step_s / 2.0


def _means(times_s: Floats, joules: Floats) -> Floats:
    """Mean power up to each node, in W."""
    if times_s.size < 2:
        return np.zeros(times_s.size)
    power = np.diff(joules) / np.diff(times_s)
    return np.append(power[0], power)


def _updates(times_s: Floats, watts: Floats, domain: Domain) -> tuple[Floats, Floats, Floats, Floats]:
    """Of polled power readings each new value once: its time, its value, the length of time that its update lies
    within, and for how long it was seen to stay."""
    period = domain.age_s
    if period == 0.0 or times_s.size < 2:
        apart = np.append(np.diff(times_s) > 0.0, True)
        return times_s[apart], watts[apart], np.zeros(int(apart.sum())), np.zeros(int(apart.sum()))
    lags = np.minimum(np.diff(times_s, prepend=times_s[0] - period), period)
    if float(np.median(np.diff(times_s))) > 0.75 * period:
        return times_s - lags / 2.0, watts, lags, np.zeros(times_s.size)
    first = np.flatnonzero(np.concatenate(([True], np.diff(watts) != 0.0)))
    stayed = times_s[np.append(first[1:], times_s.size) - 1] - times_s[first]
    return times_s[first] - lags[first] / 2.0, watts[first], lags[first], stayed


def _repeats(times_s: Floats, stayed_s: Floats, period_s: float) -> tuple[NDArray[np.intp], Floats]:
    """Updates to the same value, which no poll can tell: each update's place as often as there are, and how much later.

    A value that stays for longer than a period was updated to the same.
    """
    each, since_s = np.arange(times_s.size), np.zeros(times_s.size)
    if period_s == 0.0 or not np.any(stayed_s > 1.3 * period_s):
        return each, since_s
    gaps = np.append(np.diff(times_s), stayed_s[-1])
    most = np.maximum(np.floor(stayed_s / period_s - 0.3), 0.0)
    more = np.minimum(np.maximum(np.round(gaps / period_s) - 1.0, 0.0), most).astype(int)
    each = np.repeat(each, more + 1)
    nth = np.arange(each.size) - np.repeat(np.cumsum(more + 1) - (more + 1), more + 1)
    return each, nth * np.minimum(gaps / (more + 1), 1.2 * period_s)[each]


def _regular(shown_s: Floats, lags_s: Floats, period_s: float) -> tuple[Floats, Floats, Floats | None]:
    """Times of updates that come at an even pace, and the brackets that they lie within; else as they were.

    Each update lies in its bracket; those of the updates around it, moved by whole paces, narrow it down. A pace that
    wanders is followed. Third come the times by one pace for all, None where there is none.
    """
    as_shown = shown_s, lags_s, None
    if shown_s.size < 6 or period_s == 0.0 or float(np.median(lags_s)) > 0.75 * period_s:
        return as_shown
    number = _numbers(shown_s, period_s)
    if number is None:
        return as_shown
    middle = float(number.mean())
    # The first reading shows an update of any time before it.
    pace, at = np.polyfit(number[1:] - middle, shown_s[1:], 1)
    even = at + pace * (number - middle)
    off = np.pad(
        np.stack((shown_s - even - lags_s / 2.0, shown_s - even + lags_s / 2.0)), ((0, 0), (_AROUND, _AROUND)), "edge"
    )
    around = np.lib.stride_tricks.sliding_window_view(off, 2 * _AROUND + 1, axis=1)
    early, late = around[0].max(axis=1), around[1].min(axis=1)
    if np.any(early - late > 0.5 * lags_s):
        return as_shown
    # Where brackets contradict each other, the pace isn't quite even.
    return even + (early + late) / 2.0, np.abs(late - early), even


def _numbers(shown_s: Floats, period_s: float) -> Floats | None:
    """Which update of an even pace each one is; None where there is no pace that makes them all different."""
    best, least_s = None, math.inf
    for phase in np.arange(8) / 8.0:
        number = np.round(shown_s[1:] / period_s - phase)
        off_s = float(np.std(shown_s[1:] - period_s * number))
        number = np.concatenate(([number[0] - max(np.round((shown_s[1] - shown_s[0]) / period_s), 1.0)], number))
        if off_s < least_s and np.all(np.diff(number) >= 1.0):
            best, least_s = number, off_s
    return best


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
        value = float(interpolate(nodes, np.array([time_s]))[0])
        right = int(np.clip(np.searchsorted(t, time_s), 1, t.size - 1))
        power = float(nodes.joules[right] - nodes.joules[right - 1]) / float(t[right] - t[right - 1])
        unsure_s = math.hypot(float(t[right] - t[right - 1]), float(nodes.lag_s[right])) / math.sqrt(12.0)
        return Edge(value, abs(power) * unsure_s, power)
    if len(known) == 1:
        (side,) = known
        return Edge(side.joules, math.sqrt(side.own_variance), side.power_w)
    return _joined(known, max(float(t[after[0]] - t[before[-1]]), 0.0), late_sd(nodes, domain), domain, inside)


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
    own_sd = math.sqrt(float(weights**2 @ own) * max(1.0, clash / _CLASH))
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
        variance += (away_s * float(nodes.power_w[low : high + 1].std())) ** 2
    unsure_s = float(nodes.lag_s[near]) / math.sqrt(12.0)
    if nodes.regular:
        unsure_s = math.hypot(_ALONE[domain.beats] * unsure_s, _UNEVEN * (domain.period_s or 0.0))
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
    found *= (student_95(max(means.size - 1.0, 2.0)) / Z95) ** 2
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


def sampling_sd(trace: Trace, start_ns: int, end_ns: int) -> float:
    """Standard deviation of a window's energy by what its sensor did not see, and by the noise of its readings, in J.

    A load that repeats exactly in step with a sensor that is blind for a part of the time isn't noticed.
    """
    domain = trace.domain
    blind = domain.blind_share
    if domain.kind == "counter" and blind == 0.0:
        return 0.0
    nodes = nodes_of(trace)
    start, end = (start_ns - nodes.origin_ns) / NS, (end_ns - nodes.origin_ns) / NS
    # Updates that lie wholly inside: one at an edge may have seen the other side of a step.
    within = (np.append(nodes.times_s[0], nodes.times_s[:-1]) >= start) & (nodes.times_s <= end)
    watts = nodes.power_w[within]
    if watts.size < 4:
        return 0.0 if watts.size < 2 else float(watts.std(ddof=1)) * (end - start) / math.sqrt(watts.size)
    spacing_s = (end - start) / watts.size
    bends = np.diff(watts, 2)
    spread = blind * _sampling_variance(watts)
    if domain.filter_s > 0.0:
        # Of a step between two readings the low-pass remembers when it came, in part: x·(T − x)/2τ, of any x.
        steps = np.diff(np.diff(nodes.joules) / np.diff(nodes.times_s))[within[2:]]
        spread += float(np.mean(steps**2)) * (_STEP * spacing_s / domain.filter_s) ** 2
    lengths = np.diff(nodes.times_s)[within[1:]]
    unseen = float(np.sum(np.maximum(lengths / np.median(lengths) - 1.2, 0.0)))
    spread += unseen / watts.size * float(np.mean(bends**2)) / 4.0  # updates that no poll saw
    if domain.kind == "power" and blind < 1.0:
        spread += _noise_w(bends, float(watts.mean()), nodes.power_w[~within]) ** 2
    return math.sqrt(spread * watts.size) * spacing_s


def _sampling_variance(watts: Floats) -> float:
    """Variance of single readings that makes their mean miss the power's, in W², widened for being an estimate.

    The smaller of two that each are too large: from second differences, which grow with every step; and from what the
    readings have of slow change, as aliases of quick change would be a part of it (the lowest discrete cosines, each of
    the variance for white noise).
    """
    from scipy.fft import dct

    def widened(squares: Floats, freedom: float) -> float:
        return float(np.mean(squares)) * (student_95(max(freedom, 2.0)) / Z95) ** 2

    bent = widened(np.diff(watts, 2) ** 2 / 6.0, (watts.size - 2) / 1.5)
    if watts.size < 8:
        return bent
    order = np.arange(watts.size)
    level = watts - np.polyval(np.polyfit(order, watts, 1), order)
    slow = dct(level, norm="ortho")[1 : 1 + min(max(watts.size // 4, 5), 12)] ** 2
    return min(bent, widened(slow, slow.size - 1.0))


def _noise_w(bends: Floats, mean_w: float, outside_w: Floats) -> float:
    """Standard deviation of single readings, in W, from their second differences where these are smallest.

    Or from the rest around the window, if that gives less: noise is taken to grow with power.
    """
    inside = float(np.quantile(np.abs(bends), 0.25)) / _QUARTILE
    if outside_w.size < 8 or outside_w.mean() <= 0.0:
        return inside
    rest = float(np.quantile(np.abs(np.diff(outside_w, 2)), 0.25)) / _QUARTILE
    return min(inside, rest * mean_w / float(outside_w.mean()))


def rounding_sd(domain: Domain, nodes: Nodes, seconds: float) -> float:
    """Standard deviation of an energy because readings are rounded, in J."""
    if domain.kind == "counter":
        return domain.resolution * math.sqrt(2.0 / 12.0)
    return domain.resolution * math.sqrt(seconds * float(np.median(np.diff(nodes.times_s))) / 12.0)
