"""What an open loop sends and when: requests come at times of their own, whether or not others have ended. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from harness.core.errors import UserError
from harness.core.sizes import MAX_ARRIVAL_S, MAX_TOKENS, Arrival, Point
from harness.runs.run_schema import OpenLoopRecord

FEWEST_ARRIVALS = 5
"""With fewer on average it may happen that none comes."""


@dataclass(frozen=True)
class OpenLoopPlan:
    """The open loops of a run: one at each rate, or one with the arrivals of a log."""

    rates_per_s: tuple[float, ...]
    """Poisson arrivals; empty where a log says when requests come."""
    duration_s: float
    sizes: tuple[Point, ...]
    """Sizes that Poisson arrivals have, each as likely as the others."""
    logged: tuple[Arrival, ...] = ()
    ttft_limit_s: float | None = None
    tpot_limit_s: float | None = None
    e2e_limit_s: float | None = None

    @property
    def loads(self) -> tuple[float | None, ...]:
        """The rate of each loop; None for that of the log."""
        return self.rates_per_s or (None,)

    def arrivals(self, rate_per_s: float | None, seed: int) -> tuple[Arrival, ...]:
        """The requests of one loop, by time: those of the log, or of a Poisson process over ``duration_s``, each of a
        random one of ``sizes``."""
        if rate_per_s is None:
            return self.logged
        rng = np.random.default_rng(seed)
        # Given their number, the arrivals of a Poisson process are uniform.
        offsets_s = np.sort(rng.uniform(0.0, self.duration_s, rng.poisson(rate_per_s * self.duration_s)))
        drawn = rng.integers(len(self.sizes), size=len(offsets_s))
        return tuple(
            Arrival(float(offset_s), self.sizes[i].input_tokens, self.sizes[i].output_tokens)
            for offset_s, i in zip(offsets_s, drawn, strict=True)
        )

    def record(self) -> OpenLoopRecord:
        """The plan as it is stored with the run; of a log what tells it from others."""
        arrivals = json.dumps([astuple(arrival) for arrival in self.logged])
        return OpenLoopRecord(
            rates_per_s=self.rates_per_s,
            duration_s=self.duration_s,
            sizes=tuple((size.input_tokens, size.output_tokens) for size in self.sizes),
            logged=len(self.logged),
            log_sha256=hashlib.sha256(arrivals.encode()).hexdigest() if self.logged else None,
            ttft_limit_s=self.ttft_limit_s,
            tpot_limit_s=self.tpot_limit_s,
            e2e_limit_s=self.e2e_limit_s,
        )

    def mean_size(self) -> Point:
        """Mean input and output tokens of its requests, rounded."""
        sizes: Sequence[Arrival | Point] = self.logged or self.sizes
        means = [np.mean([getattr(size, name) for size in sizes]) for name in ("input_tokens", "output_tokens")]
        return Point(*(max(1, round(float(mean))) for mean in means))


def refuse_arrivals(arrivals: Sequence[Arrival]) -> None:
    """Refuse what no load can be: times out of order, before its start or days after it, requests without tokens.

    Raises UserError.
    """
    offsets_s = [arrival.offset_s for arrival in arrivals]
    if offsets_s != sorted(offsets_s) or offsets_s[0] < 0 or offsets_s[-1] > MAX_ARRIVAL_S:
        raise UserError(f"times of arrivals must be in order, from 0 to {MAX_ARRIVAL_S:.0f} s")
    if not offsets_s[-1]:
        raise UserError("arrivals are all at one time; a load needs some at others")
    tokens = [count for arrival in arrivals for count in (arrival.input_tokens, arrival.output_tokens)]
    if not 1 <= min(tokens) <= max(tokens) <= MAX_TOKENS:
        raise UserError(f"arrivals have from 1 to {MAX_TOKENS} input and output tokens")


def parse_rates(text: str) -> tuple[float, ...]:
    """Requests per second from ``2/s``, ``30/min`` or several joined by commas. Raises UserError."""
    rates = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*/\s*(s|min|h)\s*", part)
        if not match or not 0 < float(match[1]) < 1e6:
            raise UserError(
                f"--rate {text}: write requests per second as 2/s, per minute as 30/min; for readings of power "
                "sensors per second type --sample-rate"
            )
        rates.append(float(match[1]) / {"s": 1, "min": 60, "h": 3600}[match[2]])
    return tuple(dict.fromkeys(rates))
