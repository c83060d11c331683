"""Times of requests that a log leaves out: when they got a slot, and their first token. Pure."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.modelling.served.engine import Engine
from harness.serving.shares_over_time import ServedTimes

_LEAST_PREFILL = 1e-6
"""Part of a request's time that its prefill has at least."""


@dataclass(frozen=True, eq=False)
class LoggedTimes:
    """What a log says of its requests; arrays of one length, times in s after any moment, NaN where it says nothing."""

    input_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats
    arrived_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    last_token_s: Floats

    def __len__(self) -> int:
        return len(self.input_tokens)


@dataclass(frozen=True, eq=False)
class CompletedTimes:
    """The times of all requests, and how many of them were worked out."""

    times: ServedTimes
    scheduled_guessed: int
    """Requests that the log doesn't say the start of: from when they came, or a slot was free."""
    first_token_guessed: int
    """Requests whose first token's time is by the model's shares of prefill and decode."""
    without_slot: int
    """Of those guessed first, requests that ended before a slot was free: the log has more at once than slots."""


def complete_times(log: LoggedTimes, engine: Engine) -> CompletedTimes:
    """Work out the times that the log leaves out, from the engine's slots and its seconds.

    A request without the time of its start began when it came, or when the first slot was free for it, in the order of
    arrival. One without the time of its first token had its prefill for the share of its time that the model says.
    """
    guessed = np.isnan(log.scheduled_s)
    scheduled, without_slot = log.scheduled_s, 0
    if guessed.any():
        scheduled, without_slot = _starts(log, guessed, engine.slots)
    # A first token at the start, or with the last of several, tells that answers came all at once.
    several = log.output_tokens > 1
    known = (log.first_token_s > scheduled) & (~several | (log.first_token_s < log.last_token_s))
    first = np.where(known, log.first_token_s, _first_tokens(log, scheduled, engine))
    first = np.where(several, first, log.last_token_s)
    tokens = log.input_tokens, log.output_tokens, log.cached_tokens
    return CompletedTimes(
        ServedTimes(*tokens, scheduled, first, log.last_token_s),
        int(guessed.sum()),
        int((several & ~known).sum()),
        without_slot,
    )


def _starts(log: LoggedTimes, guessed: NDArray[np.bool_], slots: int | None) -> tuple[Floats, int]:
    """When each request got a slot, and how many ended before there was one for them."""
    # Before its first token, if that is known, a request had its slot.
    latest = np.where(log.first_token_s > log.arrived_s, log.first_token_s, log.last_token_s)
    begun = np.where(guessed, log.arrived_s, log.scheduled_s)
    if slots is None or _most_open(begun, log.last_token_s) <= slots:
        return begun, 0
    running: list[float] = []
    ends, waiting, before = log.last_token_s.tolist(), guessed.tolist(), latest.tolist()
    starts, without = begun.tolist(), 0
    for request in np.argsort(begun, kind="stable").tolist():
        while running and running[0] <= starts[request]:
            heapq.heappop(running)
        if len(running) >= slots and waiting[request]:
            free = heapq.heappop(running)
            if free < before[request]:
                starts[request] = free
            else:
                without += 1
                heapq.heappush(running, free)
        heapq.heappush(running, ends[request])
    return np.array(starts), without


def _most_open(begun: Floats, ended: Floats) -> int:
    begins, ends = np.sort(begun), np.sort(ended)
    return int((np.arange(1, begins.size + 1) - np.searchsorted(ends, begins, side="right")).max(initial=0))


def _first_tokens(log: LoggedTimes, scheduled: Floats, engine: Engine) -> Floats:
    """When first tokens came, by the model's seconds of prefill and of decode with as many others as there were."""
    seconds, m, n, cached = engine.seconds, log.input_tokens, log.output_tokens, log.cached_tokens
    beside = _mean_open(scheduled, log.last_token_s)
    prefill_s = seconds.prefill_floor + seconds.per_prefill_token * (m - cached)
    prefill_s = prefill_s + seconds.per_prefill_token2 * (m**2 - cached**2)
    step_s = seconds.floor + seconds.per_sequence * beside + seconds.experts * seconds.distinct_experts(beside)
    step_s = step_s + seconds.per_context * beside * (m + n / 2)
    whole_s = np.maximum(prefill_s + (n - 1) * step_s, np.finfo(float).tiny)
    share = np.clip(prefill_s / whole_s, _LEAST_PREFILL, 1 - _LEAST_PREFILL)
    return np.asarray(scheduled + share * (log.last_token_s - scheduled))


def _mean_open(begun: Floats, ended: Floats) -> Floats:
    """How many requests were open at once, as the mean over each one's time."""
    times = np.concatenate((begun, ended))
    order = np.argsort(times, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    began, end = np.split(place, 2)
    changes = np.ones(order.size)
    changes[end] = -1.0
    lengths = np.diff(times[order])
    summed = np.concatenate(([0.0], np.cumsum(np.cumsum(changes)[:-1] * lengths)))
    taken = np.maximum(ended - begun, np.finfo(float).tiny)
    return np.maximum((summed[end] - summed[began]) / taken, 1.0)
