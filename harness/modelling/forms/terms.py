"""Terms that a cost may have beyond smooth growth: padding up to tiles, slopes that change at a size. Pure.

Each is a function of a number of tokens x, the length of a prefill or the context of a decode step, and never falls:

    tile T    ceil(x / T)·T       work is padded up to whole tiles, as matrix kernels do
    hinge h   max(x − h, 0)       it grows faster beyond h: another kernel, a cache that is full
    cap h     min(x, h)           it grows no further beyond h: a sliding window, a device that is busy at last
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from harness.core.arrays import Floats

Kind = Literal["tile", "hinge", "cap"]
_WRITTEN = re.compile(r"(tile|hinge|cap) ([1-9][0-9]{0,7})( decode)?")


@dataclass(frozen=True)
class Term:
    """One function of a number of tokens, with a coefficient in cost per token."""

    kind: Kind
    tokens: int
    decode: bool = False
    """Whether x is the context of a decode step, or else the length of a forward pass."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """A term from ``str`` of it, such as ``tile 64`` or ``hinge 512 decode``. Raises ValueError."""
        read = _WRITTEN.fullmatch(text)
        if read is None:
            raise ValueError(f"'{text}' is no term of a cost; one is written as tile 64 or hinge 512 decode")
        return cls(read[1], int(read[2]), read[3] is not None)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.kind} {self.tokens}{' decode' if self.decode else ''}"

    def values(self, x: Floats) -> Floats:
        """The function at each x of 0 or more."""
        if self.kind == "tile":
            return np.asarray(np.ceil(x / self.tokens) * self.tokens)
        return np.asarray(np.maximum(x - self.tokens, 0) if self.kind == "hinge" else np.minimum(x, self.tokens))

    def computed(self, x: Floats, cached: Floats) -> Floats:
        """What a forward pass over the last of x tokens adds where the first are ``cached``.

        Tiles pad the pass, which has x − cached tokens. Hinges and caps are of positions.
        """
        return self.values(x - cached) if self.kind == "tile" else self.values(x) - self.values(cached)

    def sums(self, t: Floats) -> Floats:
        """Σ of the function over whole x from 0 to below each t, in closed form; a last step that is a fraction counts
        by it."""
        whole = np.floor(t)
        last = np.maximum(whole - 1, 0)
        if self.kind == "tile":
            tiles = np.floor(last / self.tokens)
            rest = last - tiles * self.tokens
            total = self.tokens * (self.tokens * tiles * (tiles + 1) / 2 + (tiles + 1) * rest)
        else:
            over = np.maximum(last - self.tokens, 0)
            beyond = over * (over + 1) / 2
            total = beyond if self.kind == "hinge" else last * (last + 1) / 2 - beyond
        return np.asarray(total + (t - whole) * self.values(whole))

    @property
    def formula(self) -> str:
        """The function of x for people."""
        if self.kind == "tile":
            return f"{self.tokens}·ceil(x/{self.tokens})"
        return f"max(x − {self.tokens}, 0)" if self.kind == "hinge" else f"min(x, {self.tokens})"


TILES = (64, 128, 256)
KNOTS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Where a slope may change."""


def library(decode: bool) -> list[Term]:
    """Every term that is tried, of prefill or of decode steps."""
    bends = [Term(kind, knot, decode) for knot in KNOTS for kind in ("hinge", "cap")]
    return bends if decode else [*(Term("tile", tokens) for tokens in TILES), *bends]
