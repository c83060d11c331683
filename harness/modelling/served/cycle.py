"""The served form as the solver of least squares takes it: a cycle's cost by sizes and number in flight. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.forms.base import Form, Parameter, Part, Sizes
from harness.modelling.served.form import ServedForm

PREFILL_COLUMNS: Final = 3
"""c0, c1 and c2; the other coefficients are of decoding."""
COLUMNS: Final = 7
"""Of every cycle form: where there are no experts to tell apart the last is 0, and forms can be compared."""


@dataclass(frozen=True)
class CycleForm(Form):
    """Cost of a cycle of ``Sizes.c`` requests. Beyond the slots S it is that of S times c/S: the rest waits."""

    served: ServedForm
    slots: float | None = None

    name = "served"
    non_negative = True
    has_phases = True

    @classmethod
    def candidates(cls, kv_cache: bool = True) -> Sequence[Self]:
        return [cls(form) for form in ServedForm.candidates()]

    @classmethod
    def restore(cls, kv_cache: bool, parameters: Mapping[str, Parameter]) -> Self:
        share, slots = parameters.get("experts_share"), parameters.get("slots")
        form = ServedForm(bool(parameters.get("prefill_joined")), float(share) if isinstance(share, float) else None)
        return cls(form, float(slots) if isinstance(slots, int | float) else None)

    @property
    def parameters(self) -> dict[str, Parameter]:
        served = self.served
        return {
            "prefill_joined": served.prefill_joined,
            "experts_share": served.experts_share,
            "slots": self.slots,
        }

    def with_slots(self, slots: float | None) -> Self:
        """The same on a server of so many slots."""
        return replace(self, slots=slots)

    def working(self, c: Floats) -> Floats:
        """How many of c requests in flight are worked on at once."""
        return c if self.slots is None else np.minimum(c, self.slots)

    def coefficients(self, unit: str) -> list[tuple[str, str]]:
        names = ServedForm(self.served.prefill_joined, self.served.experts_share or 1.0).coefficients(unit)
        assert len(names) == COLUMNS
        return names

    def own(self, values: Floats) -> Floats:
        """Of the solver's coefficients (or their covariance) those that the served form has."""
        kept = slice(None if self.served.experts_share is not None else COLUMNS - 1)
        return np.asarray(values[kept] if values.ndim == 1 else values[kept, kept])

    def design(self, theta: Floats, sizes: Sizes, part: Part = "request") -> Floats:
        """It is linear: ``theta`` doesn't matter."""
        working = self.working(sizes.c)
        design = np.zeros((sizes.m.size, COLUMNS))
        held = self.served.design(sizes.m, sizes.n, working)
        design[:, : held.shape[1]] = held * (sizes.c / working)[:, None]
        if part == "prefill":
            design[:, PREFILL_COLUMNS:] = 0.0
        elif part == "decode":
            design[:, :PREFILL_COLUMNS] = 0.0
        return design

    def formula(self, unit: str) -> str:
        c0, c1, c2, a, s, d1, g = (name for name, _ in self.coefficients(unit))
        floor = c0 if self.served.prefill_joined else f"c·{c0}"
        share = self.served.experts_share
        experts = f" + {g}·(1 − {1 - share:g}^c)/{share:g}" if share is not None else ""
        return (
            f"cycle(m, n, c) = {floor} + c·({c1}·m + {c2}·m²) + (n − 1)·({a} + {s}·c{experts})"
            f" + {d1}·c·Σ (m + k), k = 1 … n − 1"
        )
