"""Which requests go to the small system: exact best thresholds on one key, with their uncertainty.

Costs follow Wilkins, Keshav and Mortier (2024): U = λE + (1 − λ)R. A threshold T on a key (input, output, total
or product of tokens) sends a request to the small system when key ≤ T and to the large one otherwise:

    total(T) = Σ_q cost_small(q)·[key_q ≤ T] + cost_large(q)·[key_q > T]

Sorting the distinct keys and one prefix sum give the total at every T that makes a difference. In arrays with a
system axis, 0 is the small and 1 the large system.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding.scales import Scales


def request_key(name: str, input_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number that a threshold is compared with. Raises UserError for an unknown name."""
    total, product = input_tokens + output_tokens, input_tokens * output_tokens
    keys = {"input": input_tokens, "output": output_tokens, "total": total, "product": product}
    if name not in keys:
        raise UserError(f"unknown key {name}; use input, output, total or product")
    return keys[name]


@dataclass(frozen=True)
class KeyTotals:
    """Totals over the requests that share a key. ``energy_j`` and ``runtime_s`` have shape (…, 2, keys)."""

    key: NDArray[np.int64]
    """Distinct keys, ascending."""
    count: Floats
    energy_j: Floats
    runtime_s: Floats

    @cached_property
    def curve(self) -> Curve:
        """Totals at every threshold, by one prefix sum over the sorted keys: exact, O(keys). Kept for more scales."""
        thresholds = np.append(0, self.key)
        small_share = np.append(0.0, np.cumsum(self.count)) / self.count.sum()
        return Curve(thresholds, _split_totals(self.energy_j), _split_totals(self.runtime_s), small_share)


def totals_by_key(key: NDArray[np.int64], count: Floats, energy_j: Floats, runtime_s: Floats) -> KeyTotals:
    """Sum weighted per-request costs of shape (2, pairs) over pairs with equal keys."""
    distinct, group = np.unique(key, return_inverse=True)
    per_request = (1.0, *energy_j, *runtime_s)
    totals = np.array([np.bincount(group, count * each, distinct.size) for each in per_request], dtype=np.float64)
    return KeyTotals(distinct, totals[0], totals[1:3], totals[3:])


@dataclass(frozen=True)
class Curve:
    """Totals of the whole workload at every threshold that makes a difference.

    ``threshold[0]`` is 0 (everything to the large system); the others are the distinct keys. Totals have shape
    (…, thresholds).
    """

    threshold: NDArray[np.int64]
    energy_j: Floats
    runtime_s: Floats
    small_share: Floats
    """Share of the requests that go to the small system."""

    def best(self, scales: Scales) -> int:
        """Index of the smallest total cost; of equal ones the lowest threshold."""
        return int(np.argmin(scales.cost(self.energy_j, self.runtime_s)))


def _split_totals(by_key: Floats) -> Floats:
    """Small system's prefix plus large system's remainder: (…, 2, keys) → (…, keys + 1)."""
    small, large = by_key[..., 0, :], by_key[..., 1, :]
    moved = np.insert(np.cumsum(small - large, axis=-1), 0, 0.0, axis=-1)
    return large.sum(axis=-1, keepdims=True) + moved


def coarsen(totals: KeyTotals, groups: int, boundary: int) -> tuple[KeyTotals, NDArray[np.intp]]:
    """Merge neighbouring keys into about ``groups`` groups of similar numbers of requests.

    Each group is named by its largest key; none reaches across ``boundary``. Returns the merged totals and, for
    each original key, its group.
    """
    if totals.key.size <= groups:
        return totals, np.arange(totals.key.size)
    middle = np.cumsum(totals.count) - totals.count / 2
    quantile = np.floor(middle / totals.count.sum() * groups)
    _, group = np.unique(2 * quantile + (totals.key > boundary), return_inverse=True)
    first = np.flatnonzero(np.diff(group, prepend=-1))
    last = np.append(first[1:], group.size) - 1
    sums = [np.add.reduceat(a, first, axis=-1) for a in (totals.count, totals.energy_j, totals.runtime_s)]
    return KeyTotals(totals.key[last], *sums), group


@dataclass(frozen=True)
class Interval:
    """A value with a 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Uncertainty:
    """What the draws say about one chosen threshold."""

    threshold_low: int
    threshold_high: int
    """95 % interval of the best threshold."""
    plateau_low: int
    plateau_high: int
    """Thresholds around the chosen one whose cost can't be told from its cost."""
    saving: Interval
    """Energy saved against the large system alone, as a fraction of it."""
    cost_saving: Interval
    """The same of the cost, which is what the threshold minimises."""
    runtime_ratio: Interval
    """Total runtime divided by that of the large system alone."""


def uncertainty(totals: KeyTotals, draws: KeyTotals, chosen: int, scales: Scales) -> Uncertainty:
    """Intervals of what the threshold ``chosen`` does, from draws of the totals, shape (draws, 2, keys).

    A threshold belongs to the plateau while the 95 % interval of its cost minus the chosen one's reaches 0. The saving
    is that of ``chosen`` on the workload it was chosen on, so it is a little optimistic: one number was fitted. Check a
    narrow saving on another trace. ``chosen`` must be 0 or one of the keys.
    """
    estimate, curve = totals.curve, draws.curve
    exact_cost, cost = (scales.cost(c.energy_j, c.runtime_s) for c in (estimate, curve))
    at = int(np.searchsorted(curve.threshold, chosen))
    drawn_best = curve.threshold[np.argmin(cost, axis=-1)]
    best_low, best_high = np.percentile(drawn_best, [2.5, 97.5], method="nearest").astype(int).tolist()
    equal = np.percentile(cost - cost[:, [at]], 2.5, axis=0) <= 0
    unequal = np.flatnonzero(~equal)
    # The unbroken run of equal ones around the chosen one lies between the nearest two that aren't.
    before, after = unequal[unequal < at], unequal[unequal > at]
    run = [before[-1] + 1 if before.size else 0, after[0] - 1 if after.size else equal.size - 1]
    plateau_low, plateau_high = curve.threshold[run].tolist()
    totals_and_draws = (estimate.energy_j, curve.energy_j), (exact_cost, cost), (estimate.runtime_s, curve.runtime_s)
    energy, relative_cost, runtime = (
        (float(exact[at] / exact[0]), drawn[:, at] / drawn[:, 0]) for exact, drawn in totals_and_draws
    )
    saving, cost_saving = (estimated_evenly(1 - ratio, 1 - drawn) for ratio, drawn in (energy, relative_cost))
    return Uncertainty(best_low, best_high, plateau_low, plateau_high, saving, cost_saving, estimated(*runtime))


def estimated(value: float, draws: Floats) -> Interval:
    """A value with the 2.5 % and 97.5 % quantiles of its draws."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, min(float(low), value), max(float(high), value))


def estimated_evenly(value: float, draws: Floats) -> Interval:
    """A value ± the distance from it that 95 % of its draws keep within."""
    half = float(np.percentile(np.abs(draws - value), 95))
    return Interval(value, value - half, value + half)


def draw_totals(
    totals: KeyTotals, energy_shift: Floats, runtime_shift: Floats, second_moments: Floats, rng: np.random.Generator
) -> KeyTotals:
    """Draws of the totals under both uncertainties, shape (draws, 2, keys).

    ``energy_shift`` and ``runtime_shift``, shape (draws, 2, keys), are what drawn model coefficients add to the
    totals. Resampling the workload is a Poisson bootstrap: the number of requests of each size varies as a
    Poisson count, so that the four totals of a key (energy and runtime, small and large) vary with covariance
    Σ count·c·cᵀ over its pairs, which is ``second_moments``, shape (keys, 4, 4); drawn as a normal variate.
    """
    values, vectors = np.linalg.eigh(second_moments)
    root = vectors * np.sqrt(np.clip(values, 0, None))[:, None, :]
    noise = np.einsum("kij,dkj->dik", root, rng.standard_normal((energy_shift.shape[0], totals.key.size, 4)))
    return KeyTotals(
        totals.key,
        totals.count,
        totals.energy_j + energy_shift + noise[:, :2],
        totals.runtime_s + runtime_shift + noise[:, 2:],
    )


def second_moments(group: NDArray[np.int64], groups: int, count: Floats, costs: Floats) -> Floats:
    """Σ count·c·cᵀ by group for per-request costs of shape (4, pairs): shape (groups, 4, 4)."""
    moments = np.empty((groups, 4, 4))
    for i, j in zip(*np.triu_indices(4), strict=True):
        moments[:, i, j] = moments[:, j, i] = np.bincount(group, count * costs[i] * costs[j], groups)
    return moments
