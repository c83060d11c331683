"""Requests through the replicas of a system, by its engine's steps: when each begins and ends, and what it all costs.

The semantics are those of ``Engine``; ``docs/simulating.md`` has the formulae. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.simulated_engine import RequestTimes, SimulatedEngine, Tokens
from harness.serving.simulated_queue import OneByOne, SimulatedQueue

Replica = SimulatedEngine | SimulatedQueue


@dataclass(frozen=True)
class Requests:
    """Requests by the time they come; arrays of one entry each."""

    arrival_s: Floats
    """Ascending, from any start."""
    input_tokens: Tokens
    output_tokens: Tokens

    def part(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Requests:
        """Some of them: a mask, or ascending positions."""
        return Requests(self.arrival_s[chosen], self.input_tokens[chosen], self.output_tokens[chosen])


@dataclass(frozen=True)
class Periods:
    """What all replicas did in each of equal periods from ``Simulated.origin_s`` on; arrays of one entry each."""

    period_s: float
    """How long each is; the last may reach beyond the end."""
    busy_s: Floats
    """Seconds of steps, summed over replicas."""
    joules: Floats
    """Of steps; of one that two periods share, each has its part of the joules that it has of the seconds."""
    steps: NDArray[np.int64]
    """Steps that ended in it."""
    running: Floats
    """Mean number of requests past the start of their first step."""
    held: Floats
    """Mean number of requests in the system, waiting or running."""


@dataclass(frozen=True)
class Simulated:
    """What became of requests. Arrays have one entry per request, in the order they came, unless said."""

    engine: Engine | OneByOne
    requests: Requests
    replica: NDArray[np.int64]
    """Which replica served it."""
    start_s: Floats
    """Start of its first step."""
    first_token_s: Floats
    """NaN where nobody knows prefill apart."""
    end_s: Floats
    busy_s: Floats
    """Seconds of steps, by replica."""
    joules: float | None
    """Gross energy of all steps; None where the engine knows none."""
    work: Floats | None
    """How often each coefficient of ``StepCosts`` was paid in seconds: a, s, d1, c0, c1, c2, g; None without steps."""
    joules_work: Floats | None
    """The same in joules; their product with the coefficients is ``joules``."""
    steps: int
    decoding_steps: NDArray[np.int64]
    """Steps that decoded 0, 1, 2, … sequences."""
    periods: Periods
    origin_s: float
    """When the first period begins."""

    @property
    def queue_s(self) -> Floats:
        """From arrival to the start of the first step."""
        return self.start_s - self.requests.arrival_s

    @property
    def ttft_s(self) -> Floats:
        """From arrival to the first output token."""
        return self.first_token_s - self.requests.arrival_s

    @property
    def e2e_s(self) -> Floats:
        """From arrival to the last output token."""
        return self.end_s - self.requests.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """Seconds per output token after the first, of requests that have more than one: fewer entries."""
        more = self.requests.output_tokens > 1
        return (self.end_s - self.first_token_s)[more] / (self.requests.output_tokens[more] - 1)

    def times(self) -> dict[str, Floats]:
        """All four by name, each in the order of arrival; without TTFT and TPOT where these aren't known."""
        known = {"queue": self.queue_s, "ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}
        return {name: values for name, values in known.items() if not np.isnan(values).any()}

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last end."""
        return float(self.end_s.max() - self.requests.arrival_s[0])

    def idle_s(self, duration_s: float | None = None) -> float:
        """Seconds in which a replica had nothing in it, summed over replicas, within ``duration_s`` of the start."""
        return max(0.0, self.busy_s.size * (duration_s or self.duration_s) - float(self.busy_s.sum()))


def simulate(
    engine: Engine | OneByOne,
    requests: Requests,
    replicas: int = 1,
    period_s: float = 3600.0,
    origin_s: float | None = None,
) -> Simulated:
    """Send requests through ``replicas`` of an engine, each to the one with the fewest in it, of equal ones the first.

    Sums are kept by periods of ``period_s`` from ``origin_s`` on, by default from the first arrival. Exact: the same as
    walking every step, but for rounding. Time grows with the number of requests, not of steps. Raises UserError for
    requests that are none or that the engine's memory can never hold, and for engines that decode in no time.
    """
    _refuse(engine, requests, replicas, period_s, origin_s)
    start_s = float(requests.arrival_s[0]) if origin_s is None else origin_s
    unknown = [math.nan] * requests.arrival_s.size
    times = RequestTimes(
        requests.input_tokens.tolist(), requests.output_tokens.tolist(), unknown, unknown.copy(), unknown.copy()
    )
    served, joules_known = _replicas(engine, requests, times, replicas, period_s)
    replica = _serve(served, (requests.arrival_s - start_s).tolist())
    for one in served:
        one.finish(math.ceil(max(times.end_s) / period_s) * period_s)
    decoding = _by_decoding(served)
    return Simulated(
        engine,
        requests,
        replica,
        start_s=start_s + np.array(times.start_s),
        first_token_s=start_s + np.array(times.first_token_s),
        end_s=start_s + np.array(times.end_s),
        busy_s=np.array([one.work.busy_s for one in served]),
        joules=math.fsum(one.work.joules for one in served) if joules_known else None,
        work=_work(engine.seconds, requests, served, decoding) if isinstance(engine, Engine) else None,
        joules_work=_work(engine.joules, requests, served, decoding) if isinstance(engine, Engine) else None,
        steps=sum(one.work.steps for one in served),
        decoding_steps=decoding,
        periods=_periods(served, times, requests.arrival_s - start_s),
        origin_s=start_s,
    )


def _replicas(
    engine: Engine | OneByOne, requests: Requests, times: RequestTimes, count: int, period_s: float
) -> tuple[Sequence[Replica], bool]:
    """The replicas, and whether they know joules."""
    if isinstance(engine, Engine):
        return [SimulatedEngine(engine, times, period_s) for _ in range(count)], engine.joules is not None
    costs = engine.priced(requests.input_tokens, requests.output_tokens)
    return [SimulatedQueue(costs, times, period_s) for _ in range(count)], costs.energy_j is not None


def alone_s(engine: Engine | OneByOne, requests: Requests) -> Floats:
    """Seconds that each request would take with nothing else in the engine."""
    if isinstance(engine, OneByOne):
        return engine.priced(requests.input_tokens, requests.output_tokens).runtime_s
    costs = engine.seconds
    m, n = requests.input_tokens.astype(float), requests.output_tokens.astype(float)
    parts = np.ceil(m / engine.chunk_tokens) if engine.chunk_tokens else np.ones(m.size)
    prefill_s = costs.prefill_floor * parts + costs.per_prefill_token * m + costs.per_prefill_token2 * m**2
    return np.asarray(prefill_s + costs.decoding(1) * (n - 1) + costs.per_context * ((n - 1) * m + (n - 1) * n / 2))


def _refuse(
    engine: Engine | OneByOne, requests: Requests, replicas: int, period_s: float, origin_s: float | None
) -> None:
    arrays = (requests.arrival_s, requests.input_tokens, requests.output_tokens)
    if not requests.arrival_s.size or len({array.shape for array in arrays}) > 1 or requests.arrival_s.ndim > 1:
        raise UserError("a simulation needs requests: one arrival time, input and output length for each")
    if not np.isfinite(requests.arrival_s).all() or (np.diff(requests.arrival_s) < 0).any():
        raise UserError("arrival times must be finite and ascend")
    if origin_s is not None and not origin_s <= requests.arrival_s[0]:
        raise UserError("periods must begin no later than the first arrival")
    if min(requests.input_tokens.min(), requests.output_tokens.min()) < 1:
        raise UserError("a request has at least 1 input and 1 output token")
    if replicas < 1 or not period_s > 0:
        raise UserError("a simulation needs at least 1 replica, and periods longer than 0 s")
    if isinstance(engine, Engine):
        _refuse_engine(engine, int((requests.input_tokens + requests.output_tokens).max()) - 1)


def _refuse_engine(engine: Engine, positions: int) -> None:
    """Raises UserError for limits that are none, and where the longest request has too many positions for them."""
    limits = {"slots": engine.slots, "chunk_tokens": engine.chunk_tokens, "kv_tokens": engine.kv_tokens}
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise UserError(f"an engine's {name} must be at least 1, not {limit}")
    # Of one sequence at its shortest context: nothing decodes in less.
    if not engine.seconds.decoding(1) + engine.seconds.per_context > 0:
        raise UserError("an engine whose decode steps take no time can't be simulated: check its runtime model")
    if engine.kv_tokens is not None and positions > engine.kv_tokens:
        raise UserError(
            f"a request of {positions} positions never fits into memory for {engine.kv_tokens}: "
            "leave it out, or give more KV tokens"
        )


def _serve(engines: Sequence[Replica], arrivals_s: list[float]) -> NDArray[np.int64]:
    """Send every request to an engine, and let all come to their end. Which engine served each."""
    chosen = np.zeros(len(arrivals_s), dtype=np.int64)
    first = engines[0]
    for request, arrival_s in enumerate(arrivals_s):
        for engine in engines:
            while engine.ends_s < arrival_s:
                engine.advance()
        engine = first
        if len(engines) > 1:
            held = [each.held for each in engines]
            place = held.index(min(held))
            engine = engines[place]
            chosen[request] = place
        engine.take(request, arrival_s)
    for engine in engines:
        while engine.ends_s < math.inf:
            engine.advance()
    return chosen


def _by_decoding(engines: Sequence[Replica]) -> NDArray[np.int64]:
    longest = max(len(engine.counts.by_decoding) for engine in engines)
    steps = np.zeros(longest, dtype=np.int64)
    for engine in engines:
        steps[: len(engine.counts.by_decoding)] += engine.counts.by_decoding
    return np.trim_zeros(steps, "b") if steps.any() else steps[:1]


def _work(
    costs: StepCosts | None, requests: Requests, engines: Sequence[Replica], by_decoding: NDArray[np.int64]
) -> Floats | None:
    """How often a, s, d1, c0, c1, c2 and g were paid."""
    if costs is None:
        return None
    m, n = requests.input_tokens.astype(float), requests.output_tokens.astype(float)
    decoding = np.arange(by_decoding.size, dtype=float)
    floors = [each.counts.lone_prefills if costs.prefill_joined else each.counts.prompt_parts for each in engines]
    return np.array(
        [
            by_decoding[1:].sum(),
            (n - 1).sum(),
            ((n - 1) * m + (n - 1) * n / 2).sum(),
            sum(floors),
            m.sum(),
            (m**2).sum(),
            (by_decoding * costs.distinct_experts(decoding)).sum(),
        ],
        dtype=float,
    )


def _periods(engines: Sequence[Replica], times: RequestTimes, arrival_s: Floats) -> Periods:
    period_s = engines[0].period_s
    count = max(1, math.ceil(max(times.end_s) / period_s))
    passed = [(engine.periods + [engine.work] * count)[:count] for engine in engines]
    start_s, end_s = np.array(times.start_s), np.array(times.end_s)

    def grown(name: str) -> Floats:
        totals = np.array([[getattr(done, name) for done in each] for each in passed], dtype=float).sum(axis=0)
        return np.diff(totals, prepend=0.0)

    return Periods(
        period_s,
        grown("busy_s"),
        grown("joules"),
        grown("steps").round().astype(np.int64),
        _mean_between(start_s, end_s, count, period_s),
        _mean_between(arrival_s, end_s, count, period_s),
    )


def _mean_between(from_s: Floats, to_s: Floats, count: int, period_s: float) -> Floats:
    """Mean number of requests between two times of theirs, in each period."""
    marks = np.arange(count + 1) * period_s

    def passed(times_s: Floats) -> Floats:
        """Σ max(0, mark − time), at each mark."""
        ordered = np.sort(times_s)
        sums = np.append(0.0, np.cumsum(ordered))
        before = np.searchsorted(ordered, marks)
        return np.asarray(before * marks - sums[before])

    return np.asarray(np.diff(passed(from_s) - passed(to_s)) / period_s)
