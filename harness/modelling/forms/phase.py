"""The form that follows what the machine does: prefill, then one decode step per further token. Pure.

A request of m input and n output tokens costs

    cost(m, n) = P(m) + Σ_{k=1}^{n−1} D(m + k)

P is prefill, which yields the first output token, and D is one decode step at the given context. Without a KV
cache every step reads the whole sequence again and D = P. A static cache is as long as the request from its first step
on, and every step attends to all of it: cost(m, n) = P(m) + (n − 1)·D(m + n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.forms.base import DecodeContext, Evaluator, Form, Part, Sizes, power_sums

ROOFLINES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
"""Exponents tried for the roofline joint: from a plain sum to nearly a maximum."""


@dataclass(frozen=True)
class Phase(Form):
    """Prefill and decode steps, each of non-negative parts.

    P(x) = (c0^p + (c1·x + c2·x²)^p)^(1/p): a launch floor c0 joined to the work by a roofline of exponent p; p = 1
    is their sum, large p their maximum. With the KV cache D(x) = d0 + d1·x, without it D = P.
    """

    kv_cache: bool
    roofline: float = 1.0
    decode_context: DecodeContext = "grows"

    name = "phase"
    non_negative = True
    has_phases = True

    @classmethod
    def candidates(cls, kv_cache: bool) -> Sequence[Self]:
        """One for each roofline exponent."""
        return [cls(kv_cache, roofline) for roofline in ROOFLINES]

    @classmethod
    def restore(cls, kv_cache: bool, parameters: Mapping[str, float | str | None]) -> Self:
        roofline = parameters.get("roofline_exponent")
        if not isinstance(roofline, int | float):
            raise ValueError(f"the {cls.name} form needs a roofline_exponent")
        form = cls(kv_cache, roofline)
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
    def parameters(self) -> dict[str, float | str | None]:
        context = {"decode_context": self.decode_context} if self._is_static else {}
        return {"roofline_exponent": self.roofline, **context}

    @property
    def plain(self) -> Self:
        """The form without its roofline."""
        return replace(self, roofline=1.0)

    @property
    def _is_static(self) -> bool:
        return self.decode_context == "m + n"

    def is_plain_at(self, theta: Floats) -> bool:
        """Whether it has a roofline of which one side is 0."""
        return self.roofline != 1 and (theta[0] == 0 or not theta[1:3].any())

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

    def design(self, theta: Floats, sizes: Sizes, part: Part = "request") -> Floats:
        prefill = self._prefill(theta, sizes.m)
        if part == "prefill":
            return prefill
        if self._is_static:
            decode = np.zeros_like(prefill)
            decode[:, 3] = sizes.n - 1
            decode[:, 4] = (sizes.n - 1) * (sizes.m + sizes.n)
        elif self.kv_cache:
            decode = np.zeros_like(prefill)
            decode[:, 3:] = sizes.step_sums[:, :2]
        elif self.roofline == 1:
            decode = sizes.step_sums
        else:
            contexts, weights = sizes.steps
            decode = weights @ self._prefill(theta, contexts)
        return decode if part == "decode" else prefill + decode

    def evaluator(self, theta: Floats, directions: Floats, longest: int, part: Part = "request") -> Evaluator:
        """Two look-ups, since a sum over decode steps is a difference of sums from 0.

        The tables behind it have ``longest`` + 1 rows, whatever p is. With a static cache only prefill is looked up.
        """
        if self._is_static and part != "prefill":
            prefill = self._prefill(theta, np.arange(longest + 1, dtype=np.float64)) @ directions
            known = np.zeros_like(prefill) if part == "decode" else prefill
            floor, linear = directions[3], directions[4]
            return lambda m, n: (
                known.take(m, axis=0) + np.multiply.outer(n - 1, floor) + np.multiply.outer((n - 1) * (m + n), linear)
            )
        before, after = (table @ directions for table in self._tables(theta, longest, part))
        return lambda m, n: before.take(m, axis=0) + after.take(m + n, axis=0)

    def formula(self, unit: str) -> str:
        c0, c1, c2, *decode = (name for name, _ in self.coefficients(unit))
        work, p = f"{c1}·x + {c2}·x²", f"{self.roofline:g}"
        joined = f"{c0} + {work}" if self.roofline == 1 else f"({c0}^{p} + ({work})^{p})^(1/{p})"
        step = "{} + {}·x".format(*decode) if decode else "P(x)"
        steps = "(n − 1)·D(m + n)" if self._is_static else "Σ D(m + k), k = 1 … n − 1"
        return f"cost(m, n) = P(m) + {steps}\nP(x) = {joined}\nD(x) = {step}"

    def _tables(self, theta: Floats, longest: int, part: Part) -> tuple[Floats, Floats]:
        """``before`` and ``after`` with ``design(m, n) = before[m] + after[m + n]``: (longest + 1, coefficients)."""
        contexts = np.arange(longest + 1, dtype=np.float64)
        prefill = self._prefill(theta, contexts)
        if part == "prefill":
            return prefill, np.zeros_like(prefill)
        after = np.zeros_like(prefill)
        if self.kv_cache:
            after[:, 3:] = power_sums(contexts)[:, :2]
        elif self.roofline == 1:
            after[:] = power_sums(contexts)
        else:
            np.cumsum(prefill[:-1], axis=0, out=after[1:])
        first_decoded = np.vstack([after[1:], after[-1:]])
        return (-first_decoded if part == "decode" else prefill - first_decoded), after

    def _prefill(self, theta: Floats, contexts: Floats) -> Floats:
        """Derivatives of P: shape (contexts, coefficients)."""
        floor, work = _join(theta[0], theta[1] * contexts + theta[2] * contexts**2, self.roofline)
        design = np.zeros((contexts.size, 5 if self.kv_cache else 3))
        design[:, 0] = floor
        design[:, 1] = work * contexts
        design[:, 2] = work * contexts**2
        return design


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
