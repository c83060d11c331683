"""Figures of what the models under load say, of the golden profile."""

from pathlib import Path

import numpy as np
import pytest

from harness.modelling.profile import Profile
from harness.showing.figure_set import write_figures
from harness.showing.served_figures import served_figure, served_rows, served_title
from harness.showing.served_maps import map_figure, map_rows
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "data" / "profile-schema-3.json"


@pytest.fixture(scope="module")
def golden() -> Profile:
    return Profile.load(GOLDEN)


def test_lines_of_the_model_run_through_what_was_measured(golden: Profile) -> None:
    figure = served_figure(golden)
    energy, tpot = (ax for ax in figure.axes)
    assert energy.get_ylabel() == "energy per token, J"
    assert tpot.get_ylabel() == "time per output token, ms"
    assert tpot.get_xlabel() == "requests in flight (closed loop)"
    points, line, _ = energy.get_lines()[-3:]
    measured = dict(zip(points.get_xdata(), points.get_ydata(), strict=True))
    drawn = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert set(measured) == {1, 4, 16}
    for c in (4, 16):
        assert drawn[c] == pytest.approx(measured[c])


def test_rows_have_measured_and_predicted_values_with_intervals(golden: Profile) -> None:
    rows = served_rows(golden)
    assert {row[6] for row in rows} == {"energy_per_token", "tpot"}
    of_size = [row for row in rows if row[3:7] == (64.0, 32.0, 4, "energy_per_token")]
    *_, measured, predicted, half = of_size[0]
    assert predicted == pytest.approx(golden.at(4).energy_j(64, 32) / 96)
    assert measured == pytest.approx(predicted)
    assert half == pytest.approx(golden.at(4).predict_energy(64, 32).mean_95 / 96)
    gpu = [row for row in served_rows(golden, "gpu") if row[3:7] == (64.0, 32.0, 4, "energy_per_token")]
    assert gpu[0][-2] == pytest.approx(5 / 6 * predicted)


def test_the_title_says_what_more_requests_in_flight_do(golden: Profile) -> None:
    title = served_title(golden)
    ratio = golden.served_at(1).energy_j(512, 32) / golden.at(16).energy_j(512, 32)
    assert title.startswith(f"From 1 to 16 requests in flight energy per token falls {ratio:.1f}-fold and time per")
    assert "(512 in, 32 out)" in title


def test_the_map_has_the_energies_of_the_model(golden: Profile) -> None:
    assert map_figure(golden) is not None
    rows = [row for row in map_rows(golden) if row[2:5] == (64, 32, 4)]
    found = golden.at(4).predict_energy(64, 32)
    assert rows[0][5:] == pytest.approx((float(found.value), float(found.mean_95)))
    assert {row[4] for row in map_rows(golden)} == {1, 2, 4, 8, 16}


def test_without_energy_there_is_no_map(golden: Profile) -> None:
    load = golden.under_load
    assert load is not None
    bare = golden.model_copy(update={"under_load": load.model_copy(update={"energy": None, "components": {}})})
    assert map_figure(bare) is None
    assert [ax.get_ylabel() for ax in served_figure(bare).axes] == ["time per output token, ms"]
    without = bare.model_copy(update={"under_load": bare.under_load.model_copy(update={"latency": None})})  # type: ignore[union-attr]
    assert [ax.get_ylabel() for ax in served_figure(without).axes] == ["runtime per request, s"]


def test_figures_writes_them(tmp_path: Path) -> None:
    paths, _ = write_figures([str(GOLDEN)], tmp_path)
    written = {path.name for path in paths}
    assert {"load-model.png", "load-model.csv", "load-map.svg", "load-map.csv"} <= written
    assert np.genfromtxt(tmp_path / "load-map.csv", delimiter=",", skip_header=1).shape[1] == 7
