"""The kinds of sensors and of loads that stated intervals are checked with, and windows as they are measured.

Figures of the sensors are those of "Part-time Power Measurements" (SC24, arXiv 2312.02741) for NVIDIA boards, and of
the drivers' documentation for the rest. The first-order filter is that of Burtscher et al., "Measuring GPU Power with
the K20 Built-in Sensor" (GPGPU-7, 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from synthetic import ORIGIN_NS, Load, Sensor

from harness.energy.readings import Trace

LoadKind = Literal["steady", "square", "ramp", "resonance"]
LOADS: tuple[LoadKind, ...] = ("steady", "square", "ramp", "resonance")
RATE_HZ = 20.0
"""How often the sampler polls."""
REST_S = 3.0
"""How long the machine rests before and after a window at least."""
_STEP_S = 0.01
"""Power keeps its level for so long …"""
_FLUCTUATION = 0.02
"""… and then differs by this much (standard deviation, relative)."""

KINDS: tuple[Sensor, ...] = (
    Sensor("counter 20 ms", True, 0.020),
    Sensor("counter 100 ms", True, 0.100, jitter=0.01),
    Sensor("fractional counter", True, 0.100, seen_s=0.025),
    Sensor("instant power", False, 0.100, averaging_s=0.025, noise=0.005, resolution=0.01, method="integrated"),
    Sensor("1 s average", False, 0.100, averaging_s=1.0, noise=0.005, resolution=0.01, method="integrated"),
    Sensor("filtered power", False, 0.100, filter_s=0.3, noise=0.005, resolution=0.01, method="integrated"),
    Sensor("RAPL, clock offset", True, 0.001, resolution=61e-6, wrap_j=262143.0, clock_s=0.01, component="cpu"),
    Sensor("batch and echo", True, 2.1, jitter=0.01, echo_s=(0.009, 0.029), method="modelled"),
)
"""One of every kind."""


@dataclass(frozen=True)
class Scene:
    """Requests from 0 to ``end_s`` that were measured as one window, with rest on both sides."""

    load: Load
    end_s: float
    idle_w: float
    """Power at rest, about which it fluctuates."""

    @property
    def true_j(self) -> float:
        return float(self.load.energy_j(0.0, self.end_s))

    @property
    def edges_ns(self) -> tuple[int, int]:
        """CLOCK_MONOTONIC times of the window."""
        return ORIGIN_NS, ORIGIN_NS + round(self.end_s * 1e9)


def scene(kind: LoadKind, sensor: Sensor, rng: np.random.Generator, window_s: float) -> Scene:
    """A random window of about that length: levels, rest, lengths and phases are drawn.

    A load in step with a sensor from which it can hide gets random pauses between its requests, as ``measure`` makes.
    """
    rest_s = REST_S + 5.5 * max(sensor.period_s, sensor.averaging_s or 0.0)
    high_w = rng.uniform(150.0, 400.0)
    idle_w = high_w * rng.uniform(0.1, 0.35)
    if kind == "steady":
        lengths, levels = np.array([window_s]), np.array([high_w])
    elif kind == "ramp":
        lengths = np.full(max(round(window_s / _STEP_S), 1), _STEP_S)
        levels = np.linspace(high_w, high_w * rng.uniform(0.4, 0.9), lengths.size)[:: rng.choice([-1, 1])]
    else:
        lengths, levels = _requests(kind, sensor, rng, window_s, high_w, idle_w)
    end_s = float(lengths.sum())
    return Scene(_fluctuating(lengths, levels, idle_w, rest_s, rng), end_s, idle_w)


def _requests(
    kind: LoadKind, sensor: Sensor, rng: np.random.Generator, window_s: float, high_w: float, idle_w: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and levels of requests with two phases each; in step with the sensor for ``resonance``."""
    low_w, share = high_w * rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.8)
    if kind == "resonance":
        # Exactly in step, nearly, or a whole number of updates long.
        length_s = sensor.period_s * rng.choice([1.0, 1.0, 2.0]) * rng.choice([1.0, rng.uniform(0.97, 1.03)])
        length_s *= max(1.0, round(0.02 / length_s))
    else:
        length_s = 10 ** rng.uniform(-1.0, 0.3)
    count = max(2, round(window_s / length_s))
    pauses_s = rng.uniform(0.0, sensor.period_s, count) * (kind == "resonance" and sensor.domain().beats)
    pauses_s[-1] = 0.0
    lengths = np.stack([np.full(count, share * length_s), np.full(count, (1 - share) * length_s), pauses_s], axis=1)
    levels = np.tile([high_w, low_w, idle_w], count)
    kept = lengths.ravel() > 0.0
    return lengths.ravel()[kept], levels[kept]


def _fluctuating(
    lengths: np.ndarray, levels: np.ndarray, idle_w: float, rest_s: float, rng: np.random.Generator
) -> Load:
    """The levels with rest around them, cut into short pieces that each differ a little."""
    rests_s = rest_s + rng.uniform(0.0, 1.0, 2)
    all_lengths = np.concatenate((rests_s[:1], lengths, rests_s[1:]))
    pieces = np.maximum(1, np.round(all_lengths / _STEP_S)).astype(int)
    power_w = np.repeat(np.concatenate(([idle_w], levels, [idle_w])), pieces)
    edges = np.concatenate(([0.0], np.cumsum(np.repeat(all_lengths / pieces, pieces)))) - rests_s[0]
    return Load(edges, power_w * rng.normal(1.0, _FLUCTUATION, power_w.size))


def readings(sensor: Sensor, scene: Scene, rng: np.random.Generator, margin_s: float) -> Trace:
    """What the sampler reads of a window, from so long before to so long after it."""
    return sensor.observe(scene.load, -margin_s, scene.end_s + margin_s, rng, RATE_HZ)
