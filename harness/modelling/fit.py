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

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.statistics import student_95
from harness.modelling.candidates import best_candidate
from harness.modelling.cost_function import Range
from harness.modelling.doubt import Misfit, Scatter, SessionEffect
from harness.modelling.forms.base import DecodeContext, Form, Part, Sizes
from harness.modelling.least_squares import HUBER, Rows, Solution, ceilings

MIN_POINTS = 4
SUSPECT = 5.0
"""A suspect is off by this many standard deviations, as the median residual tells them, …"""
OUTLYING = 3.0
"""… and by this many root mean squares of the other residuals."""

NO_SCATTER = Scatter(0.0, 1.0)
ONE_SESSION = SessionEffect(0.0)


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
    scatter: Scatter = NO_SCATTER
    """Of single requests, from the trials."""
    session: SessionEffect = ONE_SESSION
    """What the sessions share: the prior where there is one session only."""

    def only(self, chosen: NDArray[np.bool_]) -> Observations:
        """The chosen points."""
        arrays: dict[str, Any] = {k: held for k, held in vars(self).items() if isinstance(held, np.ndarray)}
        return replace(self, **{name: held[chosen] for name, held in arrays.items() if held.size})

    @property
    def sizes(self) -> Sizes:
        """The request sizes, one entry per point."""
        return Sizes(self.input_tokens, self.output_tokens)

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
    points = len(observations.cost)
    rows = equations(observations)
    choice = best_candidate(candidates, rows, {})
    solution, starts = choice.solution, choice.starts
    covariance, standard_errors = _uncertainty(solution, choice.rivals, rows)
    held_out = np.array([_held_out(candidates, observations, rows, point, starts) for point in range(points)])
    suspects = _suspects(solution, rows)
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
        misfit=Misfit(float(np.sqrt(np.mean(held_out[sound] ** 2))), freedom=freedom),
        scatter=observations.scatter,
        session=observations.session,
        suspects=suspects,
        notes=_unidentified(observations),
        refusal=_refusal(solution, observations),
    )


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
    m, n = observations.input_tokens, observations.output_tokens
    return Rows(
        sizes={name: Sizes(m[k], n[k]) for name, k in zip(measured, known, strict=True) if k.any()},
        kept=np.ones(point.size, dtype=bool),
        value=values[known],
        noise=noises[known],
        point=point,
        request=part == 0,
        share=np.where(both, 2 / 3, 1.0)[point],
    )


def _held_out(
    candidates: Sequence[Form], observations: Observations, rows: Rows, point: int, starts: dict[Form, Floats]
) -> float:
    """Relative error at ``point`` by the whole procedure without it."""
    solution = best_candidate(candidates, rows.without(point), starts).solution
    at = Sizes(observations.input_tokens[[point]], observations.output_tokens[[point]])
    return float(solution.form.cost(solution.theta, at)[0] / observations.cost[point] - 1)


def _uncertainty(chosen: Solution, solutions: Sequence[Solution], rows: Rows) -> tuple[Floats, Floats]:
    """Covariance for predictions and standard errors of the coefficients; see ``Fit``.

    Each candidate counts with its likelihood, as in model averaging. What another one predicts is expressed as the
    shift of the chosen one's coefficients that comes nearest to it.
    """
    scatter, limits = chosen.scatter, ceilings(chosen.form, rows)
    deviances = np.array([_deviance(solution.residuals / scatter, rows.share) for solution in solutions])
    likelihoods = np.exp(-(deviances - deviances.min()) / 2)
    likelihoods /= likelihoods.sum()
    covariance = _covariance(chosen, rows, limits)
    variances = np.zeros(chosen.theta.size)
    relative = rows.design(chosen.form, chosen.theta) / rows.value[:, None] * limits
    for solution, likelihood in zip(solutions, likelihoods, strict=True):
        variances += likelihood * (np.diag(_covariance(solution, rows, limits)) + (solution.theta - chosen.theta) ** 2)
        difference = solution.residuals - chosen.residuals
        shift = np.linalg.lstsq(relative / scatter[:, None], difference / scatter, rcond=1e-6)[0] * limits
        covariance += likelihood * np.outer(shift, shift)
    return covariance, np.sqrt(variances)


def _deviance(scaled: Floats, share: Floats) -> float:
    """−2 log likelihood of scaled residuals under Huber's distribution, up to a constant."""
    size = np.abs(scaled)
    return float(np.sum(share * np.where(size < HUBER, size**2, HUBER * (2 * size - HUBER))))


def _covariance(solution: Solution, rows: Rows, limits: Floats) -> Floats:
    """Covariance of the coefficients given the candidate.

    It is that of the estimate without the bound at 0: a coefficient held at 0 keeps the uncertainty that put it
    there. Its scale comes from the residuals, so that it contains what the form can't follow. Directions that the
    points don't determine are limited by what non-negative costs allow: ``limits``, the ``ceilings``.
    """
    weights = np.sqrt(rows.share * solution.weights) / solution.scatter
    design = rows.design(solution.form, solution.theta) * (weights / rows.value)[:, None] * limits
    # Residuals corrected by leverage: a point that bends the model to itself doesn't hide the misfit.
    corrected = weights * solution.residuals / np.sqrt(1 - solution.leverage)
    scale = max(1.0, float(np.sum(corrected**2)) / rows.share.sum())
    # Not by the eigenvalues of design.T @ design: beside exact data, rounding would count as information there.
    stacked = np.vstack([design / np.sqrt(scale), np.eye(limits.size)])
    _, precisions, directions = np.linalg.svd(stacked, full_matrices=False)
    scaled = directions.T / precisions * limits[:, None]
    return np.asarray(scaled @ scaled.T)


def _suspects(solution: Solution, rows: Rows) -> tuple[int, ...]:
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
