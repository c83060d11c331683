"""Replicas that work on one request at a time, at an arrival rate: how long requests take and what that costs. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np

from harness.core.arrays import Floats
from harness.serving.occupancy import MOST_UNEVEN, Occupancy
from harness.serving.simulated_engine import Tokens
from harness.serving.simulated_queue import OneByOne

ALONE_SUMS: Final = 4
"""Numbers per request that a mix is known by: see ``alone_sums``."""


def alone_sums(engine: OneByOne, m: Tokens, n: Tokens) -> Floats:
    """What a mix is known by is sums of these over its requests: 1, seconds, seconds², joules (NaN where unknown)."""
    costs = engine.priced(m, n)
    joules = np.full(costs.runtime_s.shape, np.nan) if costs.energy_j is None else costs.energy_j
    return np.stack([np.ones_like(costs.runtime_s), costs.runtime_s, costs.runtime_s**2, joules])


def alone_capacity_per_s(sums: Floats, replicas: int = 1) -> Floats:
    """Requests per second beyond which replicas are saturated. Shape of a row of ``sums``."""
    return np.asarray(np.divide(replicas * sums[0], sums[1], out=np.zeros_like(sums[1]), where=sums[1] > 0))


def alone_occupancy(sums_per_s: Floats, replicas: int = 1) -> Occupancy:
    """The replicas under mixes of which ``alone_sums`` come per second, shape (ALONE_SUMS, …).

    The mean wait is that of a queue M/M/r (Erlang C) times (1 + v²)/2, v being the coefficient of variation of the
    seconds: of one replica Pollaczek and Khinchine's formula, which is exact; of several Lee and Longton's (1959).
    """
    rate, seconds, squares, joules = np.asarray(sums_per_s, dtype=float)
    busy = seconds / replicas
    saturated = busy >= 1
    safe = np.where(saturated, 0.0, seconds)
    waits = _erlang_c(safe, replicas)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_s = seconds / rate
        spread = squares / rate / mean_s**2 / 2
        e2e_s = np.where(saturated, np.inf, mean_s + waits * mean_s / (replicas - safe) * spread)
        power = np.where(saturated, joules / busy, joules)
    none = rate == 0
    return Occupancy(
        replicas=replicas,
        rate_per_s=rate,
        saturated=saturated.astype(float),
        e2e_s=np.where(none, np.nan, e2e_s),
        held=np.where(none, 0.0, rate * e2e_s),
        running=np.where(none, 0.0, 1.0),
        busy_share=np.minimum(busy, 1.0),
        steps_per_s=np.full(rate.shape, np.nan),
        power_w=power,
        prompt_share=np.full(rate.shape, np.nan),
        rough=((replicas > 1) & (busy < 1 - MOST_UNEVEN)).astype(float),
    )


def _erlang_c(offered: Floats, replicas: int) -> Floats:
    """The probability that a request waits, with so many replicas busy on average."""
    blocked = np.ones_like(offered)
    for servers in range(1, replicas + 1):
        blocked = offered * blocked / (servers + offered * blocked)
    return np.asarray(replicas * blocked / (replicas - offered * (1 - blocked)))
