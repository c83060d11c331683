"""Loads with a known integral, and the sensors that would watch them.

A load is power that is constant between breakpoints, so its energy is known exactly. A sensor turns a load into
the readings that a real one would give: it updates every ``period_s``, shows the mean over the last
``averaging_s`` or a cumulative count, rounds, jitters and drops polls. Sensor figures follow "Part-time Power
Measurements" (arXiv 2312.02741) for NVIDIA boards and the drivers' documentation for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.quantities import Component, Method
from harness.energy.readings import Domain, Trace

Floats = NDArray[np.float64]

_NS = 1e9
ORIGIN_NS = 1_000_000_000_000
"""CLOCK_MONOTONIC time at which a load's time is 0."""


@dataclass(frozen=True)
class Load:
    """Power of ``power_w[i]`` from ``times_s[i]`` to ``times_s[i + 1]``, constant before and after."""

    times_s: Floats
    """Shape (k + 1,), rising."""
    power_w: Floats
    """Shape (k,)."""

    def energy_j(self, start_s: Floats | float, end_s: Floats | float) -> Floats:
        """Exact energy between two times, element by element."""
        return self._cumulative(end_s) - self._cumulative(start_s)

    def _cumulative(self, time_s: Floats | float) -> Floats:
        steps = np.diff(self.times_s) * self.power_w
        inside = np.interp(time_s, self.times_s, np.concatenate(([0.0], np.cumsum(steps))))
        before = np.minimum(np.asarray(time_s) - self.times_s[0], 0.0) * self.power_w[0]
        after = np.maximum(np.asarray(time_s) - self.times_s[-1], 0.0) * self.power_w[-1]
        return np.asarray(inside + before + after, dtype=np.float64)

    def filtered_w(self, times_s: Floats, constant_s: float) -> Floats:
        """Power after a first-order low-pass that was at rest at first: y' = (P − y) / τ, exact for steps."""
        decay = np.exp(-np.diff(self.times_s) / constant_s)
        levels = _filtered_at_steps(decay, self.power_w)
        at = np.clip(np.searchsorted(self.times_s, times_s, side="right") - 1, 0, self.power_w.size - 1)
        since = np.maximum(times_s - self.times_s[at], 0.0)
        return self.power_w[at] + (levels[at] - self.power_w[at]) * np.exp(-since / constant_s)


def _filtered_at_steps(decay: Floats, power_w: Floats) -> Floats:
    """The low-pass at each breakpoint, from y[i + 1] = P[i] + (y[i] − P[i])·decay[i]."""
    levels = [power_w[0]]
    for share, watts in zip(decay.tolist(), power_w.tolist(), strict=True):
        levels.append(watts + (levels[-1] - watts) * share)
    return np.array(levels)


def random_load(rng: np.random.Generator, window_s: float, margin_s: float) -> Load:
    """Idle, then a window from 0 to ``window_s`` of fluctuating work, then idle again for ``margin_s`` each.

    The work alternates between two levels like prefill and decode, with stretches of 5 ms to a few seconds,
    noise on each stretch and a slow drift.
    """
    shortest = 10 ** rng.uniform(np.log10(0.005), np.log10(0.5))
    count = min(int(window_s / shortest) + 2, 3000)
    lengths = rng.uniform(0.3, 1.7, count) * window_s / count * np.tile([rng.uniform(0.2, 1.8), 1.0], count)[:count]
    edges = np.concatenate(([0.0], np.cumsum(lengths)))
    edges *= window_s / edges[-1]
    levels = rng.uniform(80.0, 400.0, 2)
    power = np.tile(levels, count)[:count] * rng.normal(1.0, rng.uniform(0.0, 0.15), count).clip(0.3, 1.7)
    power *= 1.0 + rng.uniform(-0.1, 0.1) * edges[:-1] / window_s
    idle = rng.uniform(0.1, 0.4) * levels.mean()
    times = np.concatenate(([-margin_s], edges, [window_s + margin_s]))
    return Load(times, np.concatenate(([idle], power, [idle * rng.uniform(1.0, 1.2)])))


@dataclass(frozen=True)
class Sensor:
    """How a power source shows a load."""

    name: str
    counter: bool
    period_s: float
    averaging_s: float | None = None
    """Averaging window of a power reading; None for counters."""
    resolution: float = 0.001
    wrap_j: float | None = None
    jitter: float = 0.0
    """Standard deviation of the update interval as a share of ``period_s``."""
    dropped: float = 0.0
    """Share of polls that are lost."""
    stamped: bool = False
    """Readings are delivered once per update and carry its time."""
    method: Method = "counter"
    echo_s: tuple[float, float] | None = None
    """How long after an update what was counted since is published too: shortest and longest."""
    seen_s: float | None = None
    """Of each update's period the last part in which the sensor looks; None where all of it."""
    filter_s: float = 0.0
    """Time constant of a first-order low-pass before the sensor."""
    lag_s: float = 0.0
    """How late readings show."""
    noise: float = 0.0
    """Standard deviation of a power reading, as a share of it."""
    clock_s: float = 0.0
    """Readings are stamped by a clock that is off by no more than this, either way."""
    component: Component = "gpu"

    def domain(self) -> Domain:
        return Domain(
            name=self.name,
            component=self.component,
            kind="counter" if self.counter else "power",
            method=self.method,
            probe="fake",
            resolution=self.resolution,
            period_s=self.period_s,
            averaging_s=self.averaging_s,
            wrap_j=self.wrap_j,
            source=self.name,
            stamped=self.stamped,
            echo_s=0.05 if self.echo_s else 0.0,
            seen_s=self.seen_s,
            filter_s=self.filter_s,
            lag_s=self.lag_s,
            clock_s=self.clock_s,
        )

    def observe(
        self, load: Load, start_s: float, end_s: float, rng: np.random.Generator, rate_hz: float = 20.0
    ) -> Trace:
        """The readings of a sampler that polls at ``rate_hz`` from ``start_s`` to ``end_s``."""
        updates = self._update_times(start_s, end_s, rng)
        shown = self._shown(load, updates, rng)
        if self.stamped:
            seen = np.flatnonzero(updates >= start_s)
            polls = updates[seen] + np.abs(rng.normal(0.0, 0.001, seen.size))
        else:
            polls = np.arange(start_s, end_s, 1.0 / rate_hz)
            polls = np.sort(polls + np.abs(rng.normal(0.0, 0.002, polls.size)))
            seen = np.searchsorted(updates, polls, side="right") - 1
        kept = rng.random(polls.size) >= self.dropped
        clock_off_s = rng.uniform(-self.clock_s, self.clock_s)
        times_ns = ORIGIN_NS + np.round((polls[kept] + clock_off_s) * _NS).astype(np.int64)
        return Trace(self.domain(), times_ns, shown[seen[kept]])

    def _update_times(self, start_s: float, end_s: float, rng: np.random.Generator) -> Floats:
        first = start_s - 2 * self.period_s + rng.uniform(0.0, self.period_s)
        count = int((end_s - first) / self.period_s) + 2
        steps = self.period_s * np.maximum(rng.normal(1.0, self.jitter, count), 0.2)
        updates = first + np.concatenate(([0.0], np.cumsum(steps)))
        if self.echo_s is None:
            return updates
        return np.sort(np.concatenate((updates, updates + rng.uniform(*self.echo_s, updates.size))))

    def _shown(self, load: Load, updates: Floats, rng: np.random.Generator) -> Floats:
        seen_until = updates - self.lag_s
        if not self.counter:
            power = self._power_w(load, seen_until) * rng.normal(1.0, self.noise, updates.size)
            return np.round(power / self.resolution) * self.resolution
        total = load.energy_j(seen_until[0], seen_until)
        if self.seen_s is not None:
            seen_w = load.energy_j(seen_until - self.seen_s, seen_until) / self.seen_s
            total = np.concatenate(([0.0], np.cumsum(seen_w[1:] * np.diff(updates))))
        if self.wrap_j is not None:
            total = (total + rng.uniform(0.0, self.wrap_j)) % self.wrap_j
        return np.floor(total / self.resolution) * self.resolution

    def _power_w(self, load: Load, times_s: Floats) -> Floats:
        """What power readings of these times show before noise and rounding."""
        if self.filter_s > 0.0:
            return load.filtered_w(times_s, self.filter_s)
        window = self.averaging_s or 1e-6
        return load.energy_j(times_s - window, times_s) / window


SENSORS: tuple[Sensor, ...] = (
    Sensor("V100 power", False, 0.020, averaging_s=0.010, method="integrated"),
    Sensor("A100 power", False, 0.100, averaging_s=0.025, method="integrated"),
    Sensor("H100 instant", False, 0.100, averaging_s=0.025, method="integrated"),
    Sensor("H100 average", False, 0.100, averaging_s=1.000, method="integrated"),
    Sensor("Ada instant", False, 0.100, averaging_s=0.100, method="integrated"),
    Sensor("NVML counter 20 ms", True, 0.020),
    Sensor("NVML counter 100 ms", True, 0.100, jitter=0.02),
    Sensor("RAPL with wrap", True, 0.001, resolution=61e-6, wrap_j=300.0),
    Sensor("powermetrics", True, 0.108, resolution=1e-4, jitter=0.05, stamped=True, method="modelled"),
    Sensor("IOReport batches", True, 2.1, jitter=0.03, echo_s=(0.009, 0.029), method="modelled"),
    Sensor("100 ms counter, 10 % dropped", True, 0.100, dropped=0.10),
    Sensor("100 ms power, 10 % dropped", False, 0.100, averaging_s=0.100, dropped=0.10, method="integrated"),
)
"""The sensor models of the benchmark ``sensors``."""
