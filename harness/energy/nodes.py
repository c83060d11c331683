"""Cumulative energy of a trace where its sensor tells it: at the updates of a counter, or of power readings. Pure.

A power reading is the mean over the update that it looks into, dated to where it looks; what was read through a
low-pass is undone. An update lies between two polls, and where updates keep an even pace each tells of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.energy.readings import Domain, Trace

NS = 1e9
BESIDE_PERIODS = 20.0
"""How near, in periods, a move of unsure time stands to one that was seen at once and says more."""
_PACE = 0.005
"""Part of a domain's period by which it may be wrong."""
_AROUND = 8
"""Updates on either side of one that tell its time by their pace."""


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
    shown, counts, lags = counter_updates(trace)
    # Of steady power a low-pass counts what there was by its time constant earlier.
    late_s = domain.lag_s + domain.filter_s
    if period == 0.0:
        return Nodes(origin, shown - late_s, counts, lags, _means(shown, counts))
    shown, lags, even = _regular(shown, lags, period)
    # What was seen in a part of the period stands for all of it, half before and half after that part.
    late_s -= (period - domain.seen_s) / 2.0 if domain.seen_s is not None else 0.0
    return Nodes(origin, shown - late_s, counts, lags, _means(shown, counts), even is not None)


def counter_updates(trace: Trace) -> tuple[Floats, Floats, Floats]:
    """A counter's updates: when polls show them, in s after the first reading, what was counted by then, in J, and the
    length of time around the former that each lies within. Raises Unknown when the counter was reset."""
    domain, period = trace.domain, trace.domain.age_s
    times = (trace.times_ns - trace.times_ns[0]) / NS
    joules = unwrap(trace)
    if period == 0.0:
        apart = np.append(np.diff(times) > 0.0, True)  # two readings of one time tell no power
        return times[apart], joules[apart], np.zeros(int(apart.sum()))
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
    if shown.size > 3 and lags[0] > 1.5 * float(np.median(lags)):
        shown, counts, lags = shown[1:], counts[1:], lags[1:]  # nobody saw when the first count came
    return shown, counts, lags


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
    # The first reading shows an update of any time before it.
    middle, at = float(number[1:].mean()), float(shown_s[1:].mean())
    found_s = float(np.polyfit(number[1:], shown_s[1:], 1)[0])
    # Few updates in wide brackets tell their pace less well than the domain knows it.
    unsure_s = float(np.median(lags_s)) / number[1:].size ** 1.5
    pace = found_s + unsure_s**2 / (unsure_s**2 + (_PACE * period_s) ** 2) * (period_s - found_s)
    even = at + pace * (number - middle)
    brackets = np.stack((shown_s - even - lags_s / 2.0, shown_s - even + lags_s / 2.0))
    off = np.pad(brackets, ((0, 0), (_AROUND, _AROUND)), "edge")
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
