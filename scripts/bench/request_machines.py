"""Simulated machines: what requests of each size truly cost, and trials of them, for checks of fitted models.

A machine has prefill and decode steps like the phase form, and what that form can't follow: prefill in tiles, decode
steps that get dearer beyond a cache's reach, and a smooth curvature over sizes. Its noise has a part that each request
draws, a part that all requests of a trial share, and one that a whole session shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.core.arrays import Floats
from harness.modelling.forms.base import Sizes
from harness.modelling.forms.phase import Phase

Points = Sequence[tuple[int, int]]
TILES = (1, 1, 64, 128)
WINDOW_S = 2.0
"""A trial repeats its request for about so long, up to ``MOST_REQUESTS`` times."""
MOST_REQUESTS = 20


@dataclass(frozen=True)
class Cost:
    """True mean cost of one quantity, and how it is measured."""

    form: Phase
    theta: Floats
    tile: int
    """Prefill computes whole tiles of so many tokens, for half of its work."""
    kink: tuple[float, float]
    """Context beyond which decode steps cost more, and by what share at twice that context."""
    waves: Floats
    """Amplitude, phase and octaves per cycle in m and n of smooth deviations: shape (waves, 4)."""
    noise: float
    """Relative standard deviation of a request's cost at ``reference``."""
    falloff: float
    """How it falls with the cost: sd/cost = noise·(cost/reference)^−falloff."""
    reference: float
    shared: float
    """Share of the noise's variance that all requests of a trial have in common."""

    def mean(self, m: Floats, n: Floats) -> Floats:
        """True mean cost of requests of these sizes."""
        padded, one = (m + np.ceil(m / self.tile) * self.tile) / 2, np.ones_like(m)
        decode = self.form.cost(self.theta, Sizes(m, n)) - self.form.cost(self.theta, Sizes(m, one))
        reach, dearer = self.kink
        # The share of the steps that lie beyond the reach, and how far.
        last = m + n
        share = np.clip((last - np.maximum(m, reach)) / n, 0, 1)
        decode = decode * (1 + dearer * share * np.clip(np.log2(last / reach), 0, 1))
        cost = self.form.cost(self.theta, Sizes(padded, one)) + decode
        for amplitude, phase, in_m, in_n in self.waves:
            cost = cost * (1 + amplitude * np.sin(phase + 2 * np.pi * (np.log2(m) / in_m + np.log2(n) / in_n)))
        return np.asarray(cost)

    def request_sd(self, cost: Floats) -> Floats:
        """Standard deviation of one request about the mean of its size."""
        return np.asarray(cost * self.noise * (cost / self.reference) ** -self.falloff)


@dataclass(frozen=True)
class Machine:
    """Runtime and energy of requests on one machine."""

    runtime: Cost
    energy: Cost
    session_sd: float
    """Relative standard deviation of what one session does to all its costs."""

    def repeats(self, m: Floats, n: Floats) -> Floats:
        """How many requests a trial is the mean of."""
        return np.clip(np.ceil(WINDOW_S / self.runtime.mean(m, n)), 1, MOST_REQUESTS)

    def trials(self, rng: np.random.Generator, points: Points, count: int, offsets: Sequence[Floats]) -> pd.DataFrame:
        """``count`` trials of each point in each session; ``offsets`` are the logarithms of what each session does to
        runtime and energy. The columns are those of a run's table."""
        m, n = (np.tile(np.repeat(axis, count), len(offsets)) for axis in np.array(points, dtype=float).T)
        session = np.repeat(np.arange(len(offsets)), len(points) * count)
        repeats = self.repeats(m, n)
        table = {"input_tokens": m, "output_tokens": n, "output_tokens_produced": n, "session": session}
        table["repeats"] = repeats
        for k, (name, cost) in enumerate((("runtime_s", self.runtime), ("energy_j", self.energy))):
            mean = cost.mean(m, n) * np.exp(np.array(offsets)[session, k])
            variance = cost.request_sd(mean) ** 2
            shared = rng.normal(0, np.sqrt(variance * cost.shared))
            own = variance * (1 - cost.shared)
            table[name] = mean + shared + rng.normal(0, np.sqrt(own / repeats))
            if name == "runtime_s":
                spread = np.sqrt(own * rng.chisquare(np.maximum(repeats - 1, 1)) / np.maximum(repeats - 1, 1))
                table["runtime_sd_s"] = np.where(repeats > 1, spread, np.nan)
        return pd.DataFrame(table)

    def offsets(self, rng: np.random.Generator, sessions: int) -> list[Floats]:
        """What so many sessions do."""
        return list(rng.normal(0, self.session_sd, (sessions, 2)))

    def request(self, rng: np.random.Generator, cost: Cost, mean: Floats) -> Floats:
        """One new request of each of these mean costs."""
        return np.asarray(mean + rng.normal(0, cost.request_sd(mean)))


def machine(rng: np.random.Generator) -> Machine:
    """One with coefficients in the range of real ones: noise of 0.5 to 5 %, sessions of 1 to 5 %."""
    form = Phase(True, float(rng.choice([1.0, 2.0, 4.0])))
    floor = _between(rng, 0.01, 0.1)
    linear = floor / _between(rng, 50, 1000)
    step = floor * _between(rng, 0.1, 1)
    theta = np.array([floor, linear, linear / _between(rng, 2000, 50000), step, step / _between(rng, 1000, 30000)])
    tile = int(rng.choice(TILES))
    kink = (_between(rng, 64, 1024), float(rng.choice([0.0, 0.05, 0.15])))
    watts = theta * rng.uniform(150, 350, 5)
    noise = _between(rng, 0.005, 0.05)
    costs = []
    for coefficients, falloff in ((theta, rng.uniform(0, 0.1)), (watts, rng.uniform(0, 0.3))):
        waves = np.column_stack(
            [rng.uniform(0, 0.02, 2), rng.uniform(0, 2 * np.pi, 2), rng.uniform(4, 16, 2), rng.uniform(4, 16, 2)]
        )
        reference = float(coefficients[0] + 64 * coefficients[3])
        shared = rng.uniform(0.1, 1.0)
        level = noise * _between(rng, 0.7, 1.4)
        costs.append(Cost(form, coefficients, tile, kink, waves, level, falloff, reference, shared))
    return Machine(costs[0], costs[1], _between(rng, 0.01, 0.05))


def _between(rng: np.random.Generator, least: float, most: float) -> float:
    return float(np.exp(rng.uniform(np.log(least), np.log(most))))
