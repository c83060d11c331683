"""Where labels go, so that none lies on another. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.arrays import Floats


def push_apart(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> Floats:
    """Centres for labels of the given heights as near to the ``wanted`` ones as they fit between ``low`` and ``high``.

    All in one unit. The sum of squared shifts is the smallest one without overlap (isotonic regression by pooling
    neighbours). Labels that are higher together than the room run over its upper end.
    """
    order = np.argsort(np.asarray(wanted, dtype=float), kind="stable")
    height = np.asarray(heights, dtype=float)[order]
    # Without the room that the labels below need, labels that just touch are equal.
    below = np.append(0.0, np.cumsum((height[1:] + height[:-1]) / 2)) if height.size else height
    pools: list[tuple[float, int]] = []
    for value in np.asarray(wanted, dtype=float)[order] - below:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, count), (before, more) = pools.pop(), pools.pop()
            pools.append(((mean * count + before * more) / (count + more), count + more))
    pooled = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    centres = np.empty(len(order))
    if centres.size:
        first, last = low + height[0] / 2, high - below[-1] - height[-1] / 2
        centres[order] = np.clip(pooled, first, max(first, last)) + below
    return centres
