"""Readings of a sensor with a known response to a load of irregular steps that ramps, drifts and fluctuates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from harness.energy.readings import Domain, Trace
from harness.energy.step_model import LoadSteps

ORIGIN_NS = 10**12
_CELL_S = 0.0005
_STEP_W, _IDLE_W = 150.0, 60.0


@dataclass(frozen=True)
class SteppedSensor:
    """A sensor and what disturbs its readings; shares are of the step."""

    counter: bool = False
    period_s: float = 0.1
    lag_s: float = 0.02
    averaging_s: float = 0.1
    """Of a counter the part of each period in which it looks."""
    filter_s: float = 0.0
    noise: float = 0.01
    resolution: float = 0.01
    poll_s: float = 0.002
    jitter: float = 0.0
    """Standard deviation of the time between updates, as a share of the period."""
    ramp: float = 0.0
    """Share of the step that comes late after a rise."""
    hangs: float = 0.0
    """Share of the step that stays on after a fall."""
    own_s: float = 0.1
    """Time constant of both."""
    drift: float = 0.0
    step_w: float = _STEP_W

    @property
    def delay_s(self) -> float:
        return self.lag_s + self.averaging_s / 2.0 + self.filter_s

    def domain(self) -> Domain:
        kind, method = ("counter", "counter") if self.counter else ("power", "integrated")
        return Domain("it", "gpu", kind, method, "nvml", self.resolution, 0.1, source="gpu:GPU-1")  # type: ignore[arg-type]

    def observe(self, rng: np.random.Generator) -> tuple[Trace, LoadSteps]:
        """Readings from half a second before the first step to a second after the last, and the steps."""
        edges = _edges(rng)
        end_s = float(edges[-1]) + 1.0
        times = np.arange(-3.0, end_s, _CELL_S)
        joules = np.concatenate(([0.0], np.cumsum(self._power(times, edges, rng)) * _CELL_S))
        marks = np.append(times, times[-1] + _CELL_S)
        updates = -1.5 + rng.uniform(0.0, self.period_s) + np.cumsum(self._gaps(end_s, rng))
        shown = self._shown(updates, marks, joules, rng)
        polls = np.arange(0.0, end_s, self.poll_s)
        polls = np.sort(polls + np.abs(rng.normal(0.0, 0.2 * self.poll_s, polls.size)))
        seen = shown[np.searchsorted(updates, polls, side="right") - 1]
        steps = LoadSteps(nanoseconds(np.concatenate(([-1.0], edges))), np.arange(edges.size + 1) % 2 * 1.0)
        return Trace(self.domain(), nanoseconds(polls), seen), steps

    def _gaps(self, end_s: float, rng: np.random.Generator) -> np.ndarray:
        count = int((end_s + 2.0) / self.period_s) + 4
        return self.period_s * np.maximum(rng.normal(1.0, self.jitter, count), 0.2)

    def _power(self, times: np.ndarray, edges: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What the sensor would show if it updated all the time, before its averaging."""
        passed = np.searchsorted(edges, times + 1e-9)
        level = (passed % 2).astype(float)
        since = np.where(passed > 0, times - edges[np.maximum(passed - 1, 0)], 99.0)
        own = np.exp(-since / self.own_s)
        load = level * (1.0 - self.ramp * own) + (1.0 - level) * self.hangs * own
        blocks = np.repeat(rng.normal(size=times.size // 20 + 1), 20)[: times.size]
        power = load + self.drift * np.maximum(times, 0.0) / 7.0 + self.noise * (0.3 + level) * blocks
        if self.filter_s > 0.0:
            keep = math.exp(-_CELL_S / self.filter_s)
            power = lfilter([(1.0 - keep) / 2.0] * 2, [1.0, -keep], power)
        return np.asarray(_IDLE_W + self.step_w * power)

    def _shown(
        self, updates: np.ndarray, marks: np.ndarray, joules: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        ends = np.interp(updates - self.lag_s, marks, joules)
        if self.counter and self.averaging_s >= self.period_s:
            return np.floor(ends / self.resolution) * self.resolution
        window = max(self.averaging_s, _CELL_S)
        power = (ends - np.interp(updates - self.lag_s - window, marks, joules)) / window
        if self.counter:
            total = np.cumsum(power * np.diff(updates, prepend=updates[0] - self.period_s))
            return np.floor(total / self.resolution) * self.resolution
        power += 0.3 * self.noise * self.step_w * rng.normal(size=power.size)
        return np.round(power / self.resolution) * self.resolution


def random_sensor(rng: np.random.Generator) -> SteppedSensor:
    """Any of the kinds that are known, with what disturbs real ones."""
    counter = bool(rng.random() < 0.4)
    period_s = float(rng.choice([0.05, 0.1, 0.1, 0.2]))
    averaging_s = float(rng.choice([0.25, 0.5, 1.0, 1.0]) * period_s)
    if not counter and rng.random() < 0.3:
        averaging_s = 1.0
    filtered = averaging_s < 1.0 and rng.random() < 0.4
    return SteppedSensor(
        counter=counter,
        period_s=period_s,
        lag_s=float(rng.uniform(0.0, 0.15)),
        averaging_s=averaging_s,
        filter_s=float(np.exp(rng.uniform(*np.log((0.02, 0.4))))) if filtered else 0.0,
        noise=float(np.exp(rng.uniform(*np.log((0.003, 0.04))))),
        resolution=0.001 if counter else float(rng.choice([0.001, 0.01, 1.0])),
        poll_s=float(rng.choice([0.001, 0.002, 0.005])),
        jitter=float(rng.choice([0.0, 0.01, 0.03])),
        ramp=float(rng.choice([0.0, rng.uniform(0.0, 0.3)])),
        hangs=float(rng.choice([0.0, rng.uniform(0.0, 0.15)])),
        own_s=float(np.exp(rng.uniform(*np.log((0.03, 0.5))))),
        drift=float(rng.uniform(-0.1, 0.1)),
    )


def nanoseconds(times_s: np.ndarray) -> np.ndarray:
    return ORIGIN_NS + np.round(times_s * 1e9).astype(np.int64)


def _edges(rng: np.random.Generator) -> np.ndarray:
    """Of busy and idle halves, from 0.5 s on, an even number of them."""
    halves = np.exp(rng.uniform(*np.log((0.12, 0.9)), 60))
    edges = 0.5 + np.concatenate(([0.0], np.cumsum(halves)))
    edges = edges[edges < 5.8]
    return edges[: edges.size // 2 * 2]
