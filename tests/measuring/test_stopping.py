"""When a point has been measured enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.core.statistics import estimate_of, half_width_95
from harness.measuring.stopping import RelativePrecision, RuntimeHalfWidth

VALUES = st.lists(st.floats(0.01, 1e4), min_size=2, max_size=30)


@given(VALUES)
def test_half_width_is_that_of_students_t(values: list[float]) -> None:
    expected = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    assert half_width_95(values) == pytest.approx(expected, abs=1e-9 * max(values))


@pytest.mark.parametrize(("fewest", "most"), [(3, 4), (3, 10)])
@pytest.mark.parametrize("noise", [0.02, 0.03])
def test_a_mean_lies_in_its_interval_where_the_rule_ended_its_trials(fewest: int, most: int, noise: float) -> None:
    """Whoever stops when ± is small stops where it happens to be small: Student's own interval holds 90–94 %."""
    rng = np.random.default_rng((fewest, most, round(1000 * noise)))
    rule = RelativePrecision(relative=0.02, min_trials=fewest, max_trials=most)
    held, usual = 0, 0
    for values in 1.0 + noise * rng.standard_normal((1000, most)):
        count = next(k for k in range(1, most + 1) if rule.done({"runtime_s": values[:k].tolist()}))
        ended = values[:count].tolist()
        held += abs(np.mean(ended) - 1.0) <= half_width_95(ended, sequential=True)
        usual += abs(np.mean(ended) - 1.0) <= half_width_95(ended)
    assert held / 1000 >= 0.93
    assert usual < held


def test_what_a_rule_says_is_precise_is_what_the_tables_say() -> None:
    values = [1.0, 1.01, 0.99, 1.005]
    width = RelativePrecision(0.01, 3, 10).width({"runtime_s": values})
    assert width
    stated = estimate_of(values, sequential=True)
    assert stated
    assert width.half_width == pytest.approx(stated.half_width / stated.mean)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_one_value_says_nothing_about_its_spread(values: list[float]) -> None:
    assert half_width_95(values) is None


def test_every_measured_quantity_must_be_precise() -> None:
    rule = RelativePrecision(relative=0.02, min_trials=3, max_trials=10)
    steady, wild = [1.0, 1.001, 0.999], [1.0, 2.0, 3.0]
    assert rule.done({"runtime_s": steady})
    assert rule.done({"runtime_s": steady, "energy_j": steady})
    assert not rule.done({"runtime_s": steady, "energy_j": wild})
    assert not rule.done({"runtime_s": wild, "energy_j": steady})
    # A quantity that some trials lack is judged on those it has; one value is not enough to judge.
    assert not rule.done({"runtime_s": steady, "energy_j": steady[:1]})


@given(VALUES, st.integers(2, 5), st.integers(5, 12))
def test_relative_rule_keeps_its_limits(values: list[float], fewest: int, most: int) -> None:
    rule = RelativePrecision(relative=0.05, min_trials=fewest, max_trials=most)
    done = rule.done({"runtime_s": values})
    if len(values) < fewest:
        assert not done
    if len(values) >= most:
        assert done


def test_limit_of_one_trial_is_kept() -> None:
    rule = RelativePrecision(relative=0.05, min_trials=3, max_trials=10).with_max_trials(1)
    assert not rule.done({"runtime_s": []})
    assert rule.done({"runtime_s": [1.0]})


def test_paper_rule_is_absolute() -> None:
    rule = RuntimeHalfWidth(half_width_s=0.5, max_trials=25)
    assert not rule.done({"runtime_s": [1.0]})
    assert rule.done({"runtime_s": [1.0, 1.01]})
    assert not rule.done({"runtime_s": [100.0, 104.0, 97.0]})
    assert rule.done({"runtime_s": [100.0, 104.0] * 13})
