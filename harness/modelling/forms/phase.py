"""The form that follows what the machine does: prefill, then one decode step per further token. Pure.

A request of m input and n output tokens costs

    cost(m, n) = P(m) + Σ_{k=1}^{n−1} D(m + k)

P is prefill, which yields the first output token, and D is one decode step at the given context. Without a KV
cache every step reads the whole sequence again and D = P. A static cache is as long as the request from its first step
on, and every step attends to all of it: cost(m, n) = P(m) + (n − 1)·D(m + n).

Where measurements ask for it, prefill and decode steps have terms beside these: see ``terms``.

Of a prompt whose first k tokens are in a prefix cache, 0 ≤ k < m, prefill computes the other m − k, which attend to all
positions before them. With W(x) the work of P it costs c0 joined by the roofline to W(m) − W(k), and decoding costs
what it does without. Tiles pad a forward pass, so theirs is the work of m − k tokens. Where nothing is joined or padded
this is what a chunk of a prompt costs: P(m) = P(k) + P(m, k) − c0. It needs the KV cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.forms.base import DecodeContext, Evaluator, Form, Parameter, Part, Sizes, power_sums
from harness.modelling.forms.terms import Term, library

ROOFLINES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
"""Exponents tried for the roofline joint: from a plain sum to nearly a maximum."""


@dataclass(frozen=True)
class Phase(Form):
    """Prefill and decode steps, each of non-negative parts.

    P(x) = (c0^p + (c1·x + c2·x²)^p)^(1/p): a launch floor c0 joined to the work by a roofline of exponent p; p = 1
    is their sum, large p their maximum. With the KV cache D(x) = d0 + d1·x, without it D = P. ``terms`` belong to the
    work c1·x + c2·x² or, those of decode, to D.
    """

    kv_cache: bool
    roofline: float = 1.0
    decode_context: DecodeContext = "grows"
    terms: tuple[Term, ...] = ()

    name = "phase"
    non_negative = True
    has_phases = True

    @classmethod
    def candidates(cls, kv_cache: bool) -> Sequence[Self]:
        """One for each roofline exponent."""
        return [cls(kv_cache, roofline) for roofline in ROOFLINES]

    @classmethod
    def restore(cls, kv_cache: bool, parameters: Mapping[str, Parameter]) -> Self:
        roofline = parameters.get("roofline_exponent")
        if not isinstance(roofline, int | float):
            raise ValueError(f"the {cls.name} form needs a roofline_exponent")
        terms = parameters.get("terms") or ()
        if isinstance(terms, str | float | int):
            raise ValueError(f"terms of the {cls.name} form are a list")
        form = cls(kv_cache, roofline, terms=tuple(map(Term.parse, terms)))
        if not kv_cache and any(term.decode for term in form.terms):
            raise ValueError("a term of decode without a KV cache")
        if parameters.get("decode_context") != "m + n":
            return form
        if not kv_cache:
            raise ValueError("decode_context is m + n without a KV cache")
        return form.attending("m + n")

    @classmethod
    def refusal(cls, kv_cache: bool, sizes: Sizes) -> str | None:
        """With the KV cache, points without any decode step don't tell what one costs."""
        if not kv_cache or sizes.n.max() > 1:
            return None
        return (
            "every point has 1 output token, which prefill yields: what decoding costs is not identified; "
            "measure points with more than 1"
        )

    def attending(self, decode_context: DecodeContext) -> Self:
        """The same with a growing or, where there is a KV cache, a static one."""
        return replace(self, decode_context=decode_context) if self.kv_cache else self

    @property
    def uncached_reason(self) -> str | None:
        if self.kv_cache:
            return None
        return "without a KV cache every step computes the whole prompt, so leave cached tokens out"

    def known_terms(self) -> Sequence[Term]:
        return [*library(decode=False), *(library(decode=True) if self.kv_cache else ())]

    def with_terms(self, terms: Sequence[Term]) -> Self:
        return replace(self, terms=tuple(terms))

    @property
    def parameters(self) -> dict[str, Parameter]:
        context = {"decode_context": self.decode_context} if self._is_static else {}
        terms = {"terms": tuple(map(str, self.terms))} if self.terms else {}
        return {"roofline_exponent": self.roofline, **context, **terms}

    @property
    def plain(self) -> Self:
        """The form without its roofline."""
        return replace(self, roofline=1.0)

    @property
    def _is_static(self) -> bool:
        return self.decode_context == "m + n"

    def is_plain_at(self, theta: Floats) -> bool:
        """Whether it has a roofline of which one side is 0, or a term whose coefficient is."""
        work = [theta[1], theta[2], *(theta[at] for at, _ in self._terms_of(decode=False))]
        one_sided = self.roofline != 1 and (theta[0] == 0 or not any(work))
        return one_sided or not theta[self._smooth :].all()

    @property
    def _smooth(self) -> int:
        """Number of coefficients beside those of terms."""
        return 5 if self.kv_cache else 3

    def _terms_of(self, decode: bool) -> list[tuple[int, Term]]:
        """The terms of a phase, each with the place of its coefficient."""
        return [(at, term) for at, term in enumerate(self.terms, self._smooth) if term.decode == decode]

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
        for term in self.terms:
            phase = "decode" if term.decode else "prefill"
            names.append((f"{phase}_{term.kind}_{term.tokens}_{suffix}_per_token", f"{unit}/token"))
        return names

    def design(self, theta: Floats, sizes: Sizes, part: Part = "request") -> Floats:
        prefill = self._prefill(theta, sizes.m, sizes.cached)
        if part == "prefill":
            return prefill
        decode = self._decode(theta, sizes)
        return decode if part == "decode" else prefill + decode

    def _decode(self, theta: Floats, sizes: Sizes) -> Floats:
        """Derivatives of all decode steps together: shape (requests, coefficients)."""
        if self._is_static:
            return np.asarray((sizes.n - 1)[:, None] * self._step(sizes.m + sizes.n))
        if self._sums_are_closed:
            design = np.zeros((sizes.m.size, self._smooth + len(self.terms)))
            known = slice(3, 5) if self.kv_cache else slice(0, 3)
            design[:, known] = sizes.step_sums[:, : known.stop - known.start]
            for at, term in self._terms_of(decode=self.kv_cache):
                design[:, at] = sizes.term_sums(term)
            return design
        if not self.terms:
            contexts, weights = sizes.steps
            return weights @ self._prefill(theta, contexts)
        # Interpolation between contexts would smooth the edges of tiles away.
        contexts = np.arange(np.ceil((sizes.m + sizes.n).max(initial=1.0)) + 1)
        before = _sums_below(self._prefill(theta, contexts))
        return np.asarray(_between(before, sizes.m + sizes.n) - _between(before, sizes.m + 1))

    def evaluator(self, theta: Floats, directions: Floats, longest: int, part: Part = "request") -> Evaluator:
        """Two look-ups, since a sum over decode steps is a difference of sums from 0.

        The tables behind it have ``longest`` + 1 rows, whatever p is.
        """
        if self._is_static and part != "prefill":
            contexts = np.arange(longest + 1, dtype=np.float64)
            prefill = self._prefill(theta, contexts) @ directions
            known = np.zeros_like(prefill) if part == "decode" else prefill
            step = self._step(contexts) @ directions
            return lambda m, n: known.take(m, axis=0) + (step.take(m + n, axis=0).T * (n - 1)).T
        before, after = (table @ directions for table in self._tables(theta, longest, part))
        return lambda m, n: before.take(m, axis=0) + after.take(m + n, axis=0)

    def formula(self, unit: str) -> str:
        names = [name for name, _ in self.coefficients(unit)]
        c0, c1, c2, *decode = names[: self._smooth]
        work = " + ".join([f"{c1}·x", f"{c2}·x²", *self._words(names, decode=False)])
        p = f"{self.roofline:g}"
        joined = f"{c0} + {work}" if self.roofline == 1 else f"({c0}^{p} + ({work})^{p})^(1/{p})"
        step = " + ".join([decode[0], f"{decode[1]}·x", *self._words(names, decode=True)]) if decode else "P(x)"
        steps = "(n − 1)·D(m + n)" if self._is_static else "Σ D(m + k), k = 1 … n − 1"
        return f"cost(m, n) = P(m) + {steps}\nP(x) = {joined}\nD(x) = {step}"

    def _words(self, names: Sequence[str], decode: bool) -> list[str]:
        return [f"{names[at]}·{term.formula}" for at, term in self._terms_of(decode)]

    @property
    def _sums_are_closed(self) -> bool:
        """Whether a sum over decode steps has a closed form."""
        return self.kv_cache or self.roofline == 1

    def _tables(self, theta: Floats, longest: int, part: Part) -> tuple[Floats, Floats]:
        """``before`` and ``after`` with ``design(m, n) = before[m] + after[m + n]``: (longest + 1, coefficients)."""
        contexts = np.arange(longest + 1, dtype=np.float64)
        prefill = self._prefill(theta, contexts)
        if part == "prefill":
            return prefill, np.zeros_like(prefill)
        if self._sums_are_closed:
            after = np.zeros_like(prefill)
            known = slice(3, 5) if self.kv_cache else slice(0, 3)
            after[:, known] = power_sums(contexts)[:, : known.stop - known.start]
            for at, term in self._terms_of(decode=self.kv_cache):
                after[:, at] = term.sums(contexts)
        else:
            after = _sums_below(prefill)
        first_decoded = np.vstack([after[1:], after[-1:]])
        return (-first_decoded if part == "decode" else prefill - first_decoded), after

    def _prefill(self, theta: Floats, contexts: Floats, cached: Floats | None = None) -> Floats:
        """Derivatives of P, of prompts of which so many tokens are cached: shape (contexts, coefficients)."""
        parts = [(1, contexts), (2, contexts**2)]
        parts += [(at, term.values(contexts)) for at, term in self._terms_of(decode=False)]
        if cached is not None and cached.size:
            computed = contexts - cached
            parts = [(1, computed), (2, computed * (contexts + cached))]
            parts += [(at, term.computed(contexts, cached)) for at, term in self._terms_of(decode=False)]
        floor, work = _join(theta[0], sum(theta[at] * values for at, values in parts), self.roofline)
        design = np.zeros((contexts.size, self._smooth + len(self.terms)))
        design[:, 0] = floor
        for at, values in parts:
            design[:, at] = work * values
        return design

    def _step(self, contexts: Floats) -> Floats:
        """Derivatives of D with the KV cache: shape (contexts, coefficients)."""
        design = np.zeros((contexts.size, self._smooth + len(self.terms)))
        design[:, 3] = 1.0
        design[:, 4] = contexts
        for at, term in self._terms_of(decode=True):
            design[:, at] = term.values(contexts)
        return design


def _sums_below(rows: Floats) -> Floats:
    """Of each row, the sum of those before it."""
    sums = np.zeros_like(rows)
    np.cumsum(rows[:-1], axis=0, out=sums[1:])
    return sums


def _between(sums: Floats, t: Floats) -> Floats:
    """Rows of ``sums`` at t; a last step that is a fraction counts by it."""
    whole = np.minimum(np.floor(t).astype(np.int64), len(sums) - 2)
    part = (t - whole)[:, None]
    return np.asarray((1 - part) * sums[whole] + part * sums[whole + 1])


def _join(floor: float, work: Floats, exponent: float) -> tuple[Floats, Floats]:
    """Derivatives of (floor^p + work^p)^(1/p) with respect to floor and to work."""
    if exponent == 1:
        return np.ones_like(work), np.ones_like(work)
    larger = np.maximum(floor, work)
    larger[larger == 0] = 1.0
    # Scaled by the larger of the two, no power overflows.
    joined = ((floor / larger) ** exponent + (work / larger) ** exponent) ** (1 / exponent)
    joined[joined == 0] = 1.0
    return (floor / larger / joined) ** (exponent - 1), (work / larger / joined) ** (exponent - 1)
