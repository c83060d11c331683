"""Fit the cost of requests under load to measured points, and say how right it is. Pure.

The costs fitted are of cycles: runtimes as they are, energies of a request times those in flight. What is stated is the
error of the whole procedure, the choices of form and residual included, at what was left out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.cost_function import TOO_FAR
from harness.modelling.covariance import by_offsets, uncertainty
from harness.modelling.fit import MIN_POINTS, Observations, suspect_points, without_sessions
from harness.modelling.least_squares import solve
from harness.modelling.misfit import HeldOutErrors, every_error, fit_misfit
from harness.modelling.served.choice import ServedChoice, choose_served
from harness.modelling.served.contradictions import contradicted
from harness.modelling.served.cycle import CycleForm
from harness.modelling.served.cycle_equations import cycle_rows
from harness.modelling.served.function import MeasuredLoads, ServedFunction
from harness.modelling.served.held_out import HeldOutKind, LeftOutErrors, errors_left_out, folds_in_flight
from harness.modelling.served.rivals import RIVALS
from harness.modelling.served.slots import found_slots

FEWEST_IN_FLIGHT = 2
"""Numbers of requests in flight that tell what another one costs."""
MOST_FOLDS = 64
"""Parts that points are left out in, for the misfit: of more points some are left out together."""


@dataclass(frozen=True)
class ServedFit:
    """The served form fitted to one quantity."""

    function: ServedFunction
    standard_errors: Floats
    """Of each coefficient, the uncertainty of the choice of form included."""
    mape: float
    """Mean absolute relative error at the points fitted."""
    held_out: Mapping[HeldOutKind, LeftOutErrors]
    """Errors at what was left out, three ways."""
    rivals: Mapping[str, Mapping[HeldOutKind, LeftOutErrors]]
    """The same of each simple rival."""
    suspects: tuple[int, ...]
    """Points far outside the scatter of the others; those that are contradicted are in no fit and no error."""
    slots_found: bool
    """Whether the slots are told by the costs alone, not by the server."""


def fit_served(
    observations: Observations, *, per_request: bool, slots: float | None = None, static_batch: bool = False
) -> ServedFit:
    """Fit the served form to points at several numbers of requests in flight. Raises UserError where they can't tell.

    ``per_request`` says that a point's cost is of one request, as energy is, not of its cycle. ``slots`` are those that
    the server told; None looks for them. In a static batch the phases of a point add up to its cycle, and inform the
    fit at every number in flight; in a closed loop, at one alone.
    """
    _refuse_few(observations)
    cycles = of_cycles(observations, per_request, static_batch)
    candidates = [candidate.with_slots(slots) for candidate in CycleForm.candidates()]
    cycles, sessions = without_sessions(candidates, cycles)
    wrong = contradicted(cycles)
    sound = cycles.only(~wrong)
    told = found_slots(sound) if slots is None else slots
    choice, rows = choose_served(sound, told), cycle_rows(sound)
    form = choice.form
    rivals = [solve(each, rows, None) for each in choice.contenders if each != form]
    covariance, standard_errors = uncertainty(choice.solution, [choice.solution, *rivals], rows)
    if sound.cells is not None:
        covariance = covariance + by_offsets(choice.solution, rows, sound.cells.weights, sessions.covariance)
    freedom = float(max(sound.cost.size - int(np.count_nonzero(choice.solution.theta)), 1))
    folds = folds_in_flight(sound)
    return ServedFit(
        function=ServedFunction(
            form=form.served,
            coefficients=form.own(choice.solution.theta),
            covariance=form.own(covariance),
            freedom=freedom,
            misfit=fit_misfit(_misfit_errors(choice, sound, per_request)),
            scatter=observations.scatter,
            session=sessions.effect,
            gain_ci95=0.0,
            loads=_loads(sound, form),
            per_request=per_request,
            slots=told,
            residual=choice.residual,
        ),
        standard_errors=form.own(standard_errors),
        mape=float(np.mean(np.abs(choice.of(sound) / sound.cost - 1))),
        held_out=errors_left_out(sound, served_procedure(slots), folds),
        rivals={name: errors_left_out(sound, rival, folds) for name, rival in RIVALS.items()},
        suspects=_suspects(wrong, suspect_points(choice.solution, rows)),
        slots_found=slots is None and told is not None,
    )


def _suspects(wrong: NDArray[np.bool_], among_sound: Sequence[int]) -> tuple[int, ...]:
    """Numbers of the points that are contradicted, or far off among the others."""
    sound = np.flatnonzero(~wrong)
    return tuple(sorted([*np.flatnonzero(wrong).tolist(), *sound[list(among_sound)].tolist()]))


def served_procedure(slots: float | None) -> Callable[[Observations], Callable[[Observations], Floats]]:
    """From points whose costs are of cycles to a predictor, all choices made on those points; ``slots`` as told."""

    def fit(points: Observations) -> Callable[[Observations], Floats]:
        return choose_served(points, found_slots(points) if slots is None else slots).of

    return fit


def of_cycles(observations: Observations, per_request: bool, static_batch: bool) -> Observations:
    """The same with costs of whole cycles, and only those phases that are parts of theirs."""
    c = observations.concurrency
    times = c if per_request else np.ones_like(c)
    cells = observations.cells
    if cells is not None:
        cells = replace(cells, cost=cells.cost * times[cells.point])
    parts: dict[str, Any] = {}
    for name in ("prefill", "decode"):
        held = getattr(observations, name)
        if held.size:
            parts[name] = held * times if static_batch else np.where(c == 1, held, np.nan)
    return replace(observations, cost=observations.cost * times, cells=cells, **parts)


def _refuse_few(observations: Observations) -> None:
    c = observations.concurrency
    if c.size != observations.cost.size or np.unique(c).size < FEWEST_IN_FLIGHT:
        raise UserError(
            "points at one number of requests in flight don't tell what more of them cost: measure at 1 and at least "
            "one more, better at three or four with -c"
        )
    if observations.cost.size < MIN_POINTS:
        raise UserError(f"{observations.cost.size} points are too few to fit costs under load: measure at least 4")


def _loads(points: Observations, form: CycleForm) -> MeasuredLoads:
    """What was measured, requests that wait for a slot not counted."""
    working = form.working(points.concurrency)
    return MeasuredLoads(np.stack([points.input_tokens, points.asked_tokens, working], axis=1))


def _misfit_errors(choice: ServedChoice, cycles: Observations, per_request: bool) -> HeldOutErrors:
    """Errors at every point by the fit of all, and at every point, row, column and number in flight left out."""
    folds = _misfit_folds(cycles)
    here = np.ones(cycles.cost.size, dtype=bool)
    parts = [_fitted(choice, cycles, per_request)]
    parts += [_left_out(fold, cycles, choice, per_request) for fold in folds]
    return every_error(parts, [here, *folds])


def _misfit_folds(cycles: Observations) -> list[NDArray[np.bool_]]:
    """Every point, and every row, column and number in flight of several points, without which enough is left.

    Of many points some are left out together: that each costs a fit would take minutes.
    """
    axes = cycles.input_tokens, cycles.asked_tokens, cycles.concurrency
    fold = np.arange(cycles.cost.size) % MOST_FOLDS
    folds = [fold == number for number in np.unique(fold)]
    for axis in axes:
        lines = [axis == level for level in np.unique(axis)]
        folds += [line for line in lines if 1 < line.sum() <= cycles.cost.size - MIN_POINTS]
    return [fold for fold in folds if np.unique(cycles.concurrency[~fold]).size >= FEWEST_IN_FLIGHT]


def _fitted(choice: ServedChoice, cycles: Observations, per_request: bool) -> HeldOutErrors:
    """Errors of the fit at its own points, each as if the point hadn't bent the fit to itself."""
    cost = choice.of(cycles)
    rows = cycle_rows(cycles)
    leverage = choice.solution.leverage[rows.request]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(cost > 0, (cycles.cost / cost - 1) / np.sqrt(1 - leverage), np.nan)
    return _errors(error, np.zeros(cost.size), cost, cycles, per_request)


def _left_out(fold: NDArray[np.bool_], cycles: Observations, found: ServedChoice, per_request: bool) -> HeldOutErrors:
    """Errors at the points of ``fold`` by the whole procedure without them; NaN where no interval would be stated."""
    out, kept = cycles.only(fold), cycles.only(~fold)
    choice = choose_served(kept, found.form.slots, found.contenders)
    cost, loads, working = choice.of(out), _loads(kept, choice.form), choice.form.working(out.concurrency)
    distance = np.empty(cost.size)
    too_far = np.empty(cost.size, dtype=bool)
    for c in np.unique(working):
        here = working == c
        measured = loads.at(float(c))
        sizes = out.input_tokens[here], out.output_tokens[here]
        distance[here] = measured.octaves_away(*sizes)
        too_far[here] = measured.octaves_outside(*sizes) > TOO_FAR
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where((cost > 0) & ~too_far, out.cost / cost - 1, np.nan)
    return _errors(error, distance, cost, out, per_request)


def _errors(error: Floats, distance: Floats, cycle: Floats, points: Observations, per_request: bool) -> HeldOutErrors:
    """With costs as they are stated: of a request where they are per request."""
    cost = cycle / points.concurrency if per_request else cycle
    return HeldOutErrors(error, distance, cost, points.certain_noise**2, np.ones(cost.size))
