"""Which request goes to which of several systems: least cost, latency limits, weights, machines that stay on.

Pure. ``cost``, ``energy_j`` and ``runtime_s`` have shape (systems, pairs), per request; ``count`` has shape
(pairs,), the number of requests of each size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_POOL = 200
"""Fewest requests from which the costs at an input length are learned when output lengths are unknown."""


def cheapest(cost: Floats, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.intp]:
    """The system of least cost for each pair; −1 where no system is allowed. Of equal ones the first."""
    if allowed is None:
        return np.argmin(cost, axis=0)
    choice = np.argmin(np.where(allowed, cost, np.inf), axis=0)
    return np.where(allowed.any(axis=0), choice, -1)


def served_by(choice: NDArray[np.intp], count: Floats, systems: int) -> Floats:
    """Assignment that gives every request of a pair to its chosen system; −1 is left unserved."""
    requests = np.zeros((systems, count.size))
    served = np.flatnonzero(choice >= 0)
    requests[choice[served], served] = count[served]
    return requests


def serviceable(runtime_s: Floats, latency_limit_s: float | None) -> NDArray[np.bool_]:
    """Which system serves which pair within the latency objective; all of them without one."""
    if latency_limit_s is None:
        return np.ones(runtime_s.shape, dtype=np.bool_)
    return np.asarray(runtime_s <= latency_limit_s)


@dataclass(frozen=True)
class Sweep:
    """Totals of least-cost routing for each weight λ."""

    weight: Floats
    energy_j: Floats
    runtime_s: Floats
    share: Floats
    """Share of the requests per system, shape (systems, weights)."""


def weight_sweep(
    energy_j: Floats, runtime_s: Floats, count: Floats, weight: Floats, references: tuple[float, float]
) -> Sweep:
    """Route by argmin of λ·E/Ē + (1 − λ)·R/R̄ for many λ at once; ``references`` are (Ē in J, R̄ in s).

    As λ grows from 0 to 1 each system's cost is a straight line, so it is the cheapest on one interval of λ: the
    intervals are found once, O(systems² · pairs), and every λ is then a look-up. ``weight`` must ascend.
    """
    systems, points = energy_j.shape[0], weight.size
    start = runtime_s / references[1]
    slope = energy_j / references[0] - start
    by_weight = np.zeros((systems, 3, points))
    for s in range(systems):
        first, last = _cheapest_interval(start, slope, s)
        begin = np.searchsorted(weight, first, side="left")
        # Ties at an interval's end go to the system listed first, like an argmin.
        end = np.searchsorted(weight, last, side="right")
        live = end > begin
        for row, values in enumerate((energy_j[s], runtime_s[s], np.ones(count.size))):
            amount = (count * values)[live]
            change = np.bincount(begin[live], amount, points + 1) - np.bincount(end[live], amount, points + 1)
            by_weight[s, row] = np.cumsum(change)[:points]
    totals = by_weight.sum(axis=0)
    return Sweep(weight, totals[0], totals[1], by_weight[:, 2] / count.sum())


def _cheapest_interval(start: Floats, slope: Floats, system: int) -> tuple[Floats, Floats]:
    """The λ from which and up to which a system's line is the lowest; empty (first > last) where it never is.

    Where lines cross, the lower-numbered system keeps the point of crossing.
    """
    first, last = np.full(start.shape[1], -np.inf), np.full(start.shape[1], np.inf)
    for other in range(start.shape[0]):
        if other == system:
            continue
        rise, gap = slope[system] - slope[other], start[other] - start[system]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = gap / rise
        up, down, level = rise > 0, rise < 0, rise == 0
        closed = system < other
        last[up] = np.minimum(last[up], crossing[up] if closed else np.nextafter(crossing[up], -np.inf))
        first[down] = np.maximum(first[down], crossing[down] if closed else np.nextafter(crossing[down], np.inf))
        never = level & ((gap < 0) | ((gap == 0) & (not closed)))
        last[never] = -np.inf
    return first, last


def pools(requests: Floats) -> NDArray[np.intp]:
    """Neighbouring lengths whose requests are taken together to learn from; the pool of each length.

    ``requests`` has one entry per length, ascending. A pool is closed as soon as it holds max(200, √requests)
    of them, so that its mean is known and the number of pools grows with what there is to learn from; what is
    left at the end joins the last one.
    """
    total = float(requests.sum())
    enough = max(MIN_POOL, total**0.5)
    pool = np.zeros(requests.size, dtype=np.intp)
    held, number = 0.0, 0
    for i, count in enumerate(requests):
        pool[i] = number
        held += count
        total -= count
        if held >= enough and total >= enough:
            held, number = 0.0, number + 1
    return pool


def fleet_energy_j(
    energy_j: Floats, busy_s: Floats, idle_power_w: Floats, on: NDArray[np.bool_], horizon_s: float
) -> float:
    """Energy of machines that stay on for ``horizon_s``: marginal energy of the work plus idle power throughout.

    ``energy_j`` (gross, idle included) and ``busy_s`` are totals per system; a system counts while ``on``.
    """
    marginal = energy_j - idle_power_w * busy_s
    return float(np.sum(np.where(on, marginal + idle_power_w * horizon_s, 0.0)))
