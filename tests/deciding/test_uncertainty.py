"""Intervals of ratios and the band around every threshold."""

import numpy as np
import pytest

from harness.deciding import draws, uncertainty
from harness.deciding.answers import decide_routing, decide_threshold
from harness.modelling.profile import Profile
from tests.deciding.doubts import doubting

PAIR = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


def rough(misfit: float) -> list[Profile]:
    """The published pair with models that are off by so much."""
    loaded = [Profile.load(name) for name in PAIR]
    return [doubting(p, trials=True, misfit=misfit) for p in loaded]


@pytest.mark.parametrize("misfit", [1.0, 3.0])
def test_a_ratio_of_runtimes_is_positive_however_rough_the_models_are(misfit: float) -> None:
    """Normal errors of a total made ratios of less than nothing: −5.89 to 23."""
    found = decide_threshold(*rough(misfit), "alpaca", key="output").decision.uncertainty.runtime_ratio
    routed = decide_routing(rough(misfit), "alpaca").decision.runtime_ratio
    for ratio in (found, routed):
        assert 0 < ratio.low < ratio.value < ratio.high
        assert ratio.high / ratio.low > np.exp(misfit / 2)


@pytest.mark.parametrize("sd", [0.05, 0.3, 1.0])
def test_ratios_lie_in_their_intervals_as_often_as_these_say(sd: float) -> None:
    """True totals are the modelled ones times a factor; of a thousand pairs 95 % have their ratio inside."""
    rng = np.random.default_rng(1)
    modelled = np.array([3.0, 2.0])
    drawn = modelled * (1 + sd * rng.standard_normal((4000, 2)))
    found = uncertainty.estimated_ratio(modelled, drawn)
    first, second = (modelled * np.exp(sd * rng.standard_normal((1000, 2)))).T
    assert found.value == 1.5
    inside = np.mean((first / second > found.low) & (first / second < found.high))
    assert inside == pytest.approx(0.95, abs=0.025)


def test_the_inverse_of_a_ratio_has_the_inverse_interval() -> None:
    drawn = np.random.default_rng(2).normal(1.0, 0.4, (400, 2))
    there = uncertainty.estimated_ratio(np.ones(2), drawn)
    back = uncertainty.estimated_ratio(np.ones(2), drawn[:, ::-1])
    assert back.low == pytest.approx(1 / there.high)
    assert back.high == pytest.approx(1 / there.low)


@pytest.mark.parametrize("workload", ["alpaca", "long.csv"])
def test_the_band_says_at_the_best_threshold_what_the_answer_says(workload: str, tmp_path) -> None:
    """Also where keys are so many that neighbours are merged."""
    if workload == "long.csv":
        m, n = np.random.default_rng(0).integers(1, 2000, (2, 5000))
        lines = [f"{i},{o}" for i, o in zip(m, n // 40 + 1, strict=True)]
        (tmp_path / workload).write_text("\n".join(["input_tokens,output_tokens", *lines]))
        workload = str(tmp_path / workload)
    answer = decide_threshold(*PAIR, workload, key="output" if workload == "alpaca" else "input")
    found, band = answer.decision.uncertainty, answer.band
    at = int(np.searchsorted(band.threshold, answer.decision.threshold))
    assert answer.decision.threshold == band.threshold[at] > 0
    assert band.saving[at] == pytest.approx(found.saving.value, abs=1e-12)
    assert band.saving_ci95[at] == pytest.approx(found.saving.high - found.saving.value, rel=1e-9)
    ratio = band.runtime_ratio[at], band.runtime_ratio_low[at], band.runtime_ratio_high[at]
    assert ratio == pytest.approx((found.runtime_ratio.value, found.runtime_ratio.low, found.runtime_ratio.high))
    # Everything to the large system is what savings are against.
    assert (band.threshold[0], band.saving[0], band.saving_ci95[0], band.runtime_ratio[0]) == (0, 0, 0, 1)
    assert band.saving.size == band.threshold.size == band.saving_ci95.size <= 2 * draws.GROUPS + 2
