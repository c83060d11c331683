"""Evaluate a fitted cost function, with its uncertainty, at millions of request sizes. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.sizes import request_words
from harness.core.statistics import Z95, joined_95
from harness.modelling.doubt import MEAN, REQUEST, Misfit, Scatter, SessionEffect, Source, octaves_to_nearest
from harness.modelling.forms.base import Evaluator, Form, Part

CHUNK = 1 << 16
"""Pairs evaluated at a time, so that intermediate values stay in the processor's cache."""

OUTSIDE = 2.0
"""How many times an octave outside the sizes measured counts as much as one between them."""
TOO_FAR = 2.0
"""Octaves outside the measured range beyond which no interval is known: none that was tried covers there."""

MAX_TOTAL_TOKENS = 20_000_000
"""Longest m + n that can be predicted: the tables behind it then take under 2 GB."""


@dataclass(frozen=True)
class Range:
    """The request sizes a cost function was fitted on; elsewhere it extrapolates."""

    min_input_tokens: float
    min_output_tokens: float
    corners: list[tuple[float, float]]
    """The (m, n) measured that no other one exceeds in both, by rising m: the steps of the range's upper edge."""
    points: list[tuple[float, float]] = field(default_factory=list)
    """All (m, n) measured; the corners where nothing else is known."""
    point_octaves: list[float] = field(default_factory=list)
    """How far each of them is in requests in flight; empty where all were measured at the cost function's number."""
    octaves_beyond: float = 0.0
    """How far the cost function's requests in flight lie below the fewest or above the most that were measured."""

    def __post_init__(self) -> None:
        if not self.points:
            object.__setattr__(self, "points", list(self.corners))

    @classmethod
    def of(cls, m: Floats, n: Floats) -> Range:
        """The range of sizes measured at (m, n)."""
        corners: list[tuple[float, float]] = []
        for corner in sorted(set(zip(m.tolist(), n.tolist(), strict=True)), reverse=True):
            if not corners or corner[1] > corners[-1][1]:
                corners.append(corner)
        points = sorted(set(zip(m.tolist(), n.tolist(), strict=True)))
        return cls(float(m.min()), float(n.min()), corners[::-1], points)

    @property
    def max_input_tokens(self) -> float:
        """Longest input measured, at whatever output."""
        return max(m for m, _ in self.corners)

    @property
    def max_output_tokens(self) -> float:
        """Longest output measured, at whatever input."""
        return max(n for _, n in self.corners)

    def octaves_outside(self, m: ArrayLike, n: ArrayLike) -> Floats:
        """How far each (m, n) lies below the smallest or above the largest size of an axis, in octaves of the axis on
        which it is farther; 0 between them, also off the axes of two sweeps. Requests in flight are an axis too. Shapes
        broadcast.
        """
        log_m, log_n = (np.log2(np.asarray(axis, dtype=float)) for axis in (m, n))
        below = np.maximum(np.log2(self.min_input_tokens) - log_m, np.log2(self.min_output_tokens) - log_n)
        above = np.maximum(log_m - np.log2(self.max_input_tokens), log_n - np.log2(self.max_output_tokens))
        return np.asarray(np.maximum(np.maximum(below, above), self.octaves_beyond))

    def octaves_away(self, m: ArrayLike, n: ArrayLike) -> Floats:
        """Distance d of each (m, n) from the nearest measured point: √(Δ² + 4·o²), Δ that of ``octaves_to_nearest`` and
        o the octaves below the smallest or above the largest size of each axis. Shapes broadcast.

        Beyond its ends a form errs more than between its points: a kink there can't be known.
        """
        m, n = np.broadcast_arrays(np.asarray(m, dtype=float), np.asarray(n, dtype=float))
        distance = octaves_to_nearest(m, n, self.points, self.point_octaves)
        bounds = (self.min_input_tokens, self.max_input_tokens), (self.min_output_tokens, self.max_output_tokens)
        outside = [np.log2(np.clip(x, *ends) / x) for x, ends in zip((m, n), bounds, strict=True)]
        beyond = outside[0] ** 2 + outside[1] ** 2 + self.octaves_beyond**2
        return np.asarray(np.sqrt(distance**2 + OUTSIDE**2 * beyond))

    def covers(self, m: ArrayLike, n: ArrayLike) -> NDArray[np.bool_]:
        """Whether each (m, n) lies inside: at or above both minima, and some point measured is no smaller in both.

        On two crossing sweeps long inputs with long outputs lie outside; with more or fewer requests in flight than
        were measured all sizes do. Shapes broadcast.
        """
        m, n = np.asarray(m), np.asarray(n)
        if self.octaves_beyond > 0:
            return np.zeros(np.broadcast_shapes(m.shape, n.shape), dtype=bool)
        below = np.logical_or.reduce([(m <= most_m) & (n <= most_n) for most_m, most_n in self.corners])
        return np.asarray(below & (m >= self.min_input_tokens) & (n >= self.min_output_tokens))


@dataclass(frozen=True)
class Prediction:
    """Costs of requests, with their uncertainty. Arrays have the broadcast shape of m and n."""

    value: Floats
    sd: Mapping[Source, Floats]
    """Standard deviation that each source of doubt leaves, in the cost's unit."""
    freedom: Mapping[Source, float]
    """Degrees of freedom that each of them is known to."""
    out_of_range: NDArray[np.bool_]
    """Where the request lies outside the measured range."""
    too_far: NDArray[np.bool_]
    """Where it lies more than ``TOO_FAR`` octaves outside: there no interval is known."""

    def half_width_95(self, sources: Sequence[Source]) -> Floats:
        """Half-width of the 95 % interval that holds these sources of doubt; NaN where it is too far to know."""
        width = joined_95([self.sd[source] for source in sources], [self.freedom[source] for source in sources])
        return np.where(self.too_far, np.nan, width)

    @property
    def mean_95(self) -> Floats:
        """Half-width of the 95 % interval of the mean cost of requests of this size, on another day."""
        return self.half_width_95(MEAN)

    @property
    def request_95(self) -> Floats:
        """Half-width of the 95 % interval of the cost of one new request, on another day; never below the mean's.

        With a little scatter of many degrees of freedom Satterthwaite's sum would fall below it.
        """
        return np.maximum(self.half_width_95(REQUEST), self.mean_95)


@dataclass(frozen=True, eq=False)
class CostFunction:
    """One fitted form with all that is known of its doubt, and the range it was fitted on."""

    form: Form
    coefficients: Floats
    covariance: Floats
    """Of the coefficients: what the trials leave open."""
    freedom: float
    """Degrees of freedom behind it."""
    misfit: Misfit
    scatter: Scatter
    session: SessionEffect
    gain_ci95: float
    """Relative half-width of the 95 % interval of the meters' gain; 0 for runtimes."""
    range: Range
    _evaluators: dict[tuple[str, Part], tuple[int, Evaluator]] = field(default_factory=dict, repr=False)

    def cost(self, m: ArrayLike, n: ArrayLike, part: Part = "request") -> Floats:
        """Cost of requests of m input and n output tokens. m and n broadcast. Raises UserError."""
        m, n = _token_counts(m, n)
        values = np.empty(m.size)
        for chunk, found in self._evaluated("cost", self.coefficients, m, n, part):
            values[chunk] = found
        return values.reshape(m.shape)

    def predict(self, m: ArrayLike, n: ArrayLike, part: Part = "request", *, strict: bool = False) -> Prediction:
        """Cost with uncertainty and a flag where (m, n) lies outside the measured range.

        Raises UserError for token counts that are none, and outside the range when ``strict``.
        """
        m, n = _token_counts(m, n)
        outside = ~self.range.covers(m, n)
        if strict and outside.any():
            at = np.flatnonzero(outside)[0]
            raise UserError(
                f"{m.flat[at]} input and {n.flat[at]} output tokens lie outside the measured range "
                f"({self.describe_range()}); measure there or predict without strict"
            )
        values, variances, misfits = np.empty(m.size), np.empty(m.size), np.empty(m.size)
        too_far = np.empty(m.size, dtype=bool)
        # The cost and the directions of uncertainty are looked up together.
        directions = np.hstack([self.coefficients[:, None], _square_root(self.covariance)])
        flat_m, flat_n = m.ravel(), n.ravel()
        for chunk, found in self._evaluated("predict", directions, m, n, part):
            values[chunk] = found[:, 0]
            variances[chunk] = np.einsum("ij,ij->i", found[:, 1:], found[:, 1:])
            distance = self.range.octaves_away(flat_m[chunk], flat_n[chunk])
            misfits[chunk] = np.abs(values[chunk]) * self.misfit.relative_sd(distance, values[chunk])
            too_far[chunk] = self.range.octaves_outside(flat_m[chunk], flat_n[chunk]) > TOO_FAR
        value, trials, model = (array.reshape(m.shape) for array in (values, np.sqrt(variances), misfits))
        amount = np.abs(value)
        sd: dict[Source, Floats] = {
            "trials": trials,
            "model": model,
            "sessions": amount * self.session.sd,
            "meter": amount * (self.gain_ci95 / Z95),
            "scatter": self.scatter.sd(amount),
        }
        freedom: dict[Source, float] = {
            "trials": self.freedom,
            "model": self.misfit.freedom,
            "sessions": self.session.freedom,
            "meter": math.inf,
            "scatter": self.scatter.freedom,
        }
        return Prediction(value, sd, freedom, outside, too_far.reshape(m.shape))

    def octaves_away(self, m: ArrayLike, n: ArrayLike) -> Floats:
        """See ``Range.octaves_away``."""
        return self.range.octaves_away(m, n)

    def derivatives(self, m: ArrayLike, n: ArrayLike) -> Floats:
        """Derivatives of the cost with respect to each coefficient, shape (coefficients, *shape of m and n).

        Multiplied by the coefficients they are the cost itself. Raises UserError.
        """
        m, n = _token_counts(m, n)
        values = np.empty((self.coefficients.size, m.size))
        for chunk, found in self._evaluated("design", np.eye(self.coefficients.size), m, n, "request"):
            values[:, chunk] = found.T
        return values.reshape(-1, *m.shape)

    def describe_range(self) -> str:
        """The measured range in words."""
        r = self.range
        corners = " or ".join(request_words(m, n) for m, n in r.corners)
        beyond = ", with other numbers of requests in flight" if r.octaves_beyond > 0 else ""
        return f"from {request_words(r.min_input_tokens, r.min_output_tokens)} up to {corners}{beyond}"

    def _evaluated(
        self, key: str, directions: Floats, m: NDArray[np.int64], n: NDArray[np.int64], part: Part
    ) -> Iterator[tuple[slice, Floats]]:
        """``design @ directions`` chunk by chunk. The evaluator is kept under ``key`` for calls that need none longer.

        Raises UserError.
        """
        longest = _longest(m, n)
        reach, evaluate = self._evaluators.get((key, part), (0, None))
        if evaluate is None or reach < longest:
            evaluate = self.form.evaluator(self.coefficients, directions, longest, part)
            self._evaluators[key, part] = longest, evaluate
        m, n = m.ravel(), n.ravel()
        for start in range(0, m.size, CHUNK):
            chunk = slice(start, start + CHUNK)
            yield chunk, evaluate(m[chunk], n[chunk])


def _token_counts(m: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    m, n = np.broadcast_arrays(_whole(m, "input"), _whole(n, "output"))
    # Not ascontiguousarray, which would turn single sizes into arrays of one.
    return np.asarray(m, order="C"), np.asarray(n, order="C")


def _whole(counts: ArrayLike, what: str) -> NDArray[np.int64]:
    array = np.asarray(counts)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{what} tokens must be whole numbers of at least 1")
    if array.size == 0:
        return array.astype(np.int64)
    least, most = array.min(), array.max()
    if not (least >= 1 and most <= MAX_TOTAL_TOKENS):
        raise UserError(f"{what} tokens must be between 1 and {MAX_TOTAL_TOKENS}, not {least if least < 1 else most}")
    if array.dtype.kind == "f" and not (array == np.floor(array)).all():
        raise UserError(f"{what} tokens must be whole numbers")
    return array.astype(np.int64, copy=False)


def _longest(m: NDArray[np.int64], n: NDArray[np.int64]) -> int:
    """An m + n that no pair exceeds, rounded up so that tables are seldom made again."""
    if m.size == 0:
        return 1
    longest = int(m.max()) + int(n.max())
    if longest > MAX_TOTAL_TOKENS:
        raise UserError(f"requests of {longest} tokens are too long to predict; at most {MAX_TOTAL_TOKENS}")
    return max(1024, 1 << (longest - 1).bit_length())


def _square_root(covariance: Floats) -> Floats:
    """A matrix L with L·Lᵀ = covariance, also where that is only semi-definite."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))
