"""Times to first and between tokens fitted to points at several numbers in flight. Pure.

The loss is on logarithms, robust, TTFT and TPOT each with its own scatter. What the number of points can't tell of the
queue is held near what engines commonly have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.served.form import ServedForm
from harness.modelling.served.station import QUEUE, Batching, PromptStation

USUAL: Final = {"chunk_tokens": 2048.0, "wait_steps": 0.5, "queue_share": 0.3, "together_share": 0.05}
"""Of ``QUEUE``, where points don't tell."""
DOUBT: Final = {"chunk_tokens": 1.0, "wait_steps": 1.0, "queue_share": 0.7, "together_share": 0.5}
"""How far from them they may be: standard deviations, of the chunk's in its logarithm."""
MOST: Final = {"chunk_tokens": 65536.0, "wait_steps": 3.0, "queue_share": 1.0, "together_share": 1.0}
LEAST_POINTS: Final = 4
FIRST_SCATTER: Final = {"ttft": 0.2, "tpot": 0.05}
LEAST_SCATTER: Final = 0.002
_ROUNDS: Final = 3
_STEP: Final = 1e-5


@dataclass(frozen=True)
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

    def only(self, chosen: NDArray[np.bool_]) -> LatencyPoints:
        """The chosen points."""
        return LatencyPoints(*(held[chosen] for held in vars(self).values()))


@dataclass(frozen=True)
class LatencyFit:
    """A station with coefficients."""

    station: PromptStation
    coefficients: Floats
    covariance: Floats
    """Of the coefficients."""
    scatter: dict[str, float]
    """Standard deviation of the logarithm of ttft and of tpot about it."""
    criterion: float
    """Akaike's, corrected for few points: the least is best."""

    def times(self, m: Floats, n: Floats, c: Floats) -> tuple[Floats, Floats]:
        """TTFT and TPOT in s."""
        return self.station.times(self.coefficients, m, n, c)


def fit_latency(
    points: LatencyPoints,
    batching: Batching | None = None,
    *,
    forms: Sequence[ServedForm] | None = None,
    slots: int | None = None,
    chunk_tokens: int | None = None,
) -> LatencyFit:
    """The best of the stations: ``batching`` and ``forms`` where given, else whichever says most of the points.

    Raises UserError for too few points.
    """
    points = points.only(np.isfinite(points.ttft_s) & np.isfinite(points.tpot_s))
    if len(points) < LEAST_POINTS:
        raise UserError(
            f"{len(points)} points with time to first token and per output token can't tell how they grow: "
            f"measure at least {LEAST_POINTS}, at several sizes and numbers of requests in flight"
        )
    batchings: tuple[Batching, ...] = ("closed loop", "static batch") if batching is None else (batching,)
    known = [ServedForm(joined, share) for joined in (True, False) for share in (None, 0.06)]
    stations = [PromptStation(form, each, slots) for each in batchings for form in (forms or known)]
    fits = [_fit(station, points, chunk_tokens) for station in stations]
    return min(fits, key=lambda fit: fit.criterion)


def _fit(station: PromptStation, points: LatencyPoints, chunk_tokens: int | None) -> LatencyFit:
    problem = _Problem(station, points, _start(station, points), chunk_tokens)
    x = np.ones(problem.free)
    scatter = FIRST_SCATTER
    for _ in range(_ROUNDS):
        solved = least_squares(
            lambda x, held=scatter: problem.residuals(x[None], held)[0],
            x,
            jac=lambda x, held=scatter: problem.jacobian(x, held),
            bounds=(0.0, problem.most),
            loss="soft_l1",
            x_scale="jac",
            max_nfev=60,
        )
        x = solved.x
        errors = problem.errors(x[None])
        scatter = {name: max(_spread(error[0]), LEAST_SCATTER) for name, error in errors.items()}
    return problem.fit(x, scatter)


def _spread(errors: Floats) -> float:
    """Standard deviation as the mean absolute error of a normal distribution tells it."""
    return float(np.mean(np.abs(errors)) * np.sqrt(np.pi / 2))


class _Problem:
    """Residuals as a function of the coefficients over their start."""

    def __init__(self, station: PromptStation, points: LatencyPoints, start: Floats, chunk_tokens: int | None) -> None:
        self.station, self.points, self.start = station, points, start
        self.most = np.full(station.size, np.inf)
        self.queued = station.batching == "closed loop"
        if self.queued:
            for at, name in enumerate(QUEUE, station.size - len(QUEUE)):
                self.most[at] = MOST[name] / start[at]
            if chunk_tokens is not None:
                self.start[station.size - len(QUEUE)] = chunk_tokens
        self.known_chunk = chunk_tokens is not None
        self.free = station.size

    def errors(self, x: Floats) -> dict[str, Floats]:
        """log(predicted/measured) of both; x is (variants, coefficients)."""
        ttft, tpot = self.station.times((x * self.start).T, *self.points.at)
        return {
            "ttft": np.log(np.maximum(ttft, 1e-12) / self.points.ttft_s),
            "tpot": np.log(np.maximum(tpot, 1e-12) / self.points.tpot_s),
        }

    def residuals(self, x: Floats, scatter: dict[str, float]) -> Floats:
        parts = [error / scatter[name] for name, error in self.errors(x).items()]
        if self.queued:
            parts.append(self._usual(x))
        return np.concatenate(parts, axis=1)

    def _usual(self, x: Floats) -> Floats:
        first = self.station.size - len(QUEUE)
        off = []
        for at, name in enumerate(QUEUE, first):
            value = x[:, at] * self.start[at]
            if name == "chunk_tokens":
                value, centre = np.log(np.maximum(value, 1.0)), np.log(USUAL[name])
                doubt = 1e-3 if self.known_chunk else DOUBT[name]
                centre = np.log(self.start[at]) if self.known_chunk else centre
            else:
                centre, doubt = USUAL[name], DOUBT[name]
            off.append((value - centre) / doubt)
        return np.stack(off, axis=1)

    def jacobian(self, x: Floats, scatter: dict[str, float]) -> Floats:
        steps = np.maximum(x, 0.01) * _STEP
        varied = np.vstack([x, x + np.diag(steps)])
        residuals = self.residuals(varied, scatter)
        return np.asarray(((residuals[1:] - residuals[0]) / steps[:, None]).T)

    def fit(self, x: Floats, scatter: dict[str, float]) -> LatencyFit:
        jacobian = self.jacobian(x, scatter)
        free = x > 0
        covariance = np.zeros((x.size, x.size))
        covariance[np.ix_(free, free)] = np.linalg.pinv(jacobian[:, free].T @ jacobian[:, free])
        count, used = 2 * len(self.points), int(free.sum())
        loss = sum(2 * len(self.points) * np.log(scatter[name]) for name in scatter)
        criterion = loss + 2 * used * count / max(count - used - 1, 0.5)
        covariance *= np.outer(self.start, self.start)
        return LatencyFit(self.station, x * self.start, covariance, scatter, float(criterion))


def _start(station: PromptStation, points: LatencyPoints) -> Floats:
    """As if all of it were a static batch: non-negative least squares on relative errors, each time by itself."""
    m, n, c = points.at
    floors = np.ones_like(c) if station.form.prefill_joined else c
    prefill = _non_negative(np.stack([floors, m * np.sqrt(c), m**2 * np.sqrt(c)], axis=1), points.ttft_s)
    columns = [np.ones_like(c), c, c * (m + n / 2)]
    if station.form.experts_share is not None:
        columns.append(station.form.distinct_experts(c))
    decode = _non_negative(np.stack(columns, axis=1), points.tpot_s)
    start = np.concatenate([prefill, decode])
    if station.batching == "closed loop":
        start = np.concatenate([start, [USUAL[name] for name in QUEUE]])
    # None at 0: it would stay there, as coefficients are varied relative to their start.
    least = 1e-2 * np.array(
        [np.min(points.ttft_s), np.min(points.ttft_s / m), np.min(points.ttft_s / m**2), np.min(points.tpot_s)]
        + [np.min(points.tpot_s / c), np.min(points.tpot_s / c / (m + n / 2)), np.min(points.tpot_s / c)][
            : len(decode) - 1
        ]
        + [0.0] * (station.size - 3 - len(decode))
    )
    return np.maximum(start, least)


def _non_negative(design: Floats, value: Floats) -> Floats:
    relative = design / value[:, None]
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1.0
    return np.asarray(nnls(relative / scale, np.ones(len(value)))[0] / scale)
