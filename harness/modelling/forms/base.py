"""What every form of the cost of a request has: seconds or joules as a function of the request's size. Pure.

A form is homogeneous of degree one in its coefficients, so that its derivatives with respect to them (``design``),
multiplied by them, are the cost itself (Euler).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.modelling.forms.terms import Term

Part = Literal["request", "prefill", "decode"]
DecodeContext = Literal["grows", "m + n"]
"""How many positions a decode step with the KV cache attends to: those so far, or with a static cache all it holds."""
Evaluator = Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]
"""From whole m and n, one entry per request, to a cost or costs of each."""

Parameter = float | str | tuple[str, ...] | list[str] | None
"""A fixed choice of a form as a profile's cost model has it."""

DENSE_CONTEXTS = 64
LATTICE_RATIO = 1.02
"""Spacing of contexts at which a roofline is evaluated beyond the first ones; cubic interpolation between them is
good to 1e-6 even for the sharpest roofline."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """Request sizes of one entry per request, with what sums over their decode steps need, computed once.

    Token counts may be fractional: means over trials that stopped at different n.
    """

    m: Floats
    n: Floats
    c: Floats = field(default_factory=lambda: np.empty(0))
    """Requests in flight; empty where a form is of one number of them."""
    _of_terms: dict[Term, Floats] = field(default_factory=dict, repr=False)

    def term_sums(self, term: Term) -> Floats:
        """Σ over decode contexts of a term, in closed form: shape (requests,)."""
        if term not in self._of_terms:
            self._of_terms[term] = term.sums(self.m + self.n) - term.sums(self.m + 1)
        return self._of_terms[term]

    @cached_property
    def step_sums(self) -> Floats:
        """Σ over decode contexts x of 1, x and x², in closed form: shape (requests, 3)."""
        return power_sums(self.m + self.n) - power_sums(self.m + 1)

    @cached_property
    def steps(self) -> tuple[Floats, Floats]:
        """``contexts`` and ``weights`` (requests, contexts) with Σ f(x) = weights @ f(contexts) for a smooth f."""
        longest = int(np.ceil(np.max(self.m + self.n, initial=1.0)))
        contexts = _lattice(longest)
        pairs = zip(self.m + 1, self.m + self.n, strict=True)
        return contexts, np.array([_sum_weights(contexts, first, last) for first, last in pairs])


def decode_context_of(kv_cache: bool, settings: Mapping[str, object]) -> DecodeContext:
    """How many positions each decode step with the KV cache attends to, by what the runtime said of its cache."""
    return "m + n" if kv_cache and settings.get("kv_cache_length") == "m + n" else "grows"


class Form(ABC):
    """A family of cost functions. An instance holds its fixed choices, never its coefficients, and is hashable."""

    name: ClassVar[str]
    """As in ``FORMS``, on the command line and in profiles."""
    non_negative: ClassVar[bool]
    """Whether coefficients below 0 are ruled out."""
    has_phases: ClassVar[bool]
    """Whether it tells prefill from decode: then their measurements inform it and the cache mode decides it."""
    terms: tuple[Term, ...] = ()
    """Those of its ``known_terms`` that it has."""

    @classmethod
    @abstractmethod
    def candidates(cls, kv_cache: bool) -> Sequence[Self]:
        """What to try in a fit; the one with the smallest predicted error is chosen."""

    @classmethod
    @abstractmethod
    def restore(cls, kv_cache: bool, parameters: Mapping[str, Parameter]) -> Self:
        """The form of these ``parameters``. Raises ValueError where one is missing."""

    @classmethod
    def refusal(cls, kv_cache: bool, sizes: Sizes) -> str | None:
        """Why points of these sizes can't tell the coefficients, with the remedy; None where they might."""
        return None

    def attending(self, decode_context: DecodeContext) -> Self:
        """The form for decode steps over such contexts; itself where it does not tell them."""
        return self

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The fixed choices by the names of their fields in a profile's cost model, usual ones left out."""
        return {"roofline_exponent": None}

    @property
    def plain(self) -> Self:
        """The form with the same coefficients that is linear in them; itself where it is."""
        return self

    def is_plain_at(self, theta: Floats) -> bool:
        """Whether with these coefficients it only repeats a simpler form."""
        return False

    def known_terms(self) -> Sequence[Term]:
        """The terms that measurements may ask for, its own among them; none where it has no such terms."""
        return ()

    def with_terms(self, terms: Sequence[Term]) -> Self:
        """The same with these of its ``known_terms``, whose coefficients come last, in place of its own."""
        return self

    @abstractmethod
    def coefficients(self, unit: str) -> list[tuple[str, str]]:
        """Name and unit of each coefficient, for a cost in ``unit`` (``s`` or ``J``)."""

    @abstractmethod
    def design(self, theta: Floats, sizes: Sizes, part: Part = "request") -> Floats:
        """Derivatives of the cost with respect to the coefficients at ``theta``: shape (requests, coefficients).

        Raises UserError for a phase that the form does not tell.
        """

    def cost(self, theta: Floats, sizes: Sizes) -> Floats:
        """Cost of each request in the coefficients' unit."""
        return self.design(theta, sizes) @ theta

    def evaluator(self, theta: Floats, directions: Floats, longest: int, part: Part = "request") -> Evaluator:
        """A fast ``design @ directions`` for millions of whole m and n with m + n ≤ ``longest``. Raises UserError."""
        return lambda m, n: self.design(theta, Sizes(m.astype(float), n.astype(float)), part) @ directions

    @abstractmethod
    def formula(self, unit: str) -> str:
        """The cost for people: ``cost(m, n) = …`` with the coefficients by name, one function a line."""

    def describe(self) -> str:
        """The form and its fixed choices in words."""
        chosen = [
            f"{name.replace('_', ' ')} {format(value, 'g') if isinstance(value, int | float) else value}"
            for name, value in self.parameters.items()
            if isinstance(value, int | float | str)
        ]
        chosen += map(str, self.terms)
        return ", ".join([f"{self.name} form", *chosen])


def power_sums(t: Floats) -> Floats:
    """Σ_{x < t} of 1, x and x²: shape (points, 3)."""
    return np.stack([t, t * (t - 1) / 2, t * (t - 1) * (2 * t - 1) / 6], axis=1)


def _lattice(longest: int) -> Floats:
    """Whole contexts from 0 to ``longest``: all short ones, then in geometric steps."""
    dense = np.arange(min(longest, DENSE_CONTEXTS) + 4.0)
    if longest <= DENSE_CONTEXTS:
        return dense
    steps = int(np.ceil(np.log(longest / DENSE_CONTEXTS) / np.log(LATTICE_RATIO))) + 2
    return np.union1d(dense, np.ceil(DENSE_CONTEXTS * LATTICE_RATIO ** np.arange(steps)))


def _sum_weights(contexts: Floats, first: float, last: float) -> Floats:
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
