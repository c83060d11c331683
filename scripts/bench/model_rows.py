"""How fast measurements become a model, a model predictions, and requests a threshold; beside plain numpy and scipy."""

from __future__ import annotations

import numpy as np
from comparison import Comparison, Options, per_second, rates
from scipy.optimize import least_squares

from harness.deciding.answers import decide_threshold
from harness.deciding.workload import from_pairs
from harness.modelling.fit import fit_form
from harness.modelling.fitting import observations
from harness.modelling.forms.base import Sizes
from harness.modelling.forms.phase import ROOFLINES, Phase
from harness.modelling.profile import Profile

SYSTEMS = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
PREDICTIONS = 2_000_000
REQUESTS = 5_000_000


def fitting(options: Options) -> list[Comparison]:
    """Fits/s of the runtime model of a published pair, held-out errors included, against scipy's least squares.

    The reference fits the same form with the same bounds to the same points by ``scipy.optimize.least_squares`` on
    relative residuals, and does the same work: it chooses the exponent on all points, and again without each one.
    Ours adds covariances, suspects and notes.
    """
    observed = observations(Profile.load(SYSTEMS[1]).measurements, "runtime")
    assert observed is not None
    m, n, cost = observed.input_tokens, observed.output_tokens, observed.cost
    scale = np.array([1e-1, 1e-3, 1e-7])

    def solve(exponent: float, kept: np.ndarray) -> tuple[float, np.ndarray]:
        form, sizes = Phase(False, exponent), Sizes(m[kept], n[kept])

        def residuals(scaled: np.ndarray) -> np.ndarray:
            theta = scaled * scale
            return np.asarray(form.design(theta, sizes) @ theta / cost[kept] - 1)

        found = least_squares(residuals, np.ones(3), bounds=(0, np.inf), loss="huber", f_scale=0.1)
        return float(found.cost), found.x * scale

    def best(kept: np.ndarray) -> tuple[float, np.ndarray]:
        fits = [(exponent, *solve(exponent, kept)) for exponent in ROOFLINES]
        exponent, _, theta = min(fits, key=lambda found: found[1])
        return exponent, theta

    def by_scipy() -> np.ndarray:
        points = np.arange(len(cost))
        best(points)
        errors = []
        for point in points:
            exponent, theta = best(points[points != point])
            sizes = Sizes(m[[point]], n[[point]])
            errors.append((Phase(False, exponent).design(theta, sizes) @ theta).item() / cost[point] - 1)
        return np.array(errors)

    ours, reference = rates(
        per_second(lambda: fit_form(Phase, observed, kv_cache=False)), per_second(by_scipy), options.rounds
    )
    return [Comparison(f"fit, {len(cost)} points", "fits/s", ours, reference, "scipy least_squares", 1.0)]


def predicting(options: Options) -> list[Comparison]:
    """Predictions/s of a fitted runtime against numpy evaluating three products and two sums on the same arrays."""
    function = Profile.load(SYSTEMS[1]).runtime.function
    m, n = _requests(PREDICTIONS // (10 if options.short else 1))
    a0, a1, a2 = 1e-3, 1e-2, 1e-6

    def by_numpy() -> np.ndarray:
        return np.asarray(a0 * m + a1 * n + a2 * (m * n))

    ours, reference = rates(per_second(lambda: function.cost(m, n)), per_second(by_numpy), options.rounds)
    millions = [[m.size * rate / 1e6 for rate in side] for side in (ours, reference)]
    return [Comparison("predict requests", "million/s", *millions, "bilinear in numpy", 0.5)]


def deciding(options: Options) -> list[Comparison]:
    """Requests/s from token counts in memory to the exact best threshold with its uncertainty, against sorting them.

    No exact threshold can do with less than a sort of the requests by their key and one pass over the sums.
    """
    m, n = _requests(REQUESTS // (10 if options.short else 1))
    small, large = (Profile.load(name) for name in SYSTEMS)

    def ours() -> int:
        answer = decide_threshold(small, large, from_pairs("bench", "made", m, n), key="total")
        return answer.decision.threshold

    def by_sorting() -> float:
        order = np.argsort(m + n)
        return float(np.cumsum(m[order])[-1])

    mine, theirs = rates(per_second(ours), per_second(by_sorting), options.rounds)
    millions = [[m.size * rate / 1e6 for rate in side] for side in (mine, theirs)]
    # What does not grow with the requests weighs more among few.
    aim = 0.04 if options.short else 0.25
    return [Comparison("best threshold", "million/s", *millions, "argsort and cumsum", aim)]


def _requests(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-normal input and output tokens, median 400 in and 90 out."""
    rng = np.random.default_rng(0)
    m = np.clip(np.exp(6.0 + 1.2 * rng.standard_normal(count)), 1, 8192).astype(np.int64)
    n = np.clip(np.exp(4.5 + 1.0 * rng.standard_normal(count)), 1, 2048).astype(np.int64)
    return m, n
