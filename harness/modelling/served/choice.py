"""The choice of a served form, and of a residual in the numbers in flight, by leaving out whole groups. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.fit import Observations
from harness.modelling.forms.base import Sizes
from harness.modelling.least_squares import Solution, solve
from harness.modelling.served.contradictions import contradicted
from harness.modelling.served.cycle import CycleForm
from harness.modelling.served.cycle_equations import CycleEquations, cycle_rows
from harness.modelling.served.held_out import Fold, folds_in_flight
from harness.modelling.served.residual import InFlightResidual

EXPERTS_WORTH = 0.85
"""To what part the error left out must fall for experts to be told apart: among several ρ one does well by chance."""
RESIDUAL_WORTH = 0.98
"""The same for a residual."""
LEAST_ERROR = 1e-4
"""Below it errors are alike, and the simplest candidate is taken."""
HOPELESS = 1.5
"""Error of a candidate over that of the best one, beyond which it isn't tried again without each point, …"""
CONTENDERS = 4
"""… and how many are at most."""
LARGEST_ERROR = 3.0
"""Of a logarithm: one wild prediction must not decide alone."""


@dataclass(frozen=True)
class ServedChoice:
    """A served form fitted to cycles, with what it leaves over by the number in flight."""

    solution: Solution
    residual: InFlightResidual
    contenders: tuple[CycleForm, ...]
    """The candidates that came near the best, itself among them."""

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


def choose_served(
    observations: Observations, slots: float | None = None, candidates: Sequence[CycleForm] | None = None
) -> ServedChoice:
    """The candidate with the least error at groups of points left out, fitted to all. Costs are of cycles.

    Left out are whole numbers in flight and whole sizes. The residual enters where it lessens that error. Without
    ``candidates`` every one is tried.
    """
    observations = observations.only(~contradicted(observations))
    rows, folds = cycle_rows(observations), folds_in_flight(observations)
    candidates = candidates or [candidate.with_slots(slots) for candidate in CycleForm.candidates()]
    problems = [CycleEquations.of(candidate, rows, observations.sizes) for candidate in candidates]
    scores = np.array([_scores(problem, observations, folds) for problem in problems])
    worth = [1.0 if candidate.served.experts_share is None else EXPERTS_WORTH for candidate in candidates]
    judged = np.maximum(np.minimum(scores[:, 0], scores[:, 1] / RESIDUAL_WORTH), LEAST_ERROR) / worth
    best = int(np.argmin(judged))
    near = [at for at in np.argsort(judged, kind="stable")[:CONTENDERS] if judged[at] <= HOPELESS * judged[best]]
    contenders = tuple(candidates[at] for at in near)
    # A robust start: least squares begun at least squares may take most points for outliers of one.
    start = problems[best].coefficients(np.ones(observations.cost.size, dtype=bool))
    solution = solve(candidates[best], rows, start)
    choice = ServedChoice(solution, InFlightResidual(), contenders)
    if scores[best, 1] >= RESIDUAL_WORTH * scores[best, 0]:
        return choice
    return replace(choice, residual=_left_over(observations, choice.of(observations), choice.form))


def _left_over(observations: Observations, predicted: Floats, form: CycleForm) -> InFlightResidual:
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
