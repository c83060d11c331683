"""Which request goes to which of several systems: least cost, latency limits, weights, machines that stay on.

Pure. ``cost``, ``energy_j`` and ``runtime_s`` have shape (systems, pairs), per request; ``count`` has shape
(pairs,), the number of requests of each size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats

Choice = NDArray[np.intp]
"""The position of a system for each pair."""
Mask = NDArray[np.bool_]

MIN_POOL = 200
"""Fewest requests from which the costs at an input length are learned when output lengths are unknown."""


def cheapest(cost: Floats, allowed: Mask | None = None) -> Choice:
    """The system of least cost for each pair; −1 where no system is allowed. Of equal ones the first."""
    if allowed is None:
        return np.argmin(cost, axis=0)
    choice = np.argmin(np.where(allowed, cost, np.inf), axis=0)
    return np.where(allowed.any(axis=0), choice, -1)


def served_by(choice: Choice, count: Floats, systems: int) -> Floats:
    """Assignment that gives every request of a pair to its chosen system; −1 is left unserved."""
    requests = np.zeros((systems, count.size))
    served = np.flatnonzero(choice >= 0)
    requests[choice[served], served] = count[served]
    return requests


def serviceable(runtime_s: Floats, latency_limit_s: float | None) -> Mask:
    """Which system serves which pair within the latency objective; all of them without one."""
    return np.asarray(runtime_s <= (np.inf if latency_limit_s is None else latency_limit_s))


@dataclass(frozen=True)
class TradeOff:
    """Totals of least-cost routing for each weight λ."""

    weight: Floats
    energy_j: Floats
    runtime_s: Floats
    share: Floats
    """Share of the requests per system, shape (systems, weights)."""


def weight_sweep(
    energy_j: Floats,
    runtime_s: Floats,
    count: Floats,
    weight: Floats,
    references: tuple[float, float],
    allowed: Mask | None = None,
) -> TradeOff:
    """Route by argmin of λ·E/Ē + (1 − λ)·R/R̄ for many λ at once; ``references`` are (Ē in J, R̄ in s).

    As λ grows from 0 to 1 each system's cost is a straight line, so the cheapest one changes at most systems − 1
    times, each time to a line of lower slope. These changes are found once, O(systems² · pairs), and every λ is
    then a look-up. ``weight`` must ascend within [0, 1]. Where two lines cross, the system listed first serves; the
    totals carry the rounding of sums over all requests. Systems that aren't ``allowed`` to serve a pair don't; a
    pair that none may serve is left out, and shares are those of the others.
    """
    systems, places, pair = energy_j.shape[0], weight.size + 1, np.arange(count.size)
    start = runtime_s / references[1]
    slope = energy_j / references[0] - start
    if allowed is not None:
        start, count = np.where(allowed, start, np.inf), np.where(allowed.any(axis=0), count, 0.0)
    values = np.stack([energy_j, runtime_s, np.ones_like(energy_j)])
    change = np.zeros((systems, 3, places))

    def add(requests: Floats, system: Choice, at: NDArray[np.intp]) -> None:
        """Let each pair's system serve so many more of its requests from the weight ``at`` on."""
        for quantity, amounts in enumerate(requests * values[:, system, pair]):
            change[:, quantity] += np.bincount(system * places + at, amounts, systems * places).reshape(systems, -1)

    serving, at = np.argmin(start, axis=0), np.zeros_like(pair)
    add(count, serving, at)
    crossing = np.zeros(count.size)
    for _ in range(systems - 1):
        follower, crossing = _next_change(start, slope, serving, crossing)
        # One index both ends the old interval and begins the new, and none lies before the last: whatever is
        # rounded, every request is served exactly once.
        keeps = np.searchsorted(weight, crossing, side="right")
        at = np.maximum(at, np.where(serving < follower, keeps, np.searchsorted(weight, crossing, side="left")))
        add(-count, serving, at)
        add(count, follower, at)
        serving = follower
    by_weight = np.cumsum(change[:, :, :-1], axis=2)
    totals = by_weight.sum(axis=0)
    # What fractional counts leave after all of a system's requests have gone may lie a rounding below zero.
    return TradeOff(weight, totals[0], totals[1], np.maximum(by_weight[:, 2], 0) / count.sum())


def _next_change(start: Floats, slope: Floats, serving: Choice, since: Floats) -> tuple[Choice, Floats]:
    """Which system takes over from ``serving`` as λ grows beyond ``since``, and at which λ.

    Where none does, the serving one stays and λ is infinite.
    """
    pair = np.arange(serving.size)
    fall = slope[serving, pair] - slope
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.where(fall > 0, (start - start[serving, pair]) / fall, np.inf)
    crossing = np.maximum(crossing, since)
    first = crossing.min(axis=0)
    # Of several that cross at the same λ the steepest is the cheapest from there on.
    follower = np.argmin(np.where(crossing == first, slope, np.inf), axis=0)
    follower = np.where(np.isfinite(first), follower, serving)
    return follower, first


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


def fleet_energy_j(energy_j: Floats, busy_s: Floats, idle_power_w: Floats, on: Mask, horizon_s: float) -> float:
    """Energy of machines that stay on for ``horizon_s``: marginal energy of the work plus idle power throughout.

    ``energy_j`` (gross, idle included) and ``busy_s`` are totals per system; a system counts while ``on``.
    """
    marginal = energy_j - idle_power_w * busy_s
    return float(np.sum(np.where(on, marginal + idle_power_w * horizon_s, 0.0)))
