"""Whether requests beat with a power sensor, so that random pauses between them must break them up. Pure.

A sensor that looks at a part of the time only, at equal intervals, sees the same part of every request where requests
are as long as some of its intervals. Power over a request is taken to be two levels, a third above and below its mean
at most, so that its h-th harmonic is 1/(πh) of the mean. What the looks make of that harmonic does not average out if
the looks' phases in the requests agree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from harness.energy.readings import Domain

MOST_PERIODS = 100.0
"""Of requests longer than this many of a sensor's periods a pause would change nothing worth its time."""
_HARMONICS = np.arange(1, 101)
_BLIND = 0.1
"""Share of the time from which on a sensor counts as one that doesn't see all of it."""


def longest_pause_s(
    request_s: Sequence[float], sensors: Sequence[Domain], precision: float, window_s: float, phases: bool
) -> float:
    """Up to how long the random pauses between requests should be; 0.0 where none are needed.

    ``request_s`` are the lengths of earlier requests of the point, ``precision`` is the relative half-width wanted of a
    window's energy, ``window_s`` about how long windows are, and ``phases`` says whether requests have two.
    """
    mean_s = statistics.fmean(request_s)
    spread_s = statistics.stdev(request_s) if len(request_s) > 1 else 0.0
    periods = [
        sensor.period_s
        for sensor in sensors
        if sensor.period_s
        and mean_s < MOST_PERIODS * sensor.period_s
        and _beats(sensor, sensor.period_s, mean_s, spread_s, precision, max(window_s, 2 * mean_s), phases)
    ]
    # A pause as long as a request already shifts a look to any part of one.
    return min(max(periods, default=0.0), mean_s)


def _beats(
    sensor: Domain, period_s: float, request_s: float, spread_s: float, precision: float, window_s: float, phases: bool
) -> bool:
    looks = max(window_s / period_s, 1.0)
    agreement = _agreement(period_s / request_s, looks, window_s / request_s, spread_s / request_s)
    in_step = agreement > 2.0 / math.sqrt(looks)
    if sensor.blind_share <= _BLIND:
        # All energy is seen, but where each update holds whole requests nothing tells their phases apart.
        return phases and bool(in_step[0]) and period_s > request_s / 2
    look_s = (1.0 - sensor.blind_share) * period_s
    error = agreement * np.abs(np.sinc(_HARMONICS * look_s / request_s)) / (math.pi * _HARMONICS)
    return bool(np.any(in_step & (error > precision / 2)))


def _agreement(updates: float, looks: float, requests: float, spread: float) -> np.ndarray:
    """By harmonic of a request, how far the phases of so many looks agree: 0 spread evenly, 1 all the same.

    ``updates`` is the sensor's period in requests, ``spread`` the relative standard deviation of a request's length.
    """
    turns = _HARMONICS * updates
    sines = np.sin(np.pi * turns)
    whole = np.abs(sines) < 1e-9
    regular = np.where(
        whole, 1.0, np.abs(np.sin(np.pi * looks * turns)) / (looks * np.where(whole, 1.0, np.abs(sines)))
    )
    # Each request shifts the phase of all later ones.
    lost = 0.5 * (2.0 * np.pi * _HARMONICS * spread) ** 2 * requests
    return np.minimum(regular, 1.0) * np.where(lost > 1e-9, -np.expm1(-lost) / np.maximum(lost, 1e-9), 1.0)
