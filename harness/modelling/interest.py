"""The sizes that matter to whom a fitted cost serves: a log grid, or the user's own traffic. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
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

    def draw(self, rng: np.random.Generator, taken: Collection[Point]) -> Point | None:
        """A size at random, as likely as it matters, that isn't ``taken``; None where none is found."""
        for _ in range(_TRIES):
            entry = int(rng.choice(self.m.size, p=self.weight))
            size = (self.m[entry], self.n[entry])
            if self.spread:
                ends = ((axis.min(), axis.max()) for axis in (self.m, self.n))
                size = tuple(np.exp(rng.uniform(*np.log(pair))) for pair in ends)
            point = Point(round(float(size[0])), round(float(size[1])), int(self.c[entry]))
            if point not in taken and size[0] + size[1] <= self.longest:
                return point
        return None

    def candidates(self, taken: Collection[Point]) -> list[Point]:
        """Sizes worth a measurement: those of the log grid, or at most as many of the user's, that aren't ``taken``."""
        rows = zip(self.m.tolist(), self.n.tolist(), self.c.tolist(), strict=True)
        points = dict.fromkeys(Point(round(m), round(n), int(c)) for m, n, c in rows)
        free = [point for point in points if point not in taken]
        step = max(1, len(free) // (GRID * GRID))
        return free[::step]
