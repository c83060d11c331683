"""How many requests a server works on at once, told from costs where the server doesn't say. Pure."""

from __future__ import annotations

import numpy as np

from harness.modelling.fit import Observations, equations
from harness.modelling.least_squares import Rows
from harness.modelling.served.cycle import CycleForm
from harness.modelling.served.cycle_equations import CycleEquations
from harness.modelling.served.form import ServedForm

PENALTY = 12.0
"""By how much points·log(mean squared error) must fall for a number of slots; useless ones seldom reach it."""
MOST_TRIED = 24
LEAST_ERROR = 1e-3
"""Relative, of a form: below it fits are alike."""


def found_slots(cycles: Observations) -> float | None:
    """The slots that the costs of cycles ask for; None where they go on as they began.

    Beyond its slots a server's cycles are in proportion to the requests in flight. At least two numbers of them must
    lie above the slots and two at or below.
    """
    levels = np.unique(cycles.concurrency)
    if levels.size < 4:
        return None
    rows = equations(cycles)
    tried = np.unique(np.round(np.geomspace(max(levels[1], 2), levels[-2], MOST_TRIED)))
    tried = tried[(tried >= levels[1]) & (tried < levels[-2])]
    points = cycles.cost.size
    limit = points * np.log(_loss(cycles, rows, None)) - PENALTY
    losses = [(points * np.log(_loss(cycles, rows, float(slots))), float(slots)) for slots in tried]
    best, slots = min(losses, default=(np.inf, 0.0))
    return slots if best < limit else None


def _loss(cycles: Observations, rows: Rows, slots: float | None) -> float:
    """Mean amount of the errors, squared, of the better candidate without experts at the points."""
    here = np.ones(cycles.cost.size, dtype=bool)
    forms = [CycleForm(ServedForm(joined), slots) for joined in (True, False)]
    costs = [CycleEquations.of(form, rows, cycles.sizes).costs(here) for form in forms]
    return float(min(np.mean(np.abs(cost / cycles.cost - 1)) for cost in costs) ** 2 + LEAST_ERROR**2)
