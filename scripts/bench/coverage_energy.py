"""Rows of the coverage table: the energy of windows, by kind of sensor and of load.

The oracle knows the sensor's model, its parameters and its noise, and the kind of load, but neither the phase of the
sampling nor the load's levels. It knows how far the best of three estimators errs in windows of a length, over all of
these, and states just that: 1.96 × the root mean square error there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from coverage_row import Row, row
from sensor_models import KINDS, LOADS, RATE_HZ, LoadKind, Scene, readings, scene
from synthetic import ORIGIN_NS, Floats, Sensor

from harness.energy.integrate import margin_s, window_energy
from harness.energy.readings import Trace

LENGTHS_S = (0.5, 10.0)
_UPDATES = 2.5
"""A window has two updates of a slow sensor inside."""
_BINS = 6
"""Lengths of windows are told apart by so many bins of equal counts."""


def rows(draws: int, seed: int) -> Iterator[Row]:
    """Every row of this kind."""
    for sensor in KINDS:
        for load in LOADS:
            yield _row(sensor, load, draws, seed)


def _row(sensor: Sensor, load: LoadKind, draws: int, seed: int) -> Row:
    rng = np.random.default_rng([seed, *sensor.name.encode(), *load.encode()])
    margin = margin_s(sensor.domain(), 1.0 / RATE_HZ) + 0.3
    errors, widths, lengths = np.full(draws, np.nan), np.full(draws, np.nan), np.empty(draws)
    squares = np.empty((draws, 3))
    for at in range(draws):
        seen = scene(load, sensor, rng, _length_s(sensor, rng))
        trace = readings(sensor, seen, rng, margin)
        found = window_energy(trace, *seen.edges_ns)
        if found.joules is not None and found.ci95_j is not None:
            errors[at], widths[at] = found.joules / seen.true_j - 1.0, found.ci95_j / seen.true_j
        others = np.array([_from_inside(trace, seen), _from_rest(trace, seen)]) / seen.true_j - 1.0
        squares[at], lengths[at] = np.square([errors[at], *others]), seen.end_s
    return row(f"window energy, {sensor.name}, {load}", errors, widths, _oracle(squares, lengths))


def _oracle(squares: Floats, lengths: Floats) -> Floats:
    """Half-widths of an oracle by bin of length, from squared relative errors, shape (draws, estimators)."""
    bins = np.array_split(np.argsort(lengths), min(_BINS, lengths.size))
    means = [
        [float(np.mean(kept)) for column in squares[each].T if (kept := column[~np.isnan(column)]).size]
        for each in bins
    ]
    return 1.96 * np.sqrt([min(each) for each in means])


def _length_s(sensor: Sensor, rng: np.random.Generator) -> float:
    shortest = max(LENGTHS_S[0], _UPDATES * sensor.period_s)
    return float(np.exp(rng.uniform(np.log(shortest), np.log(max(LENGTHS_S[1], 2.0 * shortest)))))


def _from_inside(trace: Trace, seen: Scene) -> float:
    """Mean power of the readings inside the window × its length."""
    times_s, values = (trace.times_ns - ORIGIN_NS) / 1e9, trace.values
    inside = (times_s > (trace.domain.averaging_s or 0.0)) & (times_s < seen.end_s)
    if inside.sum() < 2:
        return np.nan
    if trace.domain.kind == "power":
        return float(values[inside].mean()) * seen.end_s
    moved = np.flatnonzero(np.diff(values[inside], prepend=np.nan) != 0.0)[1:]
    if moved.size < 2:
        return np.nan
    first, last = moved[0], moved[-1]
    power = (values[inside][last] - values[inside][first]) / (times_s[inside][last] - times_s[inside][first])
    return float(power) * seen.end_s


def _from_rest(trace: Trace, seen: Scene) -> float:
    """All that was read, less the rest at its mean power, which the oracle knows."""
    times_s = (trace.times_ns - ORIGIN_NS) / 1e9
    around = seen.idle_w * float(times_s[-1] - times_s[0] - seen.end_s)
    if trace.domain.kind == "counter":
        return float(trace.values[-1] - trace.values[0]) - around
    return float(np.trapezoid(trace.values, times_s)) - around
