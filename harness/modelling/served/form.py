"""The served form: what c requests of one size cost that are in flight together. Pure.

A closed loop or a static batch of c requests of m input and n output tokens takes, or its cycle costs,

    C(m, n, c) = c0·(1 + φ·(c − 1)) + c·(c1·m + c2·m²) + (n − 1)·[a + s·c + g·x(c)] + d1·c·Σ_{k=1}^{n−1}(m + k)

φ is 0 where prefills join other work and 1 where each is a step of its own. x(c) = (1 − (1 − ρ)^c)/ρ is how many times
the experts that one sequence needs are read for c of them, where each sequence needs a share ρ of all. All
coefficients are at least 0. At one concurrency it is the phase form, at c = 1 with d0 = a + s + g. Runtime is the
cycle's, energy of a request is the cycle's over c. Of prompts whose first k tokens are in a prefix cache prefill
computes the rest: c·(c1·(m − k) + c2·(m² − k²)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.forms.phase import Phase

EXPERT_SHARES: Final = (None, 0.25, 0.12, 0.06, 0.03, 0.015)
"""ρ tried: none, and shares of a mixture's experts that one sequence needs."""


@dataclass(frozen=True)
class ServedForm:
    """One choice of φ and ρ. Hashable; holds no coefficients."""

    prefill_joined: bool
    """φ = 0: prefills join other work; else φ = 1, each is a step of its own."""
    experts_share: float | None = None
    """ρ; None where there are no experts to tell apart."""

    @classmethod
    def candidates(cls) -> list[ServedForm]:
        """Every choice that is tried."""
        return [cls(joined, share) for joined in (True, False) for share in EXPERT_SHARES]

    def coefficients(self, unit: str) -> list[tuple[str, str]]:
        """Name and unit of c0, c1, c2, a, s, d1 and, with experts, g."""
        suffix = unit.lower()
        names = [
            (f"prefill_floor_{suffix}", unit),
            (f"prefill_linear_{suffix}_per_token", f"{unit}/token"),
            (f"prefill_quadratic_{suffix}_per_token2", f"{unit}/token²"),
            (f"step_floor_{suffix}", unit),
            (f"step_sequence_{suffix}", unit),
            (f"step_context_{suffix}_per_token", f"{unit}/token"),
        ]
        return names if self.experts_share is None else [*names, (f"step_experts_{suffix}", unit)]

    def distinct_experts(self, c: Floats | float) -> Floats:
        """x(c): one sequence's experts times this are read by a step of c sequences."""
        assert self.experts_share is not None
        return np.asarray((1 - (1 - self.experts_share) ** np.asarray(c, dtype=float)) / self.experts_share)

    def design(self, m: Floats, n: Floats, c: Floats, cached: Floats | float = 0.0) -> Floats:
        """Derivatives of a cycle's cost with respect to the coefficients: shape (points, coefficients).

        ``cached`` are tokens of each prompt that a prefix cache holds.
        """
        steps = n - 1
        contexts = steps * m + steps * n / 2
        columns = [
            np.ones_like(m) if self.prefill_joined else c + 0.0 * m,
            c * (m - cached),
            c * (m**2 - np.square(cached)),
            steps,
            steps * c,
            c * contexts,
        ]
        if self.experts_share is not None:
            columns.append(steps * self.distinct_experts(c))
        return np.stack(np.broadcast_arrays(*columns), axis=-1)

    def at(self, c: float) -> Floats:
        """A with phase coefficients = A @ coefficients, of a cycle of c in flight: shape (5, coefficients).

        The phase form is ``PHASE``.
        """
        rows = np.zeros((5, 6 if self.experts_share is None else 7))
        rows[0, 0] = 1.0 if self.prefill_joined else c
        rows[1, 1] = rows[2, 2] = rows[4, 5] = c
        rows[3, 3:5] = 1.0, c
        if self.experts_share is not None:
            rows[3, 6] = self.distinct_experts(c)
        return rows


PHASE: Final = Phase(kv_cache=True)
"""What the served form is at one concurrency."""
