"""Random tokens, cut beforehand into the batches that ``llama_decode`` takes, so that a run only feeds them.

One sequence is fed as llama-bench does, with positions that llama.cpp counts itself. Several are fed as
llama-batched-bench does, each token with its position and its sequence. Their tokens lie in the order of positions:
those of all sequences at position 0, at position 1, and so on, so that the tokens up to a position, and those at it,
are one stretch of memory.
"""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass
from typing import Any

from backends.base import Request
from backends.llama_cpp import library

BATCH_TOKENS = 2048
"""Most tokens that one ``llama_decode`` takes."""


@dataclass(frozen=True)
class Batches:
    """The batches of one request. They point into ``arrays``, which therefore must live as long."""

    prefill: list[Any]
    steps: list[list[Any]]
    """Batches of each of the n − 1 decode steps."""
    arrays: tuple[Any, ...]
    """C arrays; the first is that of the c · (m + n − 1) tokens."""


def draw(request: Request, vocabulary_size: int, cached: bool) -> Batches:
    """Batches for a request whose tokens come from its seed, each sequence's after those of the one before.

    Without a cache each step feeds the sequences again from their first token on.
    """
    m, n = request.input_tokens, request.output_tokens
    generator, positions = random.Random(request.seed), m + n - 1
    rows = [generator.choices(range(vocabulary_size), k=positions) for _ in range(request.concurrency)]
    feed = _OneSequence(rows[0]) if len(rows) == 1 else _Sequences(rows)
    steps = [feed.batches(m + k if cached else 0, m + k + 1) for k in range(n - 1)]
    return Batches(feed.batches(0, m), steps, feed.arrays)


class _OneSequence:
    def __init__(self, ids: list[int]) -> None:
        self._tokens = _array(library.library().llama_token, ids)
        self.arrays = (self._tokens,)

    def batches(self, first: int, end: int) -> list[Any]:
        """Batches that feed positions ``first`` to ``end`` − 1; logits come out for the last token of each."""
        llama = library.library()
        return [
            llama.llama_batch_get_one(_at(self._tokens, begin), min(BATCH_TOKENS, end - begin))
            for begin in range(first, end, BATCH_TOKENS)
        ]


class _Sequences:
    """Sequences of one length, numbered from 0; ``rows`` has the token ids of each."""

    def __init__(self, rows: list[list[int]]) -> None:
        llama, count, positions = library.library(), len(rows), len(rows[0])
        total = count * positions
        numbers = _array(llama.llama_seq_id, range(count))
        number = ctypes.POINTER(llama.llama_seq_id)
        self._count = count
        self._tokens = _array(llama.llama_token, [ids[position] for position in range(positions) for ids in rows])
        self._positions = _array(llama.llama_pos, [position for position in range(positions) for _ in rows])
        self._one_each = _array(ctypes.c_int32, [1] * total)
        self._sequences = _array(number, [_at(numbers, i) for i in range(count)] * positions)
        # Whether logits are wanted of a token: of the last ``count`` that are fed, so that it is read up to its end.
        self._outputs = _array(ctypes.c_int8, [0] * (total - count) + [1] * count)
        self.arrays = (self._tokens, self._positions, self._one_each, numbers, self._sequences, self._outputs)

    def batches(self, first: int, end: int) -> list[Any]:
        """Batches that feed positions ``first`` to ``end`` − 1 of all sequences; logits come out for the last."""
        llama, count = library.library(), self._count
        skipped = len(self._outputs) - end * count
        return [
            llama.llama_batch(
                min(BATCH_TOKENS, end * count - begin),
                _at(self._tokens, begin),
                None,
                _at(self._positions, begin),
                _at(self._one_each, begin),
                _at(self._sequences, begin),
                _at(self._outputs, skipped + begin),
            )
            for begin in range(first * count, end * count, BATCH_TOKENS)
        ]


def _array(kind: Any, values: Any) -> Any:
    return (kind * len(values))(*values)


def _at(array: Any, index: int) -> Any:
    """A pointer to an element of a C array."""
    kind = array._type_
    return ctypes.cast(ctypes.addressof(array) + index * ctypes.sizeof(kind), ctypes.POINTER(kind))
