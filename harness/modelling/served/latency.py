"""Times to first and between tokens fitted to points at several numbers in flight. Pure.

The loss is on logarithms, robust, TTFT and TPOT each with its own scatter. What the points can't tell of the queue is
held near what engines commonly have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.statistics import Z95
from harness.modelling.served.form import ServedForm
from harness.modelling.served.residual import InFlightResidual
from harness.modelling.served.station import QUEUE, Batching, PromptStation

USUAL: Final = np.array([np.log(2048.0), 0.5, 0.3, 0.1])
"""Of ``QUEUE``, where points don't tell; of the chunk its logarithm."""
DOUBT: Final = np.array([1.0, 1.0, 0.7, 0.5])
"""Standard deviations of engines from it."""
MOST: Final = np.array([65536.0, 3.0, 1.0, 1.0])
"""Bounds of ``QUEUE``."""
LEAST_POINTS: Final = 4
FIRST_SCATTER: Final = np.array([0.2, 0.05])
"""Standard deviations of the logarithms of TTFT and TPOT to begin with."""
LEAST_SCATTER: Final = 0.002
MOE_SHARES: Final = (None, 0.06)
"""Shares of experts tried: times tell them less than runtimes do."""
_ROUNDS: Final = 3
_FINALISTS: Final = 2
_STEP: Final = 1e-5


@dataclass(frozen=True, eq=False)
class LatencyPoints:
    """Means measured at sizes and numbers in flight; arrays of one entry a point, in s."""

    input_tokens: Floats
    output_tokens: Floats
    concurrency: Floats
    ttft_s: Floats
    tpot_s: Floats
    """NaN where no token follows the first."""

    def __len__(self) -> int:
        return len(self.concurrency)

    @property
    def at(self) -> tuple[Floats, Floats, Floats]:
        """m, n and c."""
        return self.input_tokens, self.output_tokens, self.concurrency

    @property
    def logs(self) -> Floats:
        """Logarithms of TTFT and TPOT: shape (2, points)."""
        return np.log(np.stack([self.ttft_s, self.tpot_s]))

    def only(self, chosen: NDArray[np.bool_]) -> LatencyPoints:
        """The chosen points."""
        return LatencyPoints(*(getattr(self, each.name)[chosen] for each in fields(self)))


@dataclass(frozen=True, eq=False)
class Latencies:
    """Predicted means, in s, with half-widths of their 95 % intervals."""

    ttft_s: Floats
    tpot_s: Floats
    ttft_ci95: Floats
    tpot_ci95: Floats


@dataclass(frozen=True, eq=False)
class LatencyFit:
    """A station with coefficients, and what it leaves over at the numbers in flight."""

    station: PromptStation
    coefficients: Floats
    covariance: Floats
    """Of the coefficients."""
    scatter: Floats
    """Standard deviations of the logarithms of TTFT and TPOT about it."""
    criterion: float
    """Akaike's, corrected for few points: the least is best."""
    ttft_residual: InFlightResidual = field(default_factory=InFlightResidual)
    tpot_residual: InFlightResidual = field(default_factory=InFlightResidual)

    def times(self, m: Floats, n: Floats, c: Floats) -> tuple[Floats, Floats]:
        """TTFT and TPOT in s of whole numbers in flight."""
        ttft, tpot = self.station.times(self.coefficients, m, n, c)
        return ttft * self.ttft_residual.factor(c), tpot * self.tpot_residual.factor(c)

    def predict(self, m: Floats, n: Floats, c: Floats) -> Latencies:
        """Both with their intervals, of the mean at new sizes and numbers in flight."""
        ttft, tpot = self.times(m, n, c)
        used = np.flatnonzero(self.coefficients > 0)
        steps = _STEP * self.coefficients[used]
        varied = np.tile(self.coefficients, (len(used) + 1, 1))
        varied[np.arange(len(used)), used] += steps
        logs = np.log(np.maximum(np.stack(self.station.times(varied.T, m, n, c)), 1e-300))
        slopes = (logs[:, :-1] - logs[:, -1:]) / steps[:, None]
        known = self.covariance[np.ix_(used, used)]
        variance = np.einsum("tip,ij,tjp->tp", slopes, known, slopes) + self.scatter[:, None] ** 2
        half = Z95 * np.sqrt(variance)
        return Latencies(ttft, tpot, ttft * half[0], tpot * half[1])


def fit_latency(
    points: LatencyPoints,
    batching: Batching | None = None,
    *,
    forms: Sequence[ServedForm] | None = None,
    slots: int | None = None,
    chunk_tokens: int | None = None,
) -> LatencyFit:
    """The best of the stations: ``batching`` and ``forms`` where given, else whichever says most of the points.

    Points without both times don't count. Raises UserError for too few points.
    """
    points = points.only((points.ttft_s > 0) & (points.tpot_s > 0) & np.isfinite(points.ttft_s + points.tpot_s))
    if len(points) < LEAST_POINTS:
        raise UserError(
            f"{len(points)} points with time to first token and per output token can't tell how these grow: "
            f"measure at least {LEAST_POINTS}, at several sizes and numbers of requests in flight"
        )
    batchings: tuple[Batching, ...] = ("closed loop", "static batch") if batching is None else (batching,)
    # With two input sizes a floor of each prompt, its tokens and their squares are three unknowns of two.
    joins = (True, False) if len(np.unique(points.input_tokens)) > 2 else (True,)
    known = [ServedForm(joined, share) for joined in joins for share in MOE_SHARES]
    problems = [
        _Problem(PromptStation(form, each, slots), points, chunk_tokens, queue_known)
        for each in batchings
        for form in (forms or known)
        for queue_known in ((False, True) if each == "closed loop" else (True,))
    ]
    first = [_solved(problem, rounds=1) for problem in problems]
    order = sorted(range(len(first)), key=lambda at: first[at].criterion)[:_FINALISTS]
    best = min((_solved(problems[at], first[at], _ROUNDS) for at in order), key=lambda fit: fit.criterion)
    return _with_residuals(best, points)


def _solved(problem: _Problem, start: LatencyFit | None = None, rounds: int = 1) -> LatencyFit:
    """The coefficients of one station; each round weighs TTFT and TPOT by the scatter that the last one left."""
    x, scatter = np.ones(problem.station.size), FIRST_SCATTER
    if start is not None:
        x = start.coefficients / problem.start
        scatter = _typical(problem.errors(x[None])[0])
    for _ in range(rounds):
        x = least_squares(
            problem.residuals,
            x,
            jac=problem.jacobian,
            bounds=(0.0, problem.most),
            loss="soft_l1",
            x_scale="jac",
            max_nfev=25,
            args=(scatter,),
        ).x
        scatter = _typical(problem.errors(x[None])[0])
    return problem.fit(x)


def _typical(errors: Floats) -> Floats:
    """Standard deviations of normal distributions with the median amounts of these errors: for weights."""
    return np.asarray(np.maximum(np.median(np.abs(errors), axis=1) / 0.6745, LEAST_SCATTER))


class _Problem:
    """Residuals as a function of the coefficients over their start."""

    def __init__(
        self, station: PromptStation, points: LatencyPoints, chunk_tokens: int | None, queue_known: bool
    ) -> None:
        """With ``queue_known`` the queue is taken as usual: few points can't tell it."""
        self.station, self.points, self.queue_known = station, points, queue_known
        self.usual, self.doubt = USUAL.copy(), DOUBT * (1e-3 if queue_known else 1.0)
        if chunk_tokens is not None:
            self.usual[0], self.doubt[0] = np.log(chunk_tokens), 1e-3
        self.queued = station.batching == "closed loop"
        self.start = _start(station, points)
        if self.queued:
            self.start = np.concatenate([self.start, [np.exp(self.usual[0]), *self.usual[1:]]])
        self.most = np.full(station.size, np.inf)
        if self.queued:
            self.most[-len(QUEUE) :] = MOST / self.start[-len(QUEUE) :]

    def errors(self, x: Floats) -> Floats:
        """log(predicted/measured): shape (variants, 2, points) of x of shape (variants, coefficients)."""
        predicted = np.stack(self.station.times((x * self.start).T, *self.points.at), axis=1)
        return np.asarray(np.log(np.maximum(predicted, 1e-12)) - self.points.logs)

    def residuals(self, x: Floats, scatter: Floats) -> Floats:
        """Errors over their scatter, then how unusual the queue is: one axis, or two where x has two."""
        variants = np.atleast_2d(x)
        found = (self.errors(variants) / scatter[:, None]).reshape(len(variants), -1)
        if self.queued:
            queue = variants[:, -len(QUEUE) :] * self.start[-len(QUEUE) :]
            queue[:, 0] = np.log(np.maximum(queue[:, 0], 1.0))
            found = np.hstack([found, (queue - self.usual) / self.doubt])
        return found.reshape(*x.shape[:-1], -1)

    def jacobian(self, x: Floats, scatter: Floats) -> Floats:
        """Derivatives of the residuals, all at once."""
        steps = np.maximum(x, 0.01) * _STEP
        residuals = self.residuals(np.vstack([x, x + np.diag(steps)]), scatter)
        return np.asarray(((residuals[1:] - residuals[0]) / steps[:, None]).T)

    def fit(self, x: Floats) -> LatencyFit:
        """The coefficients with their covariance, by the scatter that the mean amounts of errors tell."""
        mean = np.abs(self.errors(x[None])[0]).mean(axis=1)
        scatter = np.maximum(mean * np.sqrt(np.pi / 2), LEAST_SCATTER)
        jacobian = self.jacobian(x, scatter)
        free = x > 1e-6
        covariance = np.zeros((x.size, x.size))
        covariance[np.ix_(free, free)] = np.linalg.pinv(jacobian[:, free].T @ jacobian[:, free])
        count, used = 2 * len(self.points), x.size - (len(QUEUE) if self.queued and self.queue_known else 0)
        criterion = count * np.log(scatter).sum() + 2 * used * count / max(count - used - 1, 0.5)
        # What few points fit closely they don't know so well.
        scatter = scatter * np.sqrt(count / max(count - used, 1))
        covariance *= np.outer(self.start, self.start)
        return LatencyFit(self.station, np.where(free, x, 0) * self.start, covariance, scatter, float(criterion))


def _start(station: PromptStation, points: LatencyPoints) -> Floats:
    """Coefficients of the served form as if all begun together: least squares on relative errors, none at 0."""
    m, n, c = points.at
    floors = np.ones_like(c) if station.form.prefill_joined else c
    spread = np.sqrt(c) if station.batching == "closed loop" else c
    prefill = np.stack([floors, m * spread, m**2 * spread], axis=1) / points.ttft_s[:, None]
    decode = np.stack([np.ones_like(c), c, c * (m + n / 2)], axis=1) / points.tpot_s[:, None]
    if station.form.experts_share is not None:
        decode = np.hstack([decode, (station.form.distinct_experts(c) / points.tpot_s)[:, None]])
    # From 0 it would not get away, as coefficients are varied relative to their start.
    return np.concatenate([np.maximum(_non_negative(each), 0.01 / each.max(axis=0)) for each in (prefill, decode)])


def _non_negative(relative: Floats) -> Floats:
    scale = np.linalg.norm(relative, axis=0)
    return np.asarray(nnls(relative / scale, np.ones(len(relative)))[0] / scale)


def _with_residuals(fit: LatencyFit, points: LatencyPoints) -> LatencyFit:
    ttft, tpot = points.logs - np.log(np.stack(fit.times(*points.at)))
    of = points.concurrency
    return replace(fit, ttft_residual=_left_over(of, ttft), tpot_residual=_left_over(of, tpot))


def _left_over(c: Floats, log: Floats) -> InFlightResidual:
    """What the numbers in flight differ by beyond what their points' scatter makes them differ by (James and Stein)."""
    levels, level, counts = np.unique(c, return_inverse=True, return_counts=True)
    means = np.bincount(level, log) / counts
    within = float(np.sum((log - means[level]) ** 2) / max(len(log) - len(levels), 1))
    between = max(float(np.mean(means**2 - within / counts)), 0.0)
    if between == 0.0:
        return InFlightResidual()
    return InFlightResidual(levels, means * between / (between + within / counts))
