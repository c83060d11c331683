"""How well phases' energies can be told by someone who knows all of a sensor and of the noise but when it samples.

Readings are linear in the power of a load's pieces. The phases' mean powers are unknown, everything else is known: how
power runs within a phase, how much it fluctuates, and the sensor's noise. Of its updates only the period and the jitter
are known, not when they come. The best linear unbiased prediction has then an exact variance, which needs no readings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sensor_models import RATE_HZ

from harness.core.statistics import Z95

if TYPE_CHECKING:
    from request_trains import Train
    from synthetic import Sensor


def half_widths(sensor: Sensor, requests: Train, rng: np.random.Generator) -> np.ndarray:
    """Half-widths of the 95 % intervals of all prefills' and of all decodes' energy, in J."""
    updates = _updates(sensor, float(requests.ends_s[-1]), rng)
    weights = _weights(sensor, updates, requests.load.times_s)
    power_w = requests.load.power_w
    same_phase = np.eye(5)[requests.phase]
    design = weights @ (
        same_phase * power_w[:, None] / (same_phase.T @ power_w / same_phase.sum(axis=0))[requests.phase, None]
    )
    by_request = np.zeros((power_w.size, 2 * int(requests.request.max()) + 2))
    inside = np.flatnonzero(requests.phase < 2)
    by_request[inside, 2 * requests.request[inside] + requests.phase[inside]] = requests.request_w[inside]
    own = weights * requests.fluctuation_w
    shared = weights @ by_request
    noise = own @ own.T + shared @ shared.T + _sensor_noise(sensor, requests, updates, weights)
    lengths = np.diff(requests.load.times_s)
    wanted = (same_phase * lengths[:, None])[:, :2]
    with_readings = own @ (wanted * requests.fluctuation_w[:, None]) + shared @ (by_request.T @ wanted)
    alone = np.sum((wanted * requests.fluctuation_w[:, None]) ** 2, axis=0) + np.sum(
        (by_request.T @ wanted) ** 2, axis=0
    )
    noise[np.diag_indices_from(noise)] *= 1.0 + 1e-9
    solved = np.linalg.solve(noise, np.column_stack((design, with_readings)))
    told, explained = design.T @ solved[:, :5], solved[:, 5:]
    phase_w = (same_phase.T @ power_w / same_phase.sum(axis=0))[:2]
    level = np.zeros((5, 2))
    level[[0, 1], [0, 1]] = np.sum(wanted * power_w[:, None], axis=0) / phase_w
    untold = level - design.T @ explained
    told += 1e-12 * np.trace(told) * np.eye(5)  # a phase that no reading sees
    variance = (
        alone - np.sum(with_readings * explained, axis=0) + np.sum(untold * np.linalg.solve(told, untold), axis=0)
    )
    return np.asarray(Z95 * np.sqrt(np.maximum(variance, 0.0)))


def _updates(sensor: Sensor, end_s: float, rng: np.random.Generator) -> np.ndarray:
    """When the updates come that a sampler sees."""
    reach_s = 4.0 * sensor.period_s + 0.3 + (sensor.averaging_s or 0.0) + 5.0 * sensor.filter_s
    steps = np.arange(-reach_s + rng.uniform(0.0, sensor.period_s), end_s + reach_s, sensor.period_s)
    polls = np.arange(-reach_s, end_s + reach_s, 1.0 / RATE_HZ)
    shown = np.unique(np.searchsorted(steps, polls, side="right") - 1)
    return steps[shown[shown >= 0]]


def _weights(sensor: Sensor, updates: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How much of each piece's power is in each reading: seconds of a counter's steps, shares of power readings."""
    if not sensor.counter:
        if sensor.filter_s:
            past = np.exp(np.minimum(edges[None, :] - updates[:, None], 0.0) / sensor.filter_s)
            return np.diff(past, axis=1)
        averaging_s = sensor.averaging_s or 1e-3
        return _between(updates - averaging_s, updates, edges) / averaging_s
    if sensor.seen_s is None:
        return _between(updates[:-1], updates[1:], edges)
    counts = np.round(np.diff(updates) / sensor.period_s).astype(int)
    seen = np.zeros((counts.size, edges.size - 1))
    for back in range(int(counts.max())):
        at = updates[1:] - back * sensor.period_s
        seen += (counts > back)[:, None] * _between(at - sensor.seen_s, at, edges)
    return seen * (sensor.period_s / sensor.seen_s)


def _between(starts: np.ndarray, ends: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Seconds of each piece between two times. Shape (times, pieces)."""
    return np.diff(np.clip(edges[None, :], starts[:, None], ends[:, None]), axis=1)


def _sensor_noise(sensor: Sensor, requests: Train, updates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Covariance of readings by rounding, by the sensor's noise, and by when it updates."""
    edges, power_w = requests.load.times_s, requests.load.power_w
    step_s = sensor.period_s / 4.0
    change = (
        (_weights(sensor, updates + step_s, edges) - _weights(sensor, updates - step_s, edges)) @ power_w / (2 * step_s)
    )
    noise = np.outer(change, change) * sensor.period_s**2 / 12.0
    if not sensor.counter:
        return noise + np.diag((sensor.noise * (weights @ power_w)) ** 2 + sensor.resolution**2 / 12.0)
    at_w = power_w[np.clip(np.searchsorted(edges, updates, side="right") - 1, 0, power_w.size - 1)]
    drift = np.tril(np.ones((updates.size, updates.size)))[:, 1:] * sensor.jitter * sensor.period_s
    drift *= np.sqrt(np.maximum(np.diff(updates) / sensor.period_s, 1.0))
    late = np.diff(at_w[:, None] * drift, axis=0)
    rounding = np.diff(np.eye(updates.size), axis=0) * sensor.resolution / np.sqrt(12.0)
    return noise + late @ late.T + rounding @ rounding.T
