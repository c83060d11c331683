"""Fit a form of the cost of a request to measured points, and say how right it is. Pure.

The loss is on relative residuals: a request of 0.2 s counts as much as one of 20 min. A point's weight falls with
the noise of its trials, and points far outside the scatter of the others weigh less (Huber). The error that is
reported is that of the whole procedure, choice among a form's candidates included, at points left out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.statistics import student_95
from harness.modelling.candidates import best_candidate
from harness.modelling.cost_function import TOO_FAR, CostFunction, Range
from harness.modelling.covariance import by_offsets, uncertainty
from harness.modelling.doubt import NO_SCATTER, Misfit, Scatter, SessionEffect
from harness.modelling.forms.base import DecodeContext, Form, Part, Sizes
from harness.modelling.least_squares import Rows, Solution
from harness.modelling.misfit import HeldOutErrors, every_error, fit_misfit
from harness.modelling.session_effect import Cells, Sessions, of_one_session, tell_sessions

MIN_POINTS = 4
SESSION_ROUNDS = 3
SUSPECT = 5.0
"""A suspect is off by this many standard deviations, as the median residual tells them, …"""
OUTLYING = 3.0
"""… and by this many root mean squares of the other residuals."""


@dataclass(frozen=True)
class Observations:
    """Measured means of one quantity, one entry per point. Costs are NaN where not measured."""

    input_tokens: Floats
    output_tokens: Floats
    cost: Floats
    noise: Floats
    """Relative standard error of each cost, from the spread of its trials; 0 where nothing is known."""
    prefill: Floats = field(default_factory=lambda: np.empty(0))
    prefill_noise: Floats = field(default_factory=lambda: np.empty(0))
    decode: Floats = field(default_factory=lambda: np.empty(0))
    decode_noise: Floats = field(default_factory=lambda: np.empty(0))
    output_limit: Floats = field(default_factory=lambda: np.empty(0))
    """Output tokens asked for: up to there the point counts as measured, though some trials stopped before."""
    noise_freedom: float = np.inf
    """Degrees of freedom that ``noise`` is known to."""
    scatter: Scatter = NO_SCATTER
    """Of single requests about the mean of their size, from the trials."""
    cells: Cells | None = None
    """What each session measured at each point; None where there is one session."""
    shared_error: float = 0.0
    """Relative standard deviation of what all trials share beside their session, such as others on the machine."""
    concurrency: Floats = field(default_factory=lambda: np.empty(0))
    """Requests in flight; empty where it isn't told, and all points are of one."""

    def only(self, chosen: NDArray[np.bool_]) -> Observations:
        """The chosen points."""
        arrays: dict[str, Any] = {k: held for k, held in vars(self).items() if isinstance(held, np.ndarray)}
        cells = self.cells.of(chosen) if self.cells else None
        return replace(self, cells=cells, **{name: held[chosen] for name, held in arrays.items() if held.size})

    def without_offsets(self, offsets: Floats) -> Observations:
        """As measured if no session had differed from the others; ``offsets`` are of the logarithm of the cost."""
        assert self.cells is not None
        cells = self.cells
        cost = np.bincount(cells.point, cells.shares * cells.cost * np.exp(-offsets[cells.session])).astype(float)
        with np.errstate(invalid="ignore"):
            phases = {
                name: getattr(self, name) * cost / self.cost for name in ("prefill", "decode") if self.prefill.size
            }
        return replace(self, cost=cost, **phases)

    @property
    def sizes(self) -> Sizes:
        """The request sizes, one entry per point."""
        return Sizes(self.input_tokens, self.output_tokens, self.concurrency)

    @property
    def certain_noise(self) -> Floats:
        """``noise`` at the lower end of its one-sided 90 % interval: what it may be less is the model's misfit."""
        freedom = self.noise_freedom
        return self.noise * (np.sqrt(freedom / chdtri(freedom, 0.1)) if np.isfinite(freedom) else 1.0)

    @property
    def asked_tokens(self) -> Floats:
        """Output tokens asked for, or where that isn't known produced."""
        return self.output_limit if self.output_limit.size else self.output_tokens

    @property
    def range(self) -> Range:
        """The request sizes covered."""
        n = np.fmax(self.output_tokens, self.output_limit) if self.output_limit.size else self.output_tokens
        return replace(Range.of(self.input_tokens, n), min_output_tokens=float(self.output_tokens.min()))


@dataclass(frozen=True)
class Fit:
    """One form fitted to one quantity."""

    form: Form
    coefficients: Floats
    covariance: Floats
    """Of the coefficients given the candidate, enlarged by what another candidate would predict: for predictions."""
    freedom: float
    """Degrees of freedom behind the covariance."""
    standard_errors: Floats
    """Of each coefficient, the uncertainty of the choice of candidate included."""
    mape: float
    """Mean absolute relative error at the points fitted."""
    held_out: Floats
    """Relative error (predicted − measured) / measured at each point by the fit without it."""
    rms: float
    """Root mean square of the held-out errors, suspects left out."""
    misfit: Misfit
    """What the form can't follow, as a function of size."""
    scatter: Scatter
    """Of single requests about the mean of their size."""
    session: SessionEffect
    """What all trials of one session share."""
    suspects: tuple[int, ...]
    """Points far outside the scatter of the others."""
    notes: tuple[str, ...]
    refusal: str | None
    """Why the fit must not be used; None where it may."""

    def function(self, measured: Range, gain_ci95: float = 0.0) -> CostFunction:
        """The fit as a function of request sizes."""
        doubt = (self.misfit, self.scatter, self.session, gain_ci95)
        return CostFunction(self.form, self.coefficients, self.covariance, self.freedom, *doubt, measured)

    @property
    def factor_95(self) -> float:
        """Student's factor of the coefficients' intervals."""
        return student_95(self.freedom)

    @property
    def loo_mape(self) -> float:
        """Mean absolute relative error at points left out of the fit."""
        return float(np.mean(np.abs(self.held_out)))

    @property
    def worst(self) -> int:
        """The point with the largest held-out error."""
        return int(np.argmax(np.abs(self.held_out)))


def fit_form(
    form: type[Form], observations: Observations, kv_cache: bool, decode_context: DecodeContext = "grows"
) -> Fit:
    """Fit a form, the choice among its candidates included. Raises UserError for points that can't tell it."""
    if refusal := form.refusal(kv_cache, observations.sizes):
        raise UserError(refusal)
    distinct = set(zip(observations.input_tokens, observations.output_tokens, strict=True))
    if len(distinct) < MIN_POINTS:
        few = "1 point" if len(distinct) == 1 else f"{len(distinct)} distinct points"
        raise UserError(
            f"{few} can't tell the launch floor from the cost per input and output token: "
            f"measure at least {MIN_POINTS}, with at least 3 input sizes and 3 output sizes among them"
        )
    if not form.has_phases:
        observations = replace(observations, prefill=np.empty(0), decode=np.empty(0))
    candidates = [candidate.attending(decode_context) for candidate in form.candidates(kv_cache)]
    points, measured = len(observations.cost), observations
    observations, sessions = without_sessions(candidates, observations)
    rows = equations(observations)
    choice = best_candidate(candidates, rows, {})
    solution, starts = choice.solution, choice.starts
    covariance, standard_errors = uncertainty(solution, choice.rivals, rows)
    if observations.cells is not None:
        covariance = covariance + by_offsets(solution, rows, observations.cells.weights, sessions.covariance)
    folds = _folds(observations)
    known = _Known(candidates, measured, observations, rows, starts, sessions.effect.sd)
    left_out, costs = zip(*(_left_out(fold, known) for fold in folds), strict=True)
    held_out = np.array([left_out[point].cost[0] / costs[point][0] for point in range(points)]) - 1
    suspects = suspect_points(solution, rows)
    here = np.ones(points, dtype=bool)
    sound = np.setdiff1d(np.arange(points), suspects)
    freedom = float(max(points - solution.theta.size, 1))
    return Fit(
        form=solution.form,
        coefficients=solution.theta,
        covariance=covariance,
        standard_errors=standard_errors,
        mape=float(np.mean(np.abs(solution.residuals[rows.request]))),
        held_out=held_out,
        rms=float(np.sqrt(np.mean(held_out[sound] ** 2))),
        freedom=freedom,
        misfit=fit_misfit(every_error([_fitted(solution, observations, rows), *left_out], [here, *folds])),
        scatter=observations.scatter,
        session=sessions.effect,
        suspects=suspects,
        notes=_unidentified(observations),
        refusal=_refusal(solution, observations),
    )


def without_sessions(candidates: Sequence[Form], observations: Observations) -> tuple[Observations, Sessions]:
    """The points without what sets their sessions apart, and that."""
    shared = observations.shared_error
    if observations.cells is None:
        return observations, Sessions(of_one_session(shared), np.zeros(1), np.zeros((1, 1)))
    cleared = observations
    # What a session does and what the form says of the sizes that it measured are told from each other in turn.
    for _ in range(SESSION_ROUNDS):  # at least once
        solution = best_candidate(candidates, equations(cleared), {}).solution
        found = tell_sessions(observations.cells, *_predicted(solution, cleared))
        cleared = observations.without_offsets(found.offsets)
    effect = replace(found.effect, sd=float(np.hypot(found.effect.sd, shared)))
    return cleared, replace(found, effect=effect)


def equations(observations: Observations) -> Rows:
    """Every measured part of every point as an equation."""
    measured: dict[Part, tuple[Floats, Floats]] = {"request": (observations.cost, observations.noise)}
    both = np.zeros(len(observations.cost), dtype=bool)
    if observations.prefill.size and observations.decode.size:
        both = (observations.prefill > 0) & (observations.decode > 0)
        measured["prefill"] = np.where(both, observations.prefill, np.nan), observations.prefill_noise
        measured["decode"] = np.where(both, observations.decode, np.nan), observations.decode_noise
    values, noises = (np.stack(rows) for rows in zip(*measured.values(), strict=True))
    known = values > 0
    part, point = np.nonzero(known)
    m, n, c = observations.input_tokens, observations.output_tokens, observations.concurrency
    return Rows(
        sizes={
            name: Sizes(m[k], n[k], c[k] if c.size else c) for name, k in zip(measured, known, strict=True) if k.any()
        },
        kept=np.ones(point.size, dtype=bool),
        value=values[known],
        noise=noises[known],
        point=point,
        request=part == 0,
        share=np.where(both, 2 / 3, 1.0)[point],
    )


def _folds(observations: Observations) -> list[NDArray[np.bool_]]:
    """What is left out in turn: every point, every row (one input size) and every column (one output size).

    Rows and columns of one point, or without which too little is left, don't count.
    """
    sizes = np.stack([observations.input_tokens, observations.output_tokens])
    axes = observations.input_tokens, observations.asked_tokens
    lines = [axis == size for axis in axes for size in np.unique(axis) if np.count_nonzero(axis == size) > 1]
    whole = [line for line in lines if np.unique(sizes[:, ~line], axis=1).shape[1] >= MIN_POINTS]
    return [*np.eye(len(observations.cost), dtype=bool), *whole]


def _fitted(solution: Solution, observations: Observations, rows: Rows) -> HeldOutErrors:
    """Errors of the fit at its own points, each as if the point hadn't bent the fit to itself."""
    cost = solution.form.cost(solution.theta, observations.sizes)
    with np.errstate(divide="ignore"):
        error = (observations.cost / cost - 1) / np.sqrt(1 - solution.leverage[rows.request])
    error = np.where(cost > 0, error, np.nan)
    return HeldOutErrors(error, np.zeros(cost.size), cost, observations.certain_noise**2, np.ones(cost.size))


@dataclass(frozen=True)
class _Known:
    """What the fit of all points knows when some are left out of it."""

    candidates: Sequence[Form]
    measured: Observations
    cleared: Observations
    """Without what sets sessions apart."""
    rows: Rows
    """Of these."""
    starts: dict[Form, Floats]
    session_sd: float

    def solved(self, rows: Rows, fold: NDArray[np.bool_]) -> Solution:
        """The best candidate without the points of ``fold``."""
        return best_candidate(self.candidates, rows.without(np.flatnonzero(fold)), self.starts).solution


def _left_out(fold: NDArray[np.bool_], known: _Known) -> tuple[HeldOutErrors, Floats]:
    """Errors at the points of ``fold`` by the whole procedure without them, NaN where no interval would be stated; and
    their costs as those errors have them."""
    observations, rows, unsure = known.cleared, known.rows, np.zeros(int(fold.sum()))
    if known.measured.cells is not None:
        offsets, variance = _offsets_without(fold, known, known.measured.cells)
        observations = known.measured.without_offsets(offsets)
        rows, unsure = equations(observations), known.measured.cells.weights[fold] ** 2 @ variance
    solution = known.solved(rows, fold)
    out, kept = observations.only(fold), observations.only(~fold)
    cost = solution.form.cost(solution.theta, out.sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(cost > 0, out.cost / cost - 1, np.nan)
    too_far = kept.range.octaves_outside(out.input_tokens, out.output_tokens) > TOO_FAR
    distance = kept.range.octaves_away(out.input_tokens, out.output_tokens)
    error = np.where(too_far, np.nan, error)
    return HeldOutErrors(error, distance, cost, out.certain_noise**2 + unsure, np.ones(cost.size)), out.cost


def _offsets_without(fold: NDArray[np.bool_], known: _Known, cells: Cells) -> tuple[Floats, Floats]:
    """What each session does as the points outside ``fold`` tell it, 0 where they don't, and the variance of that.

    Of sessions that measured sizes of their own a point left out would otherwise have told its own error.
    """
    offsets, variance = np.zeros(cells.sessions), np.full(cells.sessions, known.session_sd**2)
    left = cells.of(~fold)
    if left is not None:
        found = tell_sessions(left, *_predicted(known.solved(known.rows, fold), known.cleared.only(~fold)))
        told = np.unique(cells.session[~fold[cells.point]])
        offsets[told], variance[told] = found.offsets, np.diag(found.covariance)
    return offsets, variance


def _predicted(solution: Solution, observations: Observations) -> tuple[Floats, Floats]:
    """Costs of the points by a fit, and their relative derivatives.

    A form that is refused for a negative cost must not stop the others from being fitted.
    """
    design = solution.form.design(solution.theta, observations.sizes)
    predicted = design @ solution.theta
    predicted = np.where(predicted > 0, predicted, observations.cost)
    return predicted, design / predicted[:, None]


def suspect_points(solution: Solution, rows: Rows) -> tuple[int, ...]:
    """Points whose request lies far outside the others' scatter, by a robust and by the ordinary measure of it.

    Each is judged by what its own trials' noise allows: honest scatter is no fault. A residual r of leverage h is
    r/√(1 − h) in units of its own deviation; the held-out residual r/(1 − h) would blame every far end of an axis,
    whose prediction is an extrapolation.
    """
    residuals = (np.abs(solution.residuals) / np.sqrt(1 - solution.leverage) / solution.scatter)[rows.request]
    robust = max(1.4826 * float(np.median(residuals)), 1.0)
    # The root mean square of the other points: a suspect must not hide behind the scatter it makes.
    others = np.sqrt((np.sum(residuals**2) - residuals**2) / (residuals.size - 1))
    return tuple(int(i) for i in np.flatnonzero(residuals > np.maximum(SUSPECT * robust, OUTLYING * others)))


def _unidentified(observations: Observations) -> tuple[str, ...]:
    """What the design leaves open, and what to measure."""
    notes = []
    m, n = observations.input_tokens, observations.output_tokens
    for axis, sizes in (("input", m), ("output", n)):
        distinct = len(np.unique(sizes))
        if distinct < 3:
            seen = "one size" if distinct == 1 else "two sizes"
            option = "-p" if axis == "input" else "-n"
            notes.append(
                f"Only {seen} of {axis} tokens measured, so how the cost grows with {axis} tokens is a guess. "
                f"Measure at least 3 with {option}."
            )
    corner = (m > np.quantile(m, 0.5)) & (n > np.quantile(n, 0.5))
    largest = (m == m.max()) & (n == n.max())
    if not notes and not (corner | largest).any():
        notes.append(
            "Only two sweeps were measured, so requests that are long in both input and output are extrapolated. "
            f"Add some with --point {m.max():.0f},{n.max():.0f}."
        )
    return tuple(notes)


def _refusal(solution: Solution, observations: Observations) -> str | None:
    """Why the fit can't be used: it predicts a cost of 0 or less inside its range."""
    measured = observations.range
    inputs = np.geomspace(measured.min_input_tokens, measured.max_input_tokens, 33)
    outputs = np.geomspace(measured.min_output_tokens, measured.max_output_tokens, 33)
    grid_m, grid_n = np.meshgrid(inputs, outputs)
    inside = measured.covers(grid_m, grid_n)
    m = np.append(grid_m[inside], observations.input_tokens)
    n = np.append(grid_n[inside], observations.output_tokens)
    cost = solution.form.cost(solution.theta, Sizes(m, n))
    if cost.min() > 0:
        return None
    at = int(np.argmin(cost / (m + n)))
    return f"predicts a negative cost inside its range, at {m[at]:.0f} input and {n[at]:.0f} output tokens"
