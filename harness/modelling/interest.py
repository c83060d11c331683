"""The sizes that matter to whom a fitted cost serves: a log grid, or the user's own traffic. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.sizes import Point
from harness.modelling.forms.base import Sizes

GRID = 17
"""Sizes an axis of the log grid has."""
_TRIES = 200
_STEP = np.array([0.7548776662466927, 0.5698402909980532])
"""1/g and 1/g² with g³ = g + 1: the plane's analogue of the golden ratio."""


def beside_powers(most: int) -> tuple[int, ...]:
    """Numbers of requests in flight up to ``most``: 1, 2, 4, ``most``, and from 8 on both sides of each power of two.

    There another kernel may take over, so that costs between two powers say nothing of those beyond.
    """
    powers = [1 << exponent for exponent in range(most.bit_length())]
    beyond = [power + 1 for power in powers if power >= 8]
    return tuple(sorted({c for c in (*powers, *beyond, most) if c <= most}))


@dataclass(frozen=True, eq=False)
class Interest:
    """The sizes that matter, each with its weight; one entry per size."""

    m: Floats
    n: Floats
    c: Floats
    weight: Floats
    """Sums to 1."""
    spread: bool
    """Whether sizes are drawn log-uniformly between the least and the largest, or else from the sizes themselves."""
    longest: float = math.inf
    """Most tokens m + n that a request can have."""
    too_large: Callable[[Floats, Floats, Floats], NDArray[np.bool_]] | None = None
    """Which sizes m, n, c can't be measured, as others have failed."""

    @classmethod
    def grid(
        cls,
        inputs: tuple[int, int] = (8, 2048),
        outputs: tuple[int, int] = (8, 1024),
        concurrencies: Sequence[int] = (1,),
        longest: float = math.inf,
    ) -> Interest:
        """A log grid from the first to the last of ``inputs`` and ``outputs`` at each concurrency, equal weights.

        Sizes of more than ``longest`` tokens m + n are left out. Raises UserError where none is left.
        """
        axes = [np.unique(np.round(np.geomspace(*ends, GRID))) for ends in (inputs, outputs)]
        m, n, c = (a.ravel() for a in np.meshgrid(*axes, np.asarray(concurrencies, dtype=float), indexing="ij"))
        return cls._of(m, n, c, np.ones(m.size), True, longest)

    @classmethod
    def traffic(
        cls,
        m: Floats,
        n: Floats,
        weight: Floats,
        concurrencies: Sequence[int] = (1,),
        longest: float = math.inf,
    ) -> Interest:
        """The user's own requests, each size with how often it comes, at each concurrency. Raises UserError."""
        count = len(concurrencies)
        c = np.repeat(np.asarray(concurrencies, dtype=float), len(m))
        return cls._of(np.tile(m, count), np.tile(n, count), c, np.tile(weight, count), False, longest)

    @classmethod
    def _of(cls, m: Floats, n: Floats, c: Floats, weight: Floats, spread: bool, longest: float) -> Interest:
        every = cls(m, n, c, weight, spread, longest)
        kept = every.only((m + n <= longest) & (weight > 0))
        if kept is None:
            raise UserError(f"no size that matters has the {longest:g} tokens of the model's context or fewer")
        return kept

    def only(self, kept: NDArray[np.bool_]) -> Interest | None:
        """These of the sizes; None where there are none."""
        if not kept.any():
            return None
        weight = self.weight[kept] / self.weight[kept].sum()
        return replace(self, m=self.m[kept], n=self.n[kept], c=self.c[kept], weight=weight)

    def without(self, failed: Collection[Point], kv_cache: bool) -> Interest | None:
        """The sizes that don't need at least what a failed one needs; None where there are none.

        With the KV cache the m tokens of the prefill need memory of their own.
        """

        def too_large(m: Floats, n: Floats, c: Floats) -> NDArray[np.bool_]:
            found = np.zeros(np.shape(m), dtype=bool)
            for point in failed:
                longer = (m + n >= point.input_tokens + point.output_tokens) & (c >= point.concurrency)
                found |= longer & (m >= point.input_tokens) if kv_cache else longer
            return found

        kept = self.only(~too_large(self.m, self.n, self.c))
        return kept and replace(kept, too_large=too_large)

    def at(self, concurrency: int) -> Interest:
        """The sizes at one of its concurrencies."""
        found = self.only(self.c == concurrency)
        if found is None:
            raise ValueError(f"nothing matters at {concurrency} in flight")
        return found

    @property
    def levels(self) -> tuple[int, ...]:
        """The concurrencies, ascending."""
        return tuple(int(c) for c in np.unique(self.c))

    @property
    def sizes(self) -> Sizes:
        """m and n of each entry."""
        return Sizes(self.m, self.n)

    def draw(self, seed: int, taken: Collection[Point]) -> Point | None:
        """The next size at random, as likely as it matters, that isn't ``taken``; None where none is found.

        Sizes are drawn in turn from a sequence that fills the plane evenly, shifted at random by the seed: each by
        itself is as likely as any, but few leave a gap (Cranley and Patterson 1976; Roberts 2018 for the sequence).
        """
        shift = np.random.default_rng(seed).uniform(size=2)
        ends = np.log([[axis.min(), axis.max()] for axis in (self.m, self.n)])
        order = np.lexsort((self.m, self.n))
        below = np.cumsum(self.weight[order])
        for turn in range(len(taken) + _TRIES):
            u = (shift + turn * _STEP) % 1.0
            entry = order[min(int(np.searchsorted(below, u[0])), self.m.size - 1)]
            size = np.exp(ends[:, 0] + u * (ends[:, 1] - ends[:, 0])) if self.spread else (self.m[entry], self.n[entry])
            point = Point(round(float(size[0])), round(float(size[1])), int(self.c[entry]))
            if point not in taken and self._can_be_measured(point):
                return point
        return None

    def _can_be_measured(self, point: Point) -> bool:
        m, n, c = (np.array([float(of)]) for of in (point.input_tokens, point.output_tokens, point.concurrency))
        return bool(m[0] + n[0] <= self.longest) and (self.too_large is None or not self.too_large(m, n, c)[0])

    def candidates(self, taken: Collection[Point]) -> list[Point]:
        """Sizes worth a measurement: those of the log grid, or at most as many of the user's, that aren't ``taken``."""
        rows = zip(self.m.tolist(), self.n.tolist(), self.c.tolist(), strict=True)
        points = dict.fromkeys(Point(round(m), round(n), int(c)) for m, n, c in rows)
        free = [point for point in points if point not in taken]
        step = max(1, len(free) // (GRID * GRID))
        return free[::step]
