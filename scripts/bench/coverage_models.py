"""Rows of the coverage table: fitted costs at measured sizes, in another session and at unseen sizes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from coverage_row import Row, row
from request_machines import Cost, Machine, Points, machine
from scipy.optimize import nnls

from harness.core.arrays import Floats
from harness.modelling.cost_function import CostFunction
from harness.modelling.doubt import Source
from harness.modelling.fit import Observations, fit_form
from harness.modelling.forms.base import Sizes
from harness.modelling.forms.phase import Phase
from harness.modelling.measurements import aggregate, observations

SIZES = 5
"""Draws of each row from one simulated machine; each draw is a size of its own."""
MEAN_HERE: tuple[Source, ...] = ("trials", "model")
"""Of the mean cost in the sessions measured, by the meter used."""
REQUEST_HERE: tuple[Source, ...] = (*MEAN_HERE, "scatter")
MEAN_ELSEWHERE: tuple[Source, ...] = (*MEAN_HERE, "sessions")
_QUICK = [(m, 32) for m in (8, 16, 32, 64, 128, 256, 512)] + [(32, n) for n in (8, 16, 64, 128)]
_CROSS = [(m, 32) for m in (8, 32, 128, 512, 2048)] + [(32, n) for n in (8, 128, 512, 1024)]
_PRECISE = [(8 << k, 32) for k in range(9)] + [(32, 8 << k) for k in range(9) if k != 2]
DESIGNS: tuple[Points, ...] = (
    _QUICK,
    [*_CROSS, (256, 128), (1024, 512), (512, 256)],
    [(m, n) for m in (8, 32, 128, 512, 2048) for n in (8, 32, 128, 512)],
    [*_PRECISE, (128, 128), (512, 128), (128, 512), (512, 512), (1024, 256)],
)
"""quick's, cross and three, a grid, precise's: taken in turn."""
OFF_AXIS = 7
"""Sizes off the axes of one machine: a grid has none."""


@dataclass(frozen=True)
class Outcome:
    """One size of one machine: relative to the truth."""

    error: float
    half_width: float
    oracle_error: float
    oracle_sd: float


def rows(draws: int, seed: int) -> Iterator[Row]:
    """Every row of this kind."""
    machines = -(-draws // SIZES)
    seeds = np.random.SeedSequence(seed).spawn(machines)
    found: dict[str, list[Outcome]] = defaultdict(list)
    with ProcessPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
        for outcomes in pool.map(_one_machine, seeds, chunksize=4):
            for name, each in outcomes.items():
                found[name] += each
    for name, outcomes in found.items():
        yield _row(name, outcomes)


def _row(name: str, outcomes: Sequence[Outcome]) -> Row:
    """The oracle's interval is the empirical 95 % quantile of its own errors in units of the deviation it knows."""
    error, half, oracle_error, oracle_sd = np.array([tuple(vars(each).values()) for each in outcomes]).T
    factor = np.quantile(np.abs(oracle_error) / oracle_sd, 0.95)
    return row(f"model: {name}", error, half, factor * oracle_sd)


def _one_machine(seed: np.random.SeedSequence) -> dict[str, list[Outcome]]:
    rng = np.random.default_rng(seed)
    simulated = machine(rng)
    points = DESIGNS[seed.spawn_key[-1] % len(DESIGNS)]
    sessions, count = int(rng.choice([1, 1, 3])), int(rng.integers(3, 6))
    offsets = simulated.offsets(rng, sessions)
    table = simulated.trials(rng, points, count, offsets)
    measured = aggregate(table)
    found: dict[str, list[Outcome]] = {}
    for k, (quantity, cost) in enumerate((("runtime", simulated.runtime), ("energy", simulated.energy))):
        observed = observations(measured, quantity)
        assert observed is not None
        fitted = fit_form(Phase, observed, True)
        function = fitted.function(observed.range)
        oracle = Oracle(simulated, cost, points, observed, sessions, count)
        here = float(np.mean([offset[k] for offset in offsets]))
        for name, outcomes in _judge(rng, simulated, cost, points, function, oracle, here):
            found[f"{name}, {quantity}"] = outcomes
    return found


def _judge(
    rng: np.random.Generator,
    simulated: Machine,
    cost: Cost,
    points: Points,
    function: CostFunction,
    oracle: Oracle,
    here: float,
) -> Iterator[tuple[str, list[Outcome]]]:
    """Each kind of interval at sizes drawn for it; ``here`` is what the measured sessions do on average."""
    m, n = np.array([points[i] for i in rng.integers(len(points), size=SIZES)], dtype=float).T
    true = cost.mean(m, n)
    yield "mean cost, measured sizes", oracle.judge(function, MEAN_HERE, m, n, true * np.exp(here), 0.0)
    requests = simulated.request(rng, cost, true * np.exp(here))
    noise = cost.request_sd(true) / true
    yield "one new request", oracle.judge(function, REQUEST_HERE, m, n, requests, noise)
    other = float(rng.normal(0, simulated.session_sd))
    spread = simulated.session_sd * np.sqrt(1 + 1 / oracle.sessions)
    yield "another session", oracle.judge(function, MEAN_ELSEWHERE, m, n, true * np.exp(other), spread)
    unseen = ("inside", _inside, SIZES), ("off-axis", _off_axis, OFF_AXIS), ("one octave beyond", _beyond, SIZES)
    for name, draw, size in unseen:
        drawn = draw(rng, function, size)
        if drawn is not None:
            m, n = drawn
            known = oracle.misfit(*draw(rng, function, 40))
            truth = cost.mean(m, n) * np.exp(here)
            yield f"unseen sizes, {name}", oracle.judge(function, MEAN_HERE, m, n, truth, known)


class Oracle:
    """Who knows the form with its exponent, the noise of every point and how far the form is off, and fits by that."""

    def __init__(
        self, simulated: Machine, cost: Cost, points: Points, observed: Observations, sessions: int, count: int
    ) -> None:
        m, n = observed.input_tokens, observed.output_tokens
        true = cost.mean(m, n)
        repeats = simulated.repeats(m, n)
        variance = (cost.request_sd(true) / true) ** 2 * (cost.shared + (1 - cost.shared) / repeats)
        self.sessions, self.cost = sessions, cost
        self._exact = self._solve(m, n, true, np.ones_like(m))[0]
        self._off = float(np.sqrt(np.mean((self._predict(self._exact, m, n) / true - 1) ** 2)))
        weights = 1 / (variance / count / sessions + self._off**2)
        self._theta, self._covariance = self._solve(m, n, observed.cost, weights)

    def _solve(self, m: Floats, n: Floats, value: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Weighted least squares on relative errors, from the true coefficients on."""
        theta, sizes = self.cost.theta, Sizes(m, n)
        for _ in range(4):
            design = self.cost.form.design(theta, sizes) * (np.sqrt(weights) / value)[:, None]
            scale = np.linalg.norm(design, axis=0)
            # Not 0, where a roofline has no derivative.
            theta = np.maximum(nnls(design / scale, np.sqrt(weights))[0] / scale, self.cost.theta / 1000)
        return theta, np.linalg.pinv((design / scale).T @ (design / scale)) / np.outer(scale, scale)

    def _predict(self, theta: Floats, m: Floats, n: Floats) -> Floats:
        return self.cost.form.cost(theta, Sizes(m, n))

    def misfit(self, m: Floats, n: Floats) -> float:
        """Root mean square of how far a fit to exact costs is off at such sizes."""
        return float(np.sqrt(np.mean((self._predict(self._exact, m, n) / self.cost.mean(m, n) - 1) ** 2)))

    def judge(
        self,
        function: CostFunction,
        sources: Sequence[Source],
        m: Floats,
        n: Floats,
        truth: Floats,
        further: Floats | float,
    ) -> list[Outcome]:
        """The function's interval of these sources and the oracle's, whose error has a ``further`` deviation."""
        predicted = function.predict(m, n)
        half = predicted.half_width_95(sources) / truth
        own = self._predict(self._theta, m, n)
        design = self.cost.form.design(self._theta, Sizes(m, n)) / own[:, None]
        variance = np.einsum("ij,jk,ik->i", design, self._covariance, design)
        sd = np.sqrt(variance + self._off**2 + np.square(further))
        return [
            Outcome(*each)
            for each in zip(
                (predicted.value / truth - 1).tolist(),
                half.tolist(),
                (own / truth - 1).tolist(),
                sd.tolist(),
                strict=True,
            )
        ]


def _log_uniform(rng: np.random.Generator, least: float, most: float, count: int) -> Floats:
    return np.round(np.exp(rng.uniform(np.log(least), np.log(most), count)))


def _bounds(function: CostFunction) -> tuple[float, float, float, float]:
    held = function.range
    return held.min_input_tokens, held.max_input_tokens, held.min_output_tokens, held.max_output_tokens


def _kept(rng: np.random.Generator, function: CostFunction, count: int, inside: bool) -> tuple[Floats, Floats] | None:
    """Sizes within the bounds of both axes, inside the measured range or outside it; None where there are none."""
    least_m, most_m, least_n, most_n = _bounds(function)
    m, n = _log_uniform(rng, least_m, most_m, 40 * count), _log_uniform(rng, least_n, most_n, 40 * count)
    chosen = np.flatnonzero(function.range.covers(m, n) == inside)[:count]
    return (m[chosen], n[chosen]) if chosen.size == count else None


def _inside(rng: np.random.Generator, function: CostFunction, count: int) -> tuple[Floats, Floats] | None:
    return _kept(rng, function, count, inside=True)


def _off_axis(rng: np.random.Generator, function: CostFunction, count: int) -> tuple[Floats, Floats] | None:
    """Long in both, where the two sweeps were not joined by a point that is."""
    return _kept(rng, function, count, inside=False)


def _beyond(rng: np.random.Generator, function: CostFunction, count: int) -> tuple[Floats, Floats]:
    """Twice the largest input with outputs measured there, or twice the largest output with such inputs."""
    held = function.range
    (short_m, most_n), (most_m, short_n) = held.corners[0], held.corners[-1]
    longer = rng.random(count) < 0.5
    m = np.where(longer, 2 * most_m, _log_uniform(rng, held.min_input_tokens, short_m, count))
    n = np.where(longer, _log_uniform(rng, held.min_output_tokens, short_n, count), 2 * most_n)
    return m, n
