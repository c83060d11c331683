"""Where sizes lie in the plane of log2 of input and of output tokens. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats

Indices = NDArray[np.intp]
Tokens = NDArray[np.int64]

SPOTS_PER_OCTAVE = 16
"""What changes slowly with the size is worked out for spots of this size, which are known to a thirtieth of an octave;
sizes below 16 tokens each have one of their own."""


@dataclass(frozen=True)
class Octaves:
    """Cells and spots of some sizes."""

    cell: Indices
    """Of each size the number of its cell: the octave of m joined with the octave of n."""
    cells: int
    spot: Indices
    """Of each size the number of its spot, of which an octave has ``SPOTS_PER_OCTAVE`` along each axis; where prompts
    are cached, what is computed of them is a third axis."""
    spot_sizes: tuple[Tokens, Tokens]
    """Input and output tokens in the middle of each spot."""
    spot_cached: Tokens | None = None
    """Cached tokens in the middle of each spot; None where nothing is cached."""

    @classmethod
    def of(cls, input_tokens: Tokens, output_tokens: Tokens, computed_tokens: Tokens | None = None) -> Octaves:
        """Those of sizes of at least one token; ``computed_tokens`` are those of the input that aren't cached."""
        m, n = np.log2(input_tokens), np.log2(output_tokens)
        cell, cells = _numbered(m.astype(np.intp), n.astype(np.intp))
        spot, spots = _numbered(_spots(m), _spots(n))
        if computed_tokens is None:
            middle = [_middle(each) for each in spots]
            return cls(cell, cells[0].size, spot, (middle[0], middle[1]))
        spot, (plain, computed) = _numbered(spot, _spots(np.log2(computed_tokens)))
        middle = [_middle(each[plain]) for each in spots]
        return cls(cell, cells[0].size, spot, (middle[0], middle[1]), middle[0] - _middle(computed))

    def by_cell(self, values: Floats) -> Floats:
        """Sums of values, one entry per size, over each cell."""
        return np.asarray(np.bincount(self.cell, values, self.cells))


def _spots(octaves: Floats) -> Indices:
    return np.rint(SPOTS_PER_OCTAVE * octaves).astype(np.intp)


def _middle(spots: Indices) -> Tokens:
    return np.rint(np.exp2(spots / SPOTS_PER_OCTAVE)).astype(np.int64)


def _numbered(m: Indices, n: Indices) -> tuple[Indices, tuple[Indices, Indices]]:
    """For each size the number of its (m, n), and of each number both."""
    width = int(n.max()) + 1
    code = m * width + n
    # There are few codes and many sizes: to count them is faster than to sort them.
    present = np.bincount(code) > 0
    number: Indices = np.cumsum(present) - 1
    found = np.flatnonzero(present)
    return number[code], (found // width, found % width)
