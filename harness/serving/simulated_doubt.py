"""What an engine's doubtful speed does to simulated figures. Pure.

All seconds of steps are taken to be off by one factor, with the interval of a profile's prediction: a requests'
runtime at the mean size and number in flight. Queues make times grow faster than the steps do, so the figures are
worked out again at both ends of that interval, on some of the requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.modelling.served.engine import Engine
from harness.serving.simulated_figures import quantile_of
from harness.serving.simulated_queue import OneByOne
from harness.serving.simulation import Simulated, simulate

LEVELS = (0.5, 0.9, 0.99)
"""Percentiles that are told."""
DOUBT_REQUESTS = 20_000
"""Requests in a row, from the middle, that are simulated again."""


def values_of(found: Simulated, duration_s: float, idle_power_w: float | None) -> dict[str, float]:
    """Figures by name: ``queue``, ``ttft``, ``tpot`` and ``e2e`` as ``_mean_s``, ``_p50_s`` …, ``busy_share``,
    ``running_mean`` and ``energy_j``; without those that no request has or nobody knows.

    ``duration_s`` is how long the replicas are on, ``idle_power_w`` what one draws while nothing is in it.
    """
    values: dict[str, float] = {}
    for quantity, times in found.times().items():
        if times.size:
            values[f"{quantity}_mean_s"] = float(times.mean())
            ordered = np.sort(times)
            values |= {f"{quantity}_p{100 * level:g}_s": quantile_of(ordered, level) for level in LEVELS}
    values["busy_share"] = float(found.busy_s.sum()) / (found.busy_s.size * duration_s)
    values["running_mean"] = float((found.end_s - found.start_s).sum()) / duration_s
    if found.joules is not None and idle_power_w is not None:
        values["energy_j"] = found.joules + idle_power_w * found.idle_s(duration_s)
    return values


@dataclass(frozen=True)
class SpeedDoubt:
    """Figures of some requests at an engine's speed, and at both ends of its interval."""

    middle: Mapping[str, float]
    ends: tuple[Mapping[str, float], ...]

    @classmethod
    def of(cls, found: Simulated, seconds_ci95: float, idle_power_w: float | None) -> SpeedDoubt:
        """Of an engine all whose seconds are known to a relative half-width."""
        requests, engine = found.requests, found.engine
        spare = max(0, requests.arrival_s.size - DOUBT_REQUESTS)
        some = requests.part(np.arange(spare // 2, requests.arrival_s.size - (spare - spare // 2)))

        def at(factor: float) -> dict[str, float]:
            again = simulate(with_speed(engine, factor), some, found.busy_s.size)
            return values_of(again, again.duration_s, idle_power_w)

        middle = at(1.0) if spare else values_of(found, found.duration_s, idle_power_w)
        return cls(middle, (at(1 + seconds_ci95), at(1 / (1 + seconds_ci95))))

    def distances(self, name: str, value: float) -> tuple[float, float]:
        """How far below and above a value of all requests its ends lie: those of some, in proportion."""
        middle = self.middle[name]
        scale = value / middle if middle > 0 else 1.0
        away = [(each[name] - middle) * scale for each in self.ends]
        return max(0.0, *(-each for each in away)), max(0.0, *away)


def with_speed(engine: Engine | OneByOne, factor: float) -> Engine | OneByOne:
    """The engine with steps that take so many times as long and as many joules as before."""
    if isinstance(engine, OneByOne):
        return engine.with_speed(factor)
    return replace(engine, seconds=engine.seconds.scaled(factor))
