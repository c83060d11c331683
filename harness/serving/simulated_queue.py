"""A machine that works on one request at a time, whose costs are known by request: what it does to those that wait.

Pure. First come, first served; while a phase of a request lasts, its joules go in proportion to its seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.core.arrays import Floats
from harness.serving.simulated_engine import EngineWork, RequestTimes, StepCounts, Tokens


class AloneCosts(NamedTuple):
    """Costs of requests by themselves; arrays of one entry each."""

    runtime_s: Floats
    prefill_s: Floats | None
    """Up to the first output token; None where nobody knows phases apart."""
    energy_j: Floats | None
    prefill_j: Floats | None


@dataclass(frozen=True)
class OneByOne:
    """One replica of a system that works on one request at a time."""

    costs: Callable[[Tokens, Tokens], AloneCosts]
    """Of input and output tokens."""
    idle_power_w: float | None = None
    """While nothing is in it; None where not measured."""
    speed: float = 1.0
    """All seconds are so many times those of ``costs``."""

    slots = 1

    def with_speed(self, factor: float) -> OneByOne:
        """With requests that take so many times as long and as many joules as before."""
        return replace(self, speed=self.speed * factor)

    def priced(self, m: Tokens, n: Tokens) -> AloneCosts:
        """Costs at its speed."""
        found = self.costs(m, n)
        prefill_s = None if found.prefill_s is None else found.prefill_s * self.speed
        return found._replace(runtime_s=found.runtime_s * self.speed, prefill_s=prefill_s)


class SimulatedQueue:
    """As ``SimulatedEngine``: driven by ``take`` and ``advance``, between which lies a phase of a request."""

    def __init__(self, costs: AloneCosts, requests: RequestTimes, period_s: float) -> None:
        self._requests, self._phased = requests, costs.prefill_s is not None
        self._seconds = costs.runtime_s.tolist()
        none = [0.0] * len(self._seconds)
        self._prefill_s = none if costs.prefill_s is None else costs.prefill_s.tolist()
        self._joules = none if costs.energy_j is None else costs.energy_j.tolist()
        self._prefill_j = none if costs.prefill_j is None else costs.prefill_j.tolist()
        self.now_s, self.ends_s, self.held = 0.0, math.inf, 0
        self._waiting: deque[int] = deque()
        self._served, self._prefilling = -1, False
        self._phase_j, self._phase_steps = 0.0, 0
        self.work, self.counts = EngineWork(), StepCounts([0, 0])
        self.period_s, self.periods = period_s, list[EngineWork]()

    def take(self, request: int, arrival_s: float) -> None:
        """Let a request come in, no earlier than any before it and no later than ``ends_s``."""
        self._waiting.append(request)
        self.held += 1
        if self.ends_s == math.inf:
            self._pass_periods(arrival_s)
            self.now_s = self.ends_s = arrival_s

    def advance(self) -> None:
        """Go to the end of the present phase and begin the next."""
        end_s, request = self.ends_s, self._served
        if request >= 0:
            self._pass_periods(end_s)
            self.work.busy_s += end_s - self.now_s
            self.work.joules += self._phase_j
            self.work.steps += self._phase_steps
            self.counts.by_decoding[0 if self._prefilling else 1] += self._phase_steps
        self.now_s = end_s
        if request >= 0 and self._prefilling:
            if self._phased:
                self._requests.first_token_s[request] = end_s
            self._begin(request, prefill=False)
            return
        if request >= 0:
            self._requests.end_s[request] = end_s
            self.held -= 1
            self._served = -1
        if self._waiting:
            request = self._waiting.popleft()
            self._requests.start_s[request] = end_s
            self._begin(request, prefill=True)
        else:
            self.ends_s = math.inf

    def finish(self, until_s: float) -> None:
        """Close the periods up to a time no earlier than its last request's end."""
        self._pass_periods(until_s)

    def _begin(self, request: int, prefill: bool) -> None:
        self._served, self._prefilling = request, prefill
        seconds, joules = self._prefill_s[request], self._prefill_j[request]
        if not prefill:
            seconds, joules = self._seconds[request] - seconds, self._joules[request] - joules
        self.ends_s = self.now_s + max(0.0, seconds)
        self._phase_j = joules
        self._phase_steps = 1 if prefill else self._requests.output_tokens[request] - 1

    def _pass_periods(self, until_s: float) -> None:
        """As ``SimulatedEngine``'s; a phase's steps count when it has ended."""
        while (mark_s := (len(self.periods) + 1) * self.period_s) <= until_s:
            done = EngineWork(self.work.busy_s, self.work.joules, self.work.steps)
            if self._served >= 0 and self.ends_s > self.now_s:
                done.busy_s += mark_s - self.now_s
                done.joules += self._phase_j * (mark_s - self.now_s) / (self.ends_s - self.now_s)
            self.periods.append(done)
