"""Who pays for an engine's steps where only the times of its requests are known: no step was recorded. Pure.

Between two moments at which a request is scheduled, gets its first token or its last, the same requests decode and the
same are in prefill, so that all steps between them are shared alike. How many steps that are:

- a request of n tokens made n − 1 decode steps between its first token and its last: these are known;
- the model's step times say how they are spread over the time: where more decode, or prompts are computed beside
  them, steps come more slowly. Of each request the log's own times are kept, whatever the model says of them.

So a log of a machine that keeps to its step times gets the shares that its recorded steps would give, and any other
one shares that add up to as many steps as its requests had. Sums over the moments are cumulative: O(requests).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.shares import floor_shares

_ROUNDS = 4
"""Rounds in which contexts and speeds are fitted to each other; they change by less than 1e-3 from the third on."""
_LEAST_FREE = 0.02
"""Part of a stretch that decode steps have at least where the model's prefill would take all of it."""
_NEXT_TO_NOTHING = 1e-9
"""The same where decoding waits for prefill."""


@dataclass(frozen=True, eq=False)
class ServedTimes:
    """When an engine worked on each request; arrays of one length, times in s after any moment.

    ``scheduled_s`` < ``first_token_s`` ≤ ``last_token_s``, and the last two differ where there are several tokens.
    """

    input_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats
    """Input tokens that came out of a prefix cache."""
    scheduled_s: Floats
    first_token_s: Floats
    last_token_s: Floats

    def __len__(self) -> int:
        return len(self.input_tokens)


@dataclass(frozen=True, eq=False)
class TimeShares:
    """What the requests of a log pay of the engine's steps, and what the log says of its time."""

    terms: Floats
    """Shape (requests, 7), multiples of ``SHARE_TERMS``."""
    busy_s: float
    """In which at least one request was in the engine."""
    span_s: float
    """From the first that was scheduled to the last token of all."""
    most_at_once: int
    """Requests in the engine."""
    mean_at_once: float
    """The same, as the mean over the time in which it was busy."""
    speed: float | None
    """Decode steps of the log over those that the model has time for; None where no request decoded."""


@dataclass(frozen=True, eq=False)
class _Moments:
    """The stretches between moments at which a request is scheduled, gets its first token or its last."""

    times_s: Floats
    """Of the moments, in order; a stretch goes from each to the next."""
    scheduled: NDArray[np.intp]
    """Which moment each request's is."""
    first: NDArray[np.intp]
    last: NDArray[np.intp]

    @classmethod
    def of(cls, log: ServedTimes) -> _Moments:
        times = np.concatenate((log.scheduled_s, log.first_token_s, log.last_token_s))
        order = np.argsort(times, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(times.size)
        return cls(times[order], *np.split(place, 3))

    @cached_property
    def lengths_s(self) -> Floats:
        return np.diff(self.times_s)

    def open(self, since: NDArray[np.intp], until: NDArray[np.intp], values: Floats | float = 1.0) -> Floats:
        """Sum of the values of the requests that are between two of their moments, in each stretch."""
        changes = np.zeros(self.times_s.size)
        changes[since] = values
        changes[until] = -values
        return np.cumsum(changes)[:-1]

    @cached_property
    def decoding(self) -> Floats:
        return self.open(self.first, self.last)

    @cached_property
    def prefilling(self) -> Floats:
        return self.open(self.scheduled, self.first)


def shares_over_time(log: ServedTimes, engine: Engine, costs: StepCosts | None = None) -> TimeShares:
    """What each request of a log pays of the steps that its times tell of.

    ``costs`` are those to be shared, by default the engine's joules, or its seconds where it has no joules; its seconds
    say how fast steps come.
    """
    moments = _Moments.of(log)
    paid = costs or engine.joules or engine.seconds
    chunks = _prefill_steps(log, engine)
    steps, pace = _decode_steps(log, moments, engine.seconds, chunks)
    terms = _terms(log, moments, engine, paid, chunks, steps, pace)
    together = moments.decoding + moments.prefilling
    busy_s = float(moments.lengths_s[together > 0.5].sum())
    decoded = log.output_tokens > 1
    possible = float(np.sum(((log.output_tokens - 1) / np.where(decoded, pace, 1.0))[decoded]))
    return TimeShares(
        terms=terms,
        busy_s=busy_s,
        span_s=float(moments.times_s[-1] - moments.times_s[0]),
        # Stretches without length are no time at all.
        most_at_once=round(float(together[moments.lengths_s > 0].max(initial=0.0))),
        mean_at_once=float(together @ moments.lengths_s) / busy_s,
        speed=float(np.sum(log.output_tokens[decoded] - 1)) / possible if decoded.any() else None,
    )


def _prefill_steps(log: ServedTimes, engine: Engine) -> Floats:
    """In how many steps each prompt was computed."""
    if engine.chunk_tokens is None:
        return np.ones(len(log))
    return np.maximum(np.ceil((log.input_tokens - log.cached_tokens) / engine.chunk_tokens), 1.0)


def _decode_steps(log: ServedTimes, moments: _Moments, seconds: StepCosts, chunks: Floats) -> tuple[Floats, Floats]:
    """Decode steps in each stretch by the model's step times, and by which factor each request made more than these.

    A step's time grows with the contexts, and these with the steps made: each is worked out of the other in turn.
    """
    decoding, steps_made = moments.decoding, log.output_tokens - 1
    free_s = np.maximum(moments.lengths_s - _prefill_seconds(log, moments, seconds, chunks), 0.0)
    least = _LEAST_FREE if seconds.prefill_joined else _NEXT_TO_NOTHING
    free_s = np.where(decoding > 0.5, np.maximum(free_s, least * moments.lengths_s), 0.0)
    bare_s = seconds.floor + seconds.per_sequence * decoding
    bare_s = bare_s + seconds.experts * seconds.distinct_experts(decoding)
    prompts = moments.open(moments.first, moments.last, log.input_tokens)
    # At first as if every request had decoded at an even pace.
    clock = moments.times_s - moments.times_s[0]
    for _ in range(_ROUNDS):
        begun, taken = clock[moments.first], clock[moments.last] - clock[moments.first]
        pace = np.divide(steps_made, taken, out=np.zeros(len(log)), where=(steps_made > 0) & (taken > 0))
        paces = moments.open(moments.first, moments.last, pace)
        offsets = moments.open(moments.first, moments.last, pace * begun)
        middle = (clock[1:] + clock[:-1]) / 2
        contexts = np.maximum(prompts + paces * middle - offsets, prompts) + decoding / 2
        step_s = np.maximum(bare_s + seconds.per_context * contexts, np.finfo(float).tiny)
        steps = free_s / step_s
        clock = np.concatenate(([0.0], np.cumsum(steps)))
    taken = clock[moments.last] - clock[moments.first]
    pace = np.divide(steps_made, taken, out=np.zeros(len(log)), where=(steps_made > 0) & (taken > 0))
    return steps, pace


def _prefill_seconds(log: ServedTimes, moments: _Moments, seconds: StepCosts, chunks: Floats) -> Floats:
    """Time that prompts took of each stretch, each spread evenly over the time of its prefill."""
    m, cached = log.input_tokens, log.cached_tokens
    work_s = seconds.per_prefill_token * (m - cached) + seconds.per_prefill_token2 * (m**2 - cached**2)
    if not seconds.prefill_joined:
        work_s = work_s + seconds.prefill_floor * chunks
    rates = moments.open(moments.scheduled, moments.first, work_s / (log.first_token_s - log.scheduled_s))
    return np.maximum(rates, 0.0) * moments.lengths_s


def _terms(
    log: ServedTimes, moments: _Moments, engine: Engine, paid: StepCosts, chunks: Floats, steps: Floats, pace: Floats
) -> Floats:
    """Multiples of ``SHARE_TERMS``, shape (requests, 7)."""
    m, n, cached = log.input_tokens, log.output_tokens, log.cached_tokens
    decoding, prefilling = moments.decoding.round(), moments.prefilling.round()
    if not engine.seconds.prefill_joined:
        prefilling = np.zeros_like(prefilling)
    floors = floor_shares(paid, decoding, prefilling)

    def while_decoding(share: Floats) -> Floats:
        sums = np.concatenate(([0.0], np.cumsum(steps * share)))
        return np.asarray(pace * (sums[moments.last] - sums[moments.first]))

    made = _steps_with_prompts(log, moments, chunks, steps, pace)

    def while_prefilling(share: Floats) -> Floats:
        sums = np.concatenate(([0.0], np.cumsum(made * share)))
        return np.asarray(sums[moments.first] - sums[moments.scheduled])

    if not paid.prefill_joined:
        prefill_floor = chunks
    elif engine.seconds.prefill_joined:
        prefill_floor = while_prefilling(floors.prefill_prefill_floor)
    else:
        prefill_floor = chunks * _part_alone(log, moments)
    joined = while_prefilling(floors.prefill_floor) if engine.seconds.prefill_joined else 0.0
    return np.stack(
        [
            while_decoding(floors.decode_prefill_floor) + prefill_floor,
            m - cached,
            m**2 - cached**2,
            while_decoding(floors.decode_floor) + joined,
            n - 1,
            (n - 1) * m + n * (n - 1) / 2,
            while_decoding(floors.decode_experts),
        ],
        axis=-1,
    )


def _steps_with_prompts(log: ServedTimes, moments: _Moments, chunks: Floats, steps: Floats, pace: Floats) -> Floats:
    """Steps of each stretch in which prompts are computed: as many as those that decoded made; where none did, as many
    as the prompts needed."""
    made = steps * moments.open(moments.first, moments.last, pace) / np.maximum(moments.decoding, 1.0)
    needed = moments.open(moments.scheduled, moments.first, chunks / (log.first_token_s - log.scheduled_s))
    alone = moments.lengths_s * needed / np.maximum(moments.prefilling, 1.0)
    return np.where(moments.decoding > 0.5, made, np.where(moments.prefilling > 0.5, alone, 0.0))


def _part_alone(log: ServedTimes, moments: _Moments) -> Floats:
    """Which part of each prompt's time no request was past its own."""
    alone = np.concatenate(([0.0], np.cumsum(np.where(moments.decoding < 0.5, moments.lengths_s, 0.0))))
    return np.asarray((alone[moments.first] - alone[moments.scheduled]) / (log.first_token_s - log.scheduled_s))
