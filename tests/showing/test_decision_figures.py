"""Figures of thresholds, workloads and trade-offs: what they say, show and mark."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from harness.core.wording import number, plus_minus_percent
from harness.deciding.answers import ThresholdAnswer, decide_routing, decide_threshold
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import from_pairs
from harness.modelling.profile import Profile
from harness.showing.decision_figures import trade_off_figure, workload_figure
from harness.showing.paper import regenerate
from harness.showing.threshold_figures import accountings_figure, threshold_figure, threshold_panel, write_threshold
from tests.deciding.doubts import doubting
from tests.showing.drawn import assert_readable, notes, texts, title

PAIR = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
MARK = "NOT COMPARABLE (--allow-mixed): different models"


@pytest.fixture(scope="module")
def saving() -> ThresholdAnswer:
    return decide_threshold(*sure(), load_workload("alpaca", output_tokens=32))


def sure() -> list[Profile]:
    """The published pair as if their meters and models were good ones."""
    return [doubting(Profile.load(name), misfit=0.05, session=0.03, gain=0.05) for name in PAIR]


def test_a_saving_is_the_title_and_marked_with_its_interval(saving: ThresholdAnswer) -> None:
    figure = threshold_figure(threshold_panel(saving), saving)
    best, found = saving.decision.threshold, saving.decision.uncertainty.saving
    size = plus_minus_percent(found.value, found.high - found.value)
    assert found.significant
    assert title(figure) == f"Requests of up to {best} input tokens on the M1 Pro save {size} of the energy"
    ratio = f"{saving.decision.uncertainty.runtime_ratio.value:.1f}×"
    assert {f"{best}: {size}", ratio} <= set(texts(figure))
    assert "shaded: thresholds about as good" in notes(figure)
    assert_readable(figure)


def test_a_saving_that_may_be_none_is_called_so() -> None:
    """As published, with meters known to a quarter: the picture says what the terminal says."""
    answer = decide_threshold(*PAIR, "alpaca", key="output")
    figure = threshold_figure(threshold_panel(answer), answer)
    assert title(figure).startswith("No significant saving: requests of up to ")
    assert any(text.endswith(", not significant") for text in texts(figure))
    assert_readable(figure)


def test_the_band_holds_the_curve_and_zero_is_drawn(saving: ThresholdAnswer) -> None:
    figure = threshold_figure(threshold_panel(saving), saving)
    above, below = figure.axes
    (band,) = (found for found in above.collections if found.get_paths())
    low, high = np.ptp(band.get_paths()[0].vertices, axis=0)
    assert low > 0
    assert high > 20
    assert any(np.ptp(line.get_ydata()) == 0 and line.get_ydata()[0] == 0 for line in above.lines), "the zero line"
    assert any(np.ptp(line.get_ydata()) == 0 and line.get_ydata()[0] == 1 for line in below.lines), "the same runtime"
    assert above.get_xscale() == below.get_xscale() == "log"


def test_no_saving_is_said() -> None:
    answer = decide_threshold(*PAIR, "alpaca")
    figure = threshold_figure(threshold_panel(answer), answer)
    assert title(figure) == "No threshold saves energy: send all requests to the A100 (Swing)"
    assert "no threshold saves energy" in texts(figure)
    assert "Ring" not in notes(figure), "there is none"
    assert_readable(figure)


def test_a_cost_that_is_not_energy_is_called_so() -> None:
    answer = decide_threshold(*PAIR, load_workload("alpaca", output_tokens=32), weight=0.99)
    figure = threshold_figure(threshold_panel(answer), answer)
    assert "of the cost" in title(figure) or "costs less" in title(figure)
    assert_readable(figure)


def test_what_estimated_energy_saves_has_no_interval_like_a_measurement() -> None:
    """The figure wrote ``23.0 % ± 9.2 %`` where the terminal says ``≈ 23 %``."""
    profiles = []
    for name in PAIR:
        facts = json.loads(Profile.load(name).dump())
        for part in (facts["energy"], *facts["components"].values()):
            part["method"] = "estimated"
        profiles.append(Profile.parse(json.dumps(facts), name))
    answer = decide_threshold(*profiles, load_workload("alpaca", output_tokens=32))
    figure = threshold_figure(threshold_panel(answer), answer)
    best, size = answer.decision.threshold, f"≈ {100 * answer.decision.uncertainty.saving.value:.0f} %"
    assert title(figure).endswith(f"equests of up to {best} input tokens on the M1 Pro save {size} of the energy")
    assert any(text.startswith(f"{best}: {size}") for text in texts(figure))
    assert "estimated, not measured" in notes(figure)
    above, below = figure.axes
    assert not above.collections, "no band of a saving that is estimated"
    assert below.collections, "time is measured"
    assert_readable(figure)


def test_a_significant_loss_is_not_called_insignificant() -> None:
    """Where time alone counts, the best threshold may need more energy, and surely so."""
    answer = decide_threshold(*sure()[::-1], load_workload("alpaca", output_tokens=8), weight=0)
    assert answer.decision.threshold > 0
    assert answer.decision.uncertainty.saving.high < 0
    (label,) = (text for text in texts(threshold_figure(threshold_panel(answer), answer)) if "lost" in text)
    assert "not significant" not in label


def test_what_is_not_comparable_is_marked_on_the_figure() -> None:
    """It was not: the picture of ``threshold --allow-mixed -o`` looked like any other."""
    other = "swing-a100-falcon-7b"
    answer = decide_threshold(PAIR[0], other, "alpaca", allow_mixed=True)
    routed = decide_routing([PAIR[0], other], "alpaca", allow_mixed=True)
    for figure in (threshold_figure(threshold_panel(answer), answer), trade_off_figure(routed)):
        assert title(figure).startswith(MARK)
        assert_readable(figure)


def test_the_csv_has_the_saving_and_its_interval(saving: ThresholdAnswer, tmp_path: Path) -> None:
    write_threshold(saving, tmp_path / "threshold")
    with (tmp_path / "threshold.csv").open() as file:
        rows = {int(row["threshold"]): row for row in csv.DictReader(file)}
    best, found = rows[saving.decision.threshold], saving.decision.uncertainty
    assert float(best["saving"]) == pytest.approx(found.saving.value)
    assert float(best["saving_ci95"]) == pytest.approx(found.saving.high - found.saving.value)
    assert float(best["runtime_ratio"]) == pytest.approx(found.runtime_ratio.value)
    assert float(rows[0]["saving"]) == 0


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("input", "Published accounting: 8.2 % saved; whole requests: none"),
        ("output", "Published accounting: 7.7 % saved; whole requests: none"),
    ],
)
def test_figures_4_and_5_say_what_each_accounting_saves(key: str, said: str) -> None:
    figure = accountings_figure(regenerate(load_workload("alpaca"), key).panels, key)
    assert title(figure).startswith(said)
    assert len({ax.get_ylim() for ax in figure.axes[::2]}) == 1, "one axis of savings for all rows"
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    assert_readable(figure)


def test_workloads_are_drawn_on_a_log_axis_with_their_medians() -> None:
    figure = workload_figure(from_pairs("mine", "made up", [1, 10, 10, 4000], [5, 5, 5, 900]))
    assert title(figure) == "The median request of mine has 10 input and 5 output tokens"
    assert {"median 10", "median 5"} <= set(texts(figure))
    assert all(ax.get_xscale() == "log" for ax in figure.axes)
    heights = [sum(bar.get_height() for bar in ax.patches) for ax in figure.axes]
    assert heights == [4, 4], "every request is in a bar"
    assert_readable(figure)


def test_the_trade_off_says_what_the_saving_takes() -> None:
    answer = decide_routing([*PAIR, "palmetto-v100-llama-2-7b"], "alpaca")
    figure, sweep = trade_off_figure(answer), answer.trade_off
    saved, longer = 1 - sweep.energy_j[-1] / sweep.energy_j[0], sweep.runtime_s[-1] / sweep.runtime_s[0]
    assert title(figure) == f"Saving {100 * saved:.1f} % of the energy takes {number(longer, 3)} times the runtime"
    assert "Off the scale: M1 Pro alone" in notes(figure)
    assert_readable(figure)
