"""Scatter, misfit and sessions told from measurements whose truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from harness.core.statistics import student_95
from harness.modelling.cost_function import Range
from harness.modelling.doubt import Misfit, Scatter, octaves_to_nearest
from harness.modelling.fit import Observations, fit_form
from harness.modelling.forms.base import Sizes
from harness.modelling.forms.bilinear import Bilinear
from harness.modelling.forms.phase import Phase
from harness.modelling.measurements import aggregate, observations
from harness.modelling.misfit import HeldOutErrors, fit_misfit
from harness.modelling.scatter import Spreads, fit_scatter, of_requests
from harness.modelling.session_effect import PRIOR_SD, Cells
from tests.profile_variants import variant

POINTS = [(m, 32) for m in (8, 32, 128, 512, 2048)] + [(32, n) for n in (8, 128, 512)] + [(512, 256), (128, 128)]
THETA = np.array([0.02, 2e-4, 2e-8, 0.008, 1e-6])


def spreads(rng: np.random.Generator, cost: np.ndarray, sd: np.ndarray, trials: int) -> Spreads:
    """Standard deviations as so many normal trials show them."""
    freedom = np.full(cost.size, trials - 1.0)
    return Spreads(cost, sd * np.sqrt(rng.chisquare(freedom) / freedom), freedom)


def test_scatter_follows_the_cost() -> None:
    rng = np.random.default_rng(1)
    cost = np.geomspace(0.1, 100, 30)
    found = fit_scatter(spreads(rng, cost, 0.03 * cost**0.7, 5))
    assert found is not None
    assert found.sd(np.array([0.3, 3.0, 30.0])) == pytest.approx(0.03 * np.array([0.3, 3.0, 30.0]) ** 0.7, rel=0.15)
    assert found.prior is None


def test_scatter_of_unlike_points_has_few_degrees_of_freedom() -> None:
    rng = np.random.default_rng(2)
    cost = np.geomspace(0.1, 100, 30)
    alike = fit_scatter(spreads(rng, cost, 0.02 * cost, 5))
    unlike = fit_scatter(spreads(rng, cost, 0.02 * cost * np.where(np.arange(30) % 4, 0.2, 3.0), 5))
    assert alike is not None
    assert unlike is not None
    assert alike.freedom > 10
    assert unlike.freedom < 3


def test_a_request_scatters_more_than_the_mean_of_many() -> None:
    """Requests of 5 % in trials of 25: a trial scatters by 1 %, one request by 5 %."""
    rng = np.random.default_rng(3)
    cost, ones = np.full(20, 2.0), np.ones(20)
    trials = spreads(rng, cost, 0.01 * cost, 4)
    single = of_requests(trials, 4 * ones, 25 * ones, 0.05 * cost)
    assert single.sd / cost == pytest.approx(0.05, rel=0.06)
    assert (single.freedom > 30).all()
    # Where nothing is known of single requests, a trial's spread stands for theirs.
    assert of_requests(trials, 4 * ones, ones, np.full(20, np.nan)).sd == pytest.approx(trials.sd)


def test_one_trial_a_point_takes_the_published_spread_and_says_so() -> None:
    m, n = np.array(POINTS, dtype=float).T
    table = pd.DataFrame(
        {"input_tokens": m, "output_tokens": n, "output_tokens_produced": n, "runtime_s": true_cost(m, n)}
    )
    observed = observations(aggregate(table), "runtime")
    assert observed is not None
    assert observed.scatter.prior is not None
    assert "Wilkins" in observed.scatter.prior
    assert (observed.noise == 0).all()


def held(rng: np.random.Generator, sd: float, growth: float, noise: float, count: int = 400) -> HeldOutErrors:
    distance = rng.choice([0.0, 1.0, 2.0], count)
    spread = np.sqrt(sd**2 * (1 + growth * distance**2) + noise**2)
    error, cost = spread * rng.standard_normal(count), np.exp(rng.uniform(-2, 2, count))
    return HeldOutErrors(error, distance, cost, np.full(count, noise**2), np.ones(count))


def test_misfit_grows_with_the_distance_and_leaves_the_trials_noise_out() -> None:
    found = fit_misfit(held(np.random.default_rng(4), 0.02, 2.5, 0.03))
    assert found.relative_sd(np.array([0.0, 2.0]), np.ones(2)) == pytest.approx([0.02, 0.066], rel=0.2)
    assert found.falloff == pytest.approx(0.0, abs=0.1)
    assert found.freedom > 20


def test_misfit_of_few_errors_covers_a_new_one() -> None:
    """Ten errors may be small by chance; so the interval is mostly wider than it need be."""
    found = [fit_misfit(held(np.random.default_rng(seed), 0.02, 1.0, 0.0, 10)) for seed in range(60)]
    half_widths = np.array([each.sd * student_95(each.freedom) for each in found])
    assert np.mean(2 * norm.cdf(half_widths / 0.02) - 1) > 0.95
    assert np.mean(half_widths > 1.96 * 0.02) > 0.7


def test_distances_count_octaves_and_those_outside_more() -> None:
    points = [(8.0, 8.0), (512.0, 8.0), (8.0, 128.0)]
    m, n = np.array([16.0, 512.0, 1024.0]), np.array([16.0, 8.0, 8.0])
    assert octaves_to_nearest(m, n, points) == pytest.approx([np.sqrt(2), 0.0, 1.0])
    away = Range.of(*np.array(points).T).octaves_away(m, n)
    assert away == pytest.approx([np.sqrt(2), 0.0, np.sqrt(1 + 4)])


def true_cost(m: np.ndarray, n: np.ndarray) -> np.ndarray:
    return Phase(True).cost(THETA, Sizes(m, n))


def trials_of(rng: np.random.Generator, offsets: list[float], counts: list[int], points=None) -> pd.DataFrame:
    """Trials of each session, whose costs it changes by its offset; ``points`` are each session's own."""
    tables = []
    for session, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        m, n = np.repeat(np.array(points[session] if points else POINTS, dtype=float), count, axis=0).T
        runtime_s = true_cost(m, n) * np.exp(offset) * (1 + 0.005 * rng.standard_normal(m.size))
        columns = {"input_tokens": m, "output_tokens": n, "output_tokens_produced": n, "runtime_s": runtime_s}
        tables.append(pd.DataFrame(columns | {"session": session}))
    return pd.concat(tables, ignore_index=True)


def fitted(table: pd.DataFrame):
    observed = observations(aggregate(table), "runtime")
    assert observed is not None
    return fit_form(Phase, observed, True), observed


def test_the_deviation_of_sessions_is_told_from_them() -> None:
    rng = np.random.default_rng(5)
    offsets = list(0.06 * rng.standard_normal(12))
    found, _ = fitted(trials_of(rng, offsets, [2] * 12))
    assert found.session.sessions == 12
    assert found.session.prior is None
    assert found.session.sd == pytest.approx(np.std(offsets, ddof=1) * np.sqrt(1 + 1 / 12), rel=0.25)
    assert 10 < found.session.freedom < 30


def test_one_session_takes_the_prior_and_says_so() -> None:
    found, _ = fitted(trials_of(np.random.default_rng(6), [0.0], [3]))
    assert found.session.sessions == 1
    assert found.session.sd == pytest.approx(np.sqrt(2) * PRIOR_SD)
    assert found.session.prior is not None
    assert "Wilkins" in found.session.prior


def test_a_session_of_many_trials_does_not_pull_the_mean_to_itself() -> None:
    """Ten trials 8 % above and two 8 % below: the mean lies between the sessions, not at the first."""
    rng = np.random.default_rng(7)
    found, observed = fitted(trials_of(rng, [0.08, -0.08], [10, 2]))
    sizes = observed.sizes
    assert np.mean(found.form.cost(found.coefficients, sizes) / true_cost(sizes.m, sizes.n)) == pytest.approx(
        1, abs=0.01
    )


def test_sessions_that_measured_other_sizes_are_told_from_the_size_and_leave_doubt() -> None:
    """The second session has the long requests and is 6 % slow: with shared sizes that is no growth with size."""
    rng = np.random.default_rng(8)
    short, long = [point for point in POINTS if max(point) < 512], [point for point in POINTS if max(point) >= 128]
    apart, observed = fitted(trials_of(rng, [0.0, 0.06], [4, 4], [short, long]))
    blind, _ = fitted(trials_of(rng, [0.0, 0.06], [4, 4], [short, long]).drop(columns="session"))
    ratios = []
    for each in (apart, blind):
        cost = each.form.cost(each.coefficients, Sizes(np.array([8.0, 2048.0]), np.array([32.0, 32.0])))
        ratios.append(cost[1] / cost[0])
    true = true_cost(np.array([8.0, 2048.0]), np.array([32.0, 32.0]))
    assert abs(ratios[0] / (true[1] / true[0]) - 1) < 0.03
    assert abs(ratios[1] / (true[1] / true[0]) - 1) > 0.04
    assert observed.cells is not None
    assert observed.cells.sessions == 2


@pytest.mark.parametrize("kind", ["no-work", "bilinear"])
def test_a_cost_of_nothing_or_below_has_finite_intervals(kind: str) -> None:
    """A bilinear form extrapolates below 0; powers of the cost must neither warn nor be NaN there."""
    function = variant(kind).runtime.function
    doubt = Misfit(0.02, growth=2.0, falloff=0.1), Scatter(0.01, 0.8)
    predicted = replace(function, misfit=doubt[0], scatter=doubt[1]).predict([8, 2000, 64], [8, 2, 32])
    assert (predicted.value <= 0).any()
    assert not predicted.too_far.any()
    assert np.isfinite([predicted.mean_95, predicted.request_95]).all()
    assert all((sd >= 0).all() for sd in predicted.sd.values())


def test_a_form_below_0_is_refused_and_stops_no_other_fit() -> None:
    """Long inputs cost next to nothing, so that the bilinear form is negative at measured points."""
    m = np.array([2.0**k for k in range(3, 12)] + 5 * [32.0])
    n = np.array(9 * [32.0] + [8.0, 16.0, 64.0, 128.0, 512.0])
    cost = np.where(m > 500, 0.1, 3.0)
    point, session = np.repeat(np.arange(m.size), 2), np.tile([0, 1], m.size)
    cells = Cells(point, session, cost[point] * np.where(session, 1.03, 1.0), np.full(point.size, 0.005))
    fitted = fit_form(Bilinear, Observations(m, n, cost, np.full(m.size, 0.005), cells=cells), kv_cache=True)
    assert fitted.refusal is not None
    assert np.isfinite([fitted.misfit.sd, fitted.session.sd, *fitted.coefficients]).all()
