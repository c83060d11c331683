"""Equations of an engine's step costs from the times in a log of its requests. Pure.

From first to last token a request takes n − 1 steps, in which others decode and prefill beside it:

    last − first = Σ_steps (a + s·b + d1·Σ contexts) + w1·Σ p + w2·Σ (v² − u²)

From scheduled to first token it takes the steps of its prompt, and where the engine schedules one step ahead the step
under way then. How many steps fall between two times of the log follows from step costs, scaled so that each request
has its n − 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.modelling.served.request_log import RequestLog

COEFFICIENTS: Final = (
    "floor",
    "per_sequence",
    "per_context",
    "prefill_floor",
    "per_prefill_token",
    "per_prefill_token2",
)
"""Of ``StepCosts``, in the order of the columns."""
MOST_PREFILL: Final = 0.95
"""Of a stretch of time that holds decoding too: the share that prefill may take by the costs of a round."""
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Equations:
    """design·coefficients = value, of decoding and of prompts."""

    design: Floats
    value: Floats
    of_decoding: NDArray[np.bool_]


@dataclass(frozen=True)
class StepRows:
    """The requests of a log that are fitted, and all that were in the engine beside them, these first."""

    fitted: RequestLog
    present: RequestLog
    chunk: int = 2048
    lag: int = 0
    """Steps that a prompt waits after it was scheduled."""
    kept: NDArray[np.bool_] | None = None
    """Which of ``fitted`` count; None for all."""

    def with_passes(self, chunk: int, lag: int) -> StepRows:
        """With this chunk size and lag of prompts."""
        return replace(self, chunk=chunk, lag=lag)

    def without(self, fold: int, folds: int) -> StepRows:
        """Without one of ``folds`` stretches of the fitted requests."""
        return replace(self, kept=np.arange(len(self.fitted)) * folds // len(self.fitted) != fold)

    @cached_property
    def _edges(self) -> Floats:
        times = (self.present.scheduled_s, self.present.first_token_s, self.present.last_token_s)
        return np.unique(np.concatenate(times))

    @cached_property
    def _length(self) -> Floats:
        """Of each stretch between two times of the log, in s."""
        return np.diff(self._edges)

    @cached_property
    def _places(self) -> tuple[Places, Places, Places]:
        """At which edge each request was scheduled and had its first and last token."""
        log = self.present
        begun, first, last = (
            np.searchsorted(self._edges, t) for t in (log.scheduled_s, log.first_token_s, log.last_token_s)
        )
        return begun, first, last

    @cached_property
    def _decoding(self) -> Floats:
        """Requests between first and last token in each stretch."""
        _, first, last = self._places
        return self._sum_over(first, last, np.ones(len(self.present)))

    @cached_property
    def _prompts(self) -> tuple[Floats, Floats]:
        """Prompt tokens and squares per second in each stretch, spread evenly from scheduled to first token."""
        begun, first, _ = self._places
        spent = np.maximum(self.present.first_token_s - self.present.scheduled_s, 1e-9)
        tokens = self.present.input_tokens
        return self._sum_over(begun, first, tokens / spent), self._sum_over(begun, first, tokens**2 / spent)

    def _sum_over(self, start: Places, end: Places, value: Floats) -> Floats:
        """Of each stretch, the sum of the values of the requests that are in it from ``start`` to ``end``."""
        size = len(self._edges)
        # Requests that begin and end at one edge are in no stretch.
        return np.cumsum(np.bincount(start, value, size) - np.bincount(end, value, size))[:-1]

    def first_steps(self) -> Floats:
        """Steps in each stretch, by the mean speed of the requests that decode in it."""
        _, first, last = self._places
        speed = np.nan_to_num(1 / self.present.tpot_s, posinf=0.0)
        return self._length * self._sum_over(first, last, speed) / np.maximum(self._decoding, 1)

    def _running(self, steps: Floats) -> tuple[Floats, Floats]:
        """Sequences between first and last token in each stretch, and Σ of their contexts in its middle."""
        _, first, last = self._places
        done = np.concatenate([[0.0], np.cumsum(steps)])
        base = self._sum_over(first, last, self.present.input_tokens - done[first])
        contexts = base + self._decoding * (done[:-1] + done[1:]) / 2
        return self._decoding, contexts

    def steps(self, theta: Floats, steps: Floats) -> Floats:
        """Steps in each stretch as the coefficients have it, with contexts by the last round's steps."""
        floor, sequence, context, _, token, token2 = theta
        decoding, contexts = self._running(steps)
        step = floor + sequence * decoding + context * contexts
        prefill = token * self._prompts[0] + token2 * self._prompts[1]
        free = self._length * (1 - np.minimum(prefill, MOST_PREFILL))
        return np.where(decoding > 0, free / np.maximum(step, 1e-9), 0.0)

    def _passes(self, decoding: Floats) -> tuple[Floats, Floats, Floats]:
        """Of each request: how many decode beside its prompt, whether any does, and how many steps its prompt takes."""
        begun, first, _ = self._places
        seconds = np.maximum(self.present.first_token_s - self.present.scheduled_s, 1e-12)
        beside = _between(self._length * decoding, begun, first) / seconds
        busy = np.minimum(beside, 1.0)
        passes = np.ceil(self.present.input_tokens / np.maximum(self.chunk - beside, 1)) + self.lag * busy
        return beside, busy, passes

    def work(self, steps: Floats, edges_s: Floats) -> Floats:
        """How often each coefficient was paid between ``edges_s``: shape (edges − 1, coefficients)."""
        begun, first, _ = self._places
        decoding, contexts = self._running(steps)
        tokens, squares = (rate * self._length for rate in self._prompts)
        _, busy, passes = self._passes(decoding)
        spent = np.maximum(self.present.first_token_s - self.present.scheduled_s, 1e-9)
        lone = self._sum_over(begun, first, passes * (1 - busy) / spent) * self._length
        parts = np.stack([steps, steps * decoding, steps * contexts, lone, tokens, squares], axis=1)
        done = np.vstack([np.zeros(parts.shape[1]), np.cumsum(parts, axis=0)])
        until = np.stack([np.interp(edges_s, self._edges, column) for column in done.T], axis=1)
        return np.diff(until, axis=0)

    def equations(self, steps: Floats) -> Equations:
        """The rows that count, with ``steps`` in each stretch."""
        log, count = self.fitted, len(self.fitted)
        begun, first, last = (at[:count] for at in self._places)
        decoding, contexts = self._running(steps)
        tokens, squares = (rate * self._length for rate in self._prompts)
        none = np.zeros(count)
        due = log.output_tokens - 1
        scale = due / np.maximum(_between(steps, first, last), 1e-12)
        decode = [
            due,
            scale * _between(steps * decoding, first, last),
            scale * _between(steps * contexts, first, last),
            none,
            _between(tokens, first, last),
            _between(squares, first, last),
        ]
        spent = log.first_token_s - log.scheduled_s
        seconds = np.maximum(spent, 1e-12)
        beside, busy, passes = (values[:count] for values in self._passes(decoding))
        prefill = [
            passes * busy,
            passes * beside,
            passes * _between(self._length * contexts, begun, first) / seconds,
            passes * (1 - busy),
            _between(tokens, begun, first),
            _between(squares, begun, first),
        ]
        kept = np.ones(count, dtype=bool) if self.kept is None else self.kept
        rows = kept & (due > 0) & (log.last_token_s > log.first_token_s), kept & (spent > 0)
        return Equations(
            np.vstack([np.stack(part, axis=1)[chosen] for part, chosen in zip((decode, prefill), rows, strict=True)]),
            np.concatenate([(log.last_token_s - log.first_token_s)[rows[0]], spent[rows[1]]]),
            np.repeat([True, False], [int(rows[0].sum()), int(rows[1].sum())]),
        )


def _between(values: Floats, start: Places, end: Places) -> Floats:
    """Of each request, the sum of a stretch's values from ``start`` to ``end``."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(sums[end] - sums[start])
