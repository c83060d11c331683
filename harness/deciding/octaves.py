"""Where sizes lie in the plane of log2 of input and of output tokens. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats

Indices = NDArray[np.intp]

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
    """Of each size the number of its spot, of which an octave has ``SPOTS_PER_OCTAVE`` along each axis."""
    spot_sizes: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Input and output tokens in the middle of each spot."""

    @classmethod
    def of(cls, input_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64]) -> Octaves:
        """Those of sizes of at least one token."""
        m, n = np.log2(input_tokens), np.log2(output_tokens)
        cell, cells = _numbered(m.astype(np.intp), n.astype(np.intp))
        spot, spots = _numbered(*(np.rint(SPOTS_PER_OCTAVE * axis).astype(np.intp) for axis in (m, n)))
        middle = [np.rint(np.exp2(each / SPOTS_PER_OCTAVE)).astype(np.int64) for each in spots]
        return cls(cell, cells[0].size, spot, (middle[0], middle[1]))

    def by_cell(self, values: Floats) -> Floats:
        """Sums of values, one entry per size, over each cell."""
        return np.asarray(np.bincount(self.cell, values, self.cells))


def _numbered(m: Indices, n: Indices) -> tuple[Indices, tuple[Indices, Indices]]:
    """For each size the number of its (m, n), and of each number both."""
    width = int(n.max()) + 1
    code = m * width + n
    # There are few codes and many sizes: to count them is faster than to sort them.
    present = np.bincount(code) > 0
    number: Indices = np.cumsum(present) - 1
    found = np.flatnonzero(present)
    return number[code], (found // width, found % width)
