"""When requests come: at a rate, at random, or at the times of a log, and how bursty these are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding.workload import Workload, from_pairs
from harness.serving.simulation import Requests

DRAWN: Final = 20_000
"""Requests that a simulation draws."""
MOST_DISPERSION: Final = 1.5
"""Beyond it the requests of a log come too unevenly for a closed form of random arrivals."""


@dataclass(frozen=True)
class Burstiness:
    """How unevenly requests come; both numbers are 1 where they come at random (Poisson), larger in bursts."""

    gap_variation: float
    """Squared coefficient of variation of the times between them."""
    dispersion: float
    """Index of dispersion: variance over mean of how many come in windows of ``window_s``."""
    window_s: float

    @property
    def bursty(self) -> bool:
        """Whether the closed form is known to be off."""
        return self.dispersion > MOST_DISPERSION


@dataclass(frozen=True)
class Arriving:
    """How the requests of a workload come."""

    rate_per_s: float
    log: Requests | None = None
    """The requests of a log at their own times; None where they come at random."""

    def burstiness(self, window_s: float) -> Burstiness | None:
        """How bursty a log is over windows of about so long; None at random times."""
        return None if self.log is None else burstiness(self.log.arrival_s, window_s)

    def requests(self, workload: Workload, seed: int = 0) -> Requests:
        """Those of the log, or ``DRAWN`` of the workload's sizes at random times."""
        if self.log is not None:
            return self.log
        rng = np.random.default_rng(seed)
        drawn = rng.choice(workload.count.size, DRAWN, p=workload.count / workload.requests)
        arrival_s = np.cumsum(rng.exponential(1 / self.rate_per_s, DRAWN))
        return Requests(arrival_s, workload.input_tokens[drawn], workload.output_tokens[drawn])


def of_log(name: str, log: Requests) -> tuple[Workload, Arriving]:
    """The sizes of a log's requests as a workload, and how they come. Raises UserError where all come at once."""
    duration_s = float(log.arrival_s[-1] - log.arrival_s[0])
    if duration_s <= 0:
        raise UserError(f"{name}: all requests come at one time: give --rate 2/s in its place")
    workload = from_pairs(name, name, log.input_tokens, log.output_tokens)
    return workload, Arriving((log.arrival_s.size - 1) / duration_s, log)


def burstiness(arrival_s: Floats, window_s: float) -> Burstiness:
    """Of ascending times; the window is shortened so that there are at least 20 of them."""
    gaps = np.diff(arrival_s)
    mean_s = float(gaps.mean())
    span_s = float(arrival_s[-1] - arrival_s[0])
    window_s = min(max(window_s, mean_s), span_s / 20)
    counts = np.bincount(((arrival_s - arrival_s[0]) / window_s).astype(np.intp))[: int(span_s / window_s)]
    return Burstiness(float(gaps.var() / mean_s**2), float(counts.var() / counts.mean()), window_s)
