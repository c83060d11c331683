"""Points that cost far less than smaller ones, which no cost of the served form can. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.modelling.fit import Observations

FACTOR = 1.5
"""How much more a smaller request must have cost for one of the two to be wrong."""


def contradicted(cycles: Observations) -> NDArray[np.bool_]:
    """Points, found greedily, that cost much less than several that are no larger in m, n and the number in flight, or
    much more than several that are no smaller.

    Such a point, a meter's fault, would bend all others: least squares of relative residuals rather halve all costs
    than triple a wrong one. Of two that contradict each other alone nobody knows which is wrong.
    """
    axes = np.stack([cycles.input_tokens, cycles.asked_tokens, cycles.concurrency])
    smaller = (axes[:, :, None] <= axes[:, None, :]).all(axis=0)
    wrong = smaller & (cycles.cost[:, None] > FACTOR * cycles.cost[None, :])
    wrong |= wrong.T
    found = np.zeros(cycles.cost.size, dtype=bool)
    while wrong.sum(axis=0).max(initial=0) > 1:
        worst = int(np.argmax(wrong.sum(axis=0)))
        found[worst] = True
        wrong[worst] = wrong[:, worst] = False
    return found
