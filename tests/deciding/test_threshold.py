"""Exact thresholds against brute force, and what their intervals are worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.core.errors import UserError
from harness.deciding import draws, threshold, uncertainty
from harness.deciding.scales import price_scales, raw_scales, reference_scales
from harness.deciding.threshold import KeyTotals


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(key, count, energy, runtime) of up to 40 sizes with repeated keys."""
    size = draw(st.integers(1, 40))
    key = draw(arrays(np.int64, size, elements=st.integers(1, 15)))
    count = draw(arrays(np.float64, size, elements=st.integers(1, 1000).map(float)))
    costs = arrays(np.float64, (2, size), elements=st.floats(0, 1e4))
    return key, count, draw(costs), draw(costs)


def brute_force(limit: int, key: np.ndarray, count: np.ndarray, costs: np.ndarray) -> float:
    return float(sum(c * costs[0 if k <= limit else 1, i] for i, (k, c) in enumerate(zip(key, count, strict=True))))


@settings(max_examples=200)
@given(problems(), st.floats(0, 1))
def test_the_exact_threshold_equals_brute_force_over_all_keys(problem: tuple, weight: float) -> None:
    key, count, energy, runtime = problem
    scales = raw_scales(weight)
    curve = threshold.totals_by_key(key, count, energy, runtime).curve
    candidates = [0, *sorted(set(key.tolist()))]
    assert curve.threshold.tolist() == candidates
    size = 1e-9 * (1 + count @ (energy + runtime).sum(axis=0))
    for i, limit in enumerate(candidates):
        assert curve.energy_j[i] == pytest.approx(brute_force(limit, key, count, energy), abs=size)
        assert curve.runtime_s[i] == pytest.approx(brute_force(limit, key, count, runtime), abs=size)
        assert curve.small_share[i] == pytest.approx(count[key <= limit].sum() / count.sum())
    cost = scales.cost(energy, runtime)
    least = min(brute_force(limit, key, count, cost) for limit in candidates)
    best = int(curve.threshold[curve.best(scales)])
    assert brute_force(best, key, count, cost) == pytest.approx(least, abs=size)


@given(problems(), st.integers(1, 6), st.integers(0, 16))
def test_coarser_keys_keep_totals_and_the_boundary(problem: tuple, groups: int, boundary: int) -> None:
    exact = threshold.totals_by_key(*problem)
    coarse, group = threshold.coarsen(exact, groups, boundary)
    assert coarse.key.size <= max(exact.key.size if exact.key.size <= groups else 0, groups + 1)
    np.testing.assert_allclose(coarse.energy_j.sum(axis=1), exact.energy_j.sum(axis=1), atol=1e-6)
    assert (np.diff(group) >= 0).all()
    for g in range(coarse.key.size):
        members = exact.key[group == g]
        assert members.max() == coarse.key[g]
        assert len(set((members <= boundary).tolist())) == 1


def test_keys_of_a_request() -> None:
    m, n = np.array([3, 5]), np.array([7, 2])
    keys = {name: threshold.request_key(name, m, n).tolist() for name in ("input", "output", "total", "product")}
    assert keys == {"input": [3, 5], "output": [7, 2], "total": [10, 7], "product": [21, 10]}
    with pytest.raises(UserError, match="length"):
        threshold.request_key("length", m, n)


def test_scales() -> None:
    """Hand arithmetic: 2 J and 4 s at λ = 0.25."""
    energy, runtime, count = np.array([1.0, 5.0]), np.array([2.0, 10.0]), np.array([3.0, 1.0])
    assert float(raw_scales(0.25).cost(np.array(2.0), np.array(4.0))) == pytest.approx(3.5)
    reference = reference_scales(0.25, energy, runtime, count)
    assert (reference.energy_reference_j, reference.runtime_reference_s) == (2.0, 4.0)
    assert float(reference.cost(np.array(2.0), np.array(4.0))) == pytest.approx(1.0)
    price = price_scales(0.3, 36.0)
    assert float(price.cost(np.array(3.6e6), np.array(100.0))) == pytest.approx(1.3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: raw_scales(1.5),
        lambda: raw_scales(float("nan")),
        lambda: price_scales(0, 0),
        lambda: price_scales(-1, 2),
        lambda: reference_scales(1, np.zeros(1), np.ones(1), np.ones(1)),
    ],
)
def test_senseless_scales_are_refused(make) -> None:
    with pytest.raises(UserError, match=r"weight|price|positive"):
        make()


def machines(small_factor: float, requests: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(key, count, energy) where the small system is cheaper below a key of 50 by up to a factor."""
    key = np.arange(1, 101)
    count = np.full(100, requests / 100)
    large = np.full(100, 10.0)
    return key, count, np.stack([large + small_factor * (key - 50), large])


def draws_of(totals: KeyTotals, relative_error: float, moments: np.ndarray, seed: int = 1) -> KeyTotals:
    """Each system's costs off by one drawn factor."""
    rng = np.random.default_rng(seed)
    factors = relative_error * rng.standard_normal((400, 2, 1))
    return draws.draw_totals(totals, factors * totals.energy_j, factors * totals.runtime_s, moments, rng)


def test_a_clear_saving_is_significant_and_its_plateau_surrounds_it() -> None:
    key, count, energy = machines(0.1, 1e6)
    totals = threshold.totals_by_key(key, count, energy, energy)
    scales = raw_scales(1)
    moments = draws.second_moments(np.arange(100), 100, count, np.vstack([energy, energy]))
    found = uncertainty.threshold_uncertainty(totals, draws_of(totals, 0.01, moments), 50, scales)
    assert found.saving.significant
    assert found.saving.value == pytest.approx(0.1 * 50 * 49 / 2 / 1000)
    assert found.saving.low < found.saving.value < found.saving.high
    assert found.plateau_low <= found.threshold_low <= 50 <= found.threshold_high <= found.plateau_high
    assert found.plateau_low > 30
    assert found.plateau_high < 70
    assert found.runtime_ratio.value == pytest.approx(1 - found.saving.value)


def test_a_saving_below_the_models_error_is_not_significant() -> None:
    key, count, energy = machines(0.001, 1e6)
    totals = threshold.totals_by_key(key, count, energy, energy)
    moments = draws.second_moments(np.arange(100), 100, count, np.vstack([energy, energy]))
    found = uncertainty.threshold_uncertainty(totals, draws_of(totals, 0.05, moments), 50, raw_scales(1))
    assert not found.saving.significant
    assert (found.threshold_low, found.threshold_high) == (0, 100)


def test_without_any_uncertainty_the_plateau_is_the_ties() -> None:
    key, count = np.array([1, 2, 3, 4]), np.ones(4)
    energy = np.array([[1.0, 5.0, 5.0, 9.0], [2.0, 5.0, 5.0, 2.0]])
    totals = threshold.totals_by_key(key, count, energy, energy)
    found = uncertainty.threshold_uncertainty(totals, draws_of(totals, 0.0, np.zeros((4, 4, 4))), 1, raw_scales(1))
    assert (found.plateau_low, found.plateau_high) == (1, 3)
    assert [found.saving.low, found.saving.value, found.saving.high] == pytest.approx([1 / 14] * 3)


def test_the_bootstrap_has_the_spread_of_resampled_workloads() -> None:
    """Against resampling requests one by one: 300 requests, four sizes, two keys."""
    rng = np.random.default_rng(3)
    key, count = np.array([1, 1, 2, 2]), np.array([60.0, 90.0, 30.0, 120.0])
    energy, runtime = rng.uniform(1, 9, (2, 4)), rng.uniform(1, 9, (2, 4))
    totals = threshold.totals_by_key(key, count, energy, runtime)
    moments = draws.second_moments(key - 1, 2, count, np.vstack([energy, runtime]))
    zero = np.zeros((4000, 2, 2))
    drawn = draws.draw_totals(totals, zero, zero, moments, rng).curve
    saving = 1 - drawn.energy_j[:, 1] / drawn.energy_j[:, 0]
    resampled = rng.multinomial(300, count / 300, 4000)
    small, large = resampled @ np.where(key == 1, energy[0], energy[1]), resampled @ energy[1]
    direct = 1 - small / large
    assert saving.std() == pytest.approx(direct.std(), rel=0.08)
    assert saving.mean() == pytest.approx(direct.mean(), abs=4 * direct.std() / np.sqrt(4000))


def test_savings_hold_the_asked_share_of_draws() -> None:
    """The spread of a ratio of two totals that err by themselves, for large errors too."""
    for sd in (0.02, 0.5):
        drawn = 10 + sd * 10 * np.random.default_rng(0).standard_normal((20_000, 2))
        found = uncertainty.estimated_saving(np.array([9.0, 10.0]), drawn - [1.0, 0.0])
        assert found.value == pytest.approx(0.1)
        half = 1.96 * sd * np.hypot(1, 0.9)
        # Errors are relative: as factors they reach further up.
        assert found.high - found.value == pytest.approx(half * (1.03 if sd < 0.1 else np.e - 1), rel=0.03)
        assert found.low + found.high == pytest.approx(0.2)
        assert found.significant is (sd < 0.1)


def test_nothing_is_significant_where_intervals_are_not_known() -> None:
    key, count, energy = machines(0.1, 1e6)
    totals = threshold.totals_by_key(key, count, energy, energy)
    drawn = draws_of(totals, 0.01, np.zeros((100, 4, 4)))
    found = [uncertainty.threshold_uncertainty(totals, drawn, 50, raw_scales(1), known) for known in (True, False)]
    assert [each.saving.significant for each in found] == [True, False]
    assert found[0].saving.low == found[1].saving.low
