"""The choice of a served form, and of a residual in the numbers in flight, by leaving out whole groups. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.fit import Observations, equations
from harness.modelling.forms.base import Sizes
from harness.modelling.least_squares import Solution, solve
from harness.modelling.served.cycle import CycleForm
from harness.modelling.served.cycle_equations import CycleEquations
from harness.modelling.served.held_out import Fold, folds_in_flight
from harness.modelling.served.residual import InFlightResidual

WORTH = 0.95
"""By how much the error left out must fall for a residual."""
LARGEST_ERROR = 3.0
"""Of a logarithm: one wild prediction must not decide alone."""


@dataclass(frozen=True)
class ServedChoice:
    """A served form fitted to cycles, with what it leaves over by the number in flight."""

    solution: Solution
    residual: InFlightResidual

    @property
    def form(self) -> CycleForm:
        """The form that was chosen."""
        assert isinstance(self.solution.form, CycleForm)
        return self.solution.form

    def cycle(self, sizes: Sizes) -> Floats:
        """Cost of cycles."""
        cost = self.form.cost(self.solution.theta, sizes)
        return np.asarray(cost * self.residual.factor(self.form.working(sizes.c)))

    def of(self, observations: Observations) -> Floats:
        """Cost of cycles of the sizes and numbers in flight of some points."""
        return self.cycle(observations.sizes)


def choose_served(observations: Observations, slots: float | None = None) -> ServedChoice:
    """The candidate with the least error at groups of points left out, fitted to all. Costs are of cycles.

    Left out are whole numbers in flight and whole sizes. The residual enters where it lessens that error.
    """
    rows = equations(observations)
    folds = folds_in_flight(observations)
    candidates = [candidate.with_slots(slots) for candidate in CycleForm.candidates()]
    problems = [CycleEquations.of(candidate, rows, observations.sizes) for candidate in candidates]
    plain, held = zip(*(_scores(problem, observations, folds) for problem in problems), strict=True)
    best = int(np.argmin(np.minimum(plain, np.array(held) / WORTH)))
    # A robust start: least squares begun at least squares may take most points for outliers of one.
    start = problems[best].coefficients(np.ones(observations.cost.size, dtype=bool))
    solution = solve(candidates[best], rows, start)
    choice = ServedChoice(solution, InFlightResidual())
    if held[best] >= WORTH * plain[best]:
        return choice
    return ServedChoice(solution, _left_over(observations, choice.of(observations), solution.form))


def _left_over(observations: Observations, predicted: Floats, form: object) -> InFlightResidual:
    assert isinstance(form, CycleForm)
    known = predicted > 0
    working = form.working(observations.concurrency)[known]
    log = np.log(observations.cost[known] / predicted[known])
    return InFlightResidual.of(working, log, np.ones(log.size))


def _scores(problem: CycleEquations, observations: Observations, folds: Sequence[Fold]) -> tuple[float, float]:
    """Mean error of the logarithm at what the folds leave out, each fold counting once: without and with residual."""
    if not folds:
        error = _log_error(problem.costs(np.ones(observations.cost.size, dtype=bool)), observations.cost)
        return float(np.mean(error)), np.inf
    scores = np.zeros((len(folds), 2))
    for at, fold in enumerate(folds):
        cost = problem.costs(~fold.out)
        residual = _left_over(observations.only(~fold.out), cost[~fold.out], problem.form)
        factor = residual.factor(problem.form.working(observations.concurrency))
        for column, predicted in enumerate((cost, cost * factor)):
            error = _log_error(predicted[fold.judged], observations.cost[fold.judged])
            scores[at, column] = np.mean(error)
    plain, held = scores.mean(axis=0)
    return float(plain), float(held)


def _log_error(predicted: Floats, measured: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.minimum(np.abs(np.log(np.maximum(predicted, 0.0) / measured)), LARGEST_ERROR)
