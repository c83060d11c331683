"""Which requests go to the small system: exact best thresholds on one key.

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
