"""Forms of the cost of a request, in seconds or joules, as a function of its size. Pure.

A request of m input and n output tokens costs

    cost(m, n) = P(m) + Σ_{k=1}^{n−1} D(m + k)

P is prefill, which yields the first output token, and D is one decode step at the given context. Without a KV
cache every step reads the whole sequence again and D = P.

Every form here is homogeneous of degree one in its coefficients, so that its derivatives with respect to them
(``design``), multiplied by them, are the cost itself (Euler).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Part = Literal["request", "prefill", "decode"]

ROOFLINES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
"""Exponents tried for the roofline joint: from a plain sum to nearly a maximum."""


DENSE_CONTEXTS = 64
LATTICE_RATIO = 1.02
"""Spacing of contexts at which a roofline is evaluated beyond the first ones; cubic interpolation between them is
good to 1e-6 even for the sharpest roofline."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """Request sizes of one entry per request, with what sums over their decode steps need, computed once.

    Token counts may be fractional: means over trials that stopped at different n.
    """

    m: Array
    n: Array

    @cached_property
    def step_sums(self) -> Array:
        """Σ over decode contexts x of 1, x and x², in closed form: shape (requests, 3)."""
        return _power_sums(self.m + self.n) - _power_sums(self.m + 1)

    @cached_property
    def steps(self) -> tuple[Array, Array]:
        """``contexts`` and ``weights`` (requests, contexts) with Σ f(x) = weights @ f(contexts) for a smooth f."""
        longest = int(np.ceil(np.max(self.m + self.n, initial=1.0)))
        contexts = _lattice(longest)
        pairs = zip(self.m + 1, self.m + self.n, strict=True)
        return contexts, np.array([_sum_weights(contexts, first, last) for first, last in pairs])


class Form(Protocol):
    """A family of cost functions. Implementations hold its fixed choices, never its coefficients."""

    @property
    def name(self) -> str:
        """``phase`` or ``bilinear``."""
        ...

    @property
    def non_negative(self) -> bool:
        """Whether coefficients below 0 are ruled out."""
        ...

    def coefficients(self, unit: str) -> list[tuple[str, str]]:
        """Name and unit of each coefficient, for a cost in ``unit`` (``s`` or ``J``)."""
        ...

    def design(self, theta: Array, sizes: Sizes, part: Part = "request") -> Array:
        """Derivatives of the cost with respect to the coefficients at ``theta``: shape (requests, coefficients)."""
        ...


@dataclass(frozen=True)
class Phase:
    """Prefill and decode steps, each of non-negative parts.

    P(x) = (c0^p + (c1·x + c2·x²)^p)^(1/p): a launch floor c0 joined to the work by a roofline of exponent p; p = 1
    is their sum, large p their maximum. With the KV cache D(x) = d0 + d1·x, without it D = P.
    """

    kv_cache: bool
    roofline: float = 1.0

    name = "phase"
    non_negative = True

    def coefficients(self, unit: str) -> list[tuple[str, str]]:
        """``prefill_floor``, ``prefill_linear``, … with the unit in the name."""
        suffix = unit.lower()
        names = [
            (f"prefill_floor_{suffix}", unit),
            (f"prefill_linear_{suffix}_per_token", f"{unit}/token"),
            (f"prefill_quadratic_{suffix}_per_token2", f"{unit}/token²"),
        ]
        if self.kv_cache:
            names += [(f"decode_floor_{suffix}", unit), (f"decode_linear_{suffix}_per_token", f"{unit}/token")]
        return names

    def design(self, theta: Array, sizes: Sizes, part: Part = "request") -> Array:
        """See ``Form.design``."""
        prefill = self._prefill(theta, sizes.m)
        if part == "prefill":
            return prefill
        if self.kv_cache:
            decode = np.zeros_like(prefill)
            decode[:, 3:] = sizes.step_sums[:, :2]
        elif self.roofline == 1:
            decode = sizes.step_sums
        else:
            contexts, weights = sizes.steps
            decode = weights @ self._prefill(theta, contexts)
        return decode if part == "decode" else prefill + decode

    def tables(self, theta: Array, longest: int, part: Part = "request") -> tuple[Array, Array]:
        """``before`` and ``after`` with ``design(m, n) = before[m] + after[m + n]`` for whole m + n ≤ longest.

        This turns a sum over decode steps into two look-ups, whatever p is. Shapes (longest + 1, coefficients).
        """
        contexts = np.arange(longest + 1, dtype=np.float64)
        prefill = self._prefill(theta, contexts)
        if part == "prefill":
            return prefill, np.zeros_like(prefill)
        after = np.zeros_like(prefill)
        if self.kv_cache:
            after[:, 3:] = _power_sums(contexts)[:, :2]
        else:
            after[:] = self._step_sums(theta, longest)[:-1]
        first_decoded = np.vstack([after[1:], after[-1:]])
        return (-first_decoded if part == "decode" else prefill - first_decoded), after

    def _prefill(self, theta: Array, contexts: Array) -> Array:
        """Derivatives of P: shape (contexts, coefficients)."""
        floor, work = _join(theta[0], theta[1] * contexts + theta[2] * contexts**2, self.roofline)
        design = np.zeros((contexts.size, 5 if self.kv_cache else 3))
        design[:, 0] = floor
        design[:, 1] = work * contexts
        design[:, 2] = work * contexts**2
        return design

    def _step_sums(self, theta: Array, longest: int) -> Array:
        """Σ_{x < t} of the derivatives of P(x) for t = 0 … longest + 1."""
        if self.roofline == 1:
            return _power_sums(np.arange(longest + 2, dtype=np.float64))
        steps = self._prefill(theta, np.arange(longest + 1, dtype=np.float64))
        return np.vstack([np.zeros((1, steps.shape[1])), np.cumsum(steps, axis=0)])


@dataclass(frozen=True)
class Bilinear:
    """a0·m + a1·n + a2·m·n, the form published by Wilkins, Keshav and Mortier (2024). May predict below 0."""

    name = "bilinear"
    non_negative = False

    def coefficients(self, unit: str) -> list[tuple[str, str]]:
        """Names and units of a0, a1 and a2."""
        suffix = unit.lower()
        return [
            (f"input_{suffix}_per_token", f"{unit}/token"),
            (f"output_{suffix}_per_token", f"{unit}/token"),
            (f"interaction_{suffix}_per_token2", f"{unit}/token²"),
        ]

    def design(self, theta: Array, sizes: Sizes, part: Part = "request") -> Array:
        """See ``Form.design``. Raises ValueError for a part: this form has no phases."""
        if part != "request":
            raise ValueError("the bilinear form has no phases")
        return np.stack([sizes.m, sizes.n, sizes.m * sizes.n], axis=1)


def _join(floor: float, work: Array, exponent: float) -> tuple[Array, Array]:
    """Derivatives of (floor^p + work^p)^(1/p) with respect to floor and to work."""
    if exponent == 1:
        return np.ones_like(work), np.ones_like(work)
    larger = np.maximum(floor, work)
    larger[larger == 0] = 1.0
    # Scaled by the larger of the two, no power overflows.
    joined = ((floor / larger) ** exponent + (work / larger) ** exponent) ** (1 / exponent)
    joined[joined == 0] = 1.0
    return (floor / larger / joined) ** (exponent - 1), (work / larger / joined) ** (exponent - 1)


def _power_sums(t: Array) -> Array:
    """Σ_{x < t} of 1, x and x²: shape (points, 3)."""
    return np.stack([t, t * (t - 1) / 2, t * (t - 1) * (2 * t - 1) / 6], axis=1)


def _lattice(longest: int) -> Array:
    """Whole contexts from 0 to ``longest``: all short ones, then in geometric steps."""
    dense = np.arange(min(longest, DENSE_CONTEXTS) + 4.0)
    if longest <= DENSE_CONTEXTS:
        return dense
    steps = int(np.ceil(np.log(longest / DENSE_CONTEXTS) / np.log(LATTICE_RATIO))) + 2
    return np.union1d(dense, np.ceil(DENSE_CONTEXTS * LATTICE_RATIO ** np.arange(steps)))


def _sum_weights(contexts: Array, first: float, last: float) -> Array:
    """Weights w with Σ_{first ≤ x < last} f(x) = w @ f(contexts), by cubic (Lagrange) interpolation of f.

    Where the bounds are fractional the first and last step count by their fraction.
    """
    x = np.arange(np.floor(first), np.ceil(last))
    share = np.minimum(x + 1, last) - np.maximum(x, first)
    start = np.clip(np.searchsorted(contexts, x, side="right") - 2, 0, contexts.size - 4)
    weights = np.zeros(contexts.size)
    for i in range(4):
        basis = share.copy()
        for j in set(range(4)) - {i}:
            basis *= (x - contexts[start + j]) / (contexts[start + i] - contexts[start + j])
        weights += np.bincount(start + i, basis, contexts.size)
    return weights
