"""The form published by G. Wilkins, S. Keshav and R. Mortier (2024): linear in m, n and their product. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.forms.base import Form, Parameter, Part, Sizes


@dataclass(frozen=True)
class Bilinear(Form):
    """a0·m + a1·n + a2·m·n. May predict below 0."""

    name = "bilinear"
    non_negative = False
    has_phases = False

    @classmethod
    def candidates(cls, kv_cache: bool) -> Sequence[Self]:
        return [cls()]

    @classmethod
    def restore(cls, kv_cache: bool, parameters: Mapping[str, Parameter]) -> Self:
        return cls()

    @property
    def uncached_reason(self) -> str:
        return f"the {self.name} form doesn't tell what prefill costs, so fit another form or leave cached tokens out"

    def coefficients(self, unit: str) -> list[tuple[str, str]]:
        """Names and units of a0, a1 and a2."""
        suffix = unit.lower()
        return [
            (f"input_{suffix}_per_token", f"{unit}/token"),
            (f"output_{suffix}_per_token", f"{unit}/token"),
            (f"interaction_{suffix}_per_token2", f"{unit}/token²"),
        ]

    def design(self, theta: Floats, sizes: Sizes, part: Part = "request") -> Floats:
        if part != "request":
            raise UserError(f"the {self.name} form does not tell prefill from decode: fit another form")
        return np.stack([sizes.m, sizes.n, sizes.m * sizes.n], axis=1)

    def formula(self, unit: str) -> str:
        a0, a1, a2 = (name for name, _ in self.coefficients(unit))
        return f"cost(m, n) = {a0}·m + {a1}·n + {a2}·m·n"
