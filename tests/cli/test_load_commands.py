"""``fit``, ``predict`` and ``compare`` where several numbers of requests in flight are known."""

import json
from pathlib import Path

import pytest

from harness.modelling.contrast import compare
from harness.modelling.profile import Profile
from tests.helpers import ROOT, joulebench
from tests.modelling.test_load_fit import COUNTS, fitted

GOLDEN = ROOT / "tests" / "data" / "profile-schema-3.json"
SIZE = ("-p", "64", "-n", "32")


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loads")
    fitted(folder, COUNTS)
    return folder / "trials.csv"


def test_fit_prints_errors_three_ways_rivals_and_static_power(csv: Path, tmp_path: Path) -> None:
    asked = ("fit", "--measurements", csv, "--system", "box", "--model", "mine", "--meter", "nvml")
    done = joulebench(*asked, "-o", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    for said in (
        "under load: 24 points at 1, 2, 4, 16 in flight",
        "linear in c",
        "power law in c",
        "held-out error under load: mean relative error at what was left out of the fit",
        "runtime under load: prefills join other work",
        "static power: 80.0",
        "no limit of requests that are worked on at once is known, nor shows",
    ):
        assert said in done.stdout
    load = json.loads(joulebench(*asked, "--json").stdout)["under_load"]
    assert load["concurrencies"] == [1, 2, 4, 16]
    assert load["static_power_w"] == pytest.approx(80, rel=0.01)
    assert set(load["quantities"]) == {"runtime", "energy", "gpu"}
    assert load["quantities"]["runtime"]["held_out"]["inner"]["mape"] < 0.01
    assert load["latency"]["held_out"]["tpot"]["sizes"]["points"] == 24
    assert Profile.load(tmp_path / "p.json").under_load is not None


def test_predict_takes_requests_in_flight(tmp_path: Path) -> None:
    found = json.loads(joulebench("predict", GOLDEN, *SIZE, "-c", "16,1-4*4", "--json").stdout)["predictions"]
    assert [row["concurrency"] for row in found] == [1, 4, 16]
    golden = Profile.load(GOLDEN)
    for row in found:
        there = golden.at(row["concurrency"])
        assert row["runtime_s"] == pytest.approx(float(there.runtime_s(64, 32)))
        assert row["energy_mean_ci95_j"] == pytest.approx(float(there.predict_energy(64, 32).mean_95))
        assert row["ttft_s"] > 0
        assert row["tpot_mean_ci95_s"] < row["tpot_s"]
    table = joulebench("predict", GOLDEN, *SIZE, "-c", "4,64").stdout
    assert "in flight" in table
    assert "mean TTFT, s" in table
    without = json.loads(joulebench("predict", GOLDEN, *SIZE, "--json").stdout)["predictions"][0]
    assert without["runtime_s"] == found[0]["runtime_s"]
    assert "concurrency" not in without


@pytest.mark.parametrize("command", [("predict", "m1-pro-llama-2-7b", *SIZE), ("compare", GOLDEN, "m1-pro-mistral-7b")])
def test_what_was_measured_at_one_number_in_flight_is_refused_elsewhere(command: tuple[object, ...]) -> None:
    done = joulebench(*command, "-c", "4")
    assert done.returncode == 2
    assert "knows costs with 1 in flight only, not with 4; measure at three or more numbers" in done.stderr
    wrong = joulebench(*command, "-c", "many")
    assert (wrong.returncode, "write requests in flight as 1,2,4" in wrong.stderr) == (2, True)


def test_compare_sets_systems_against_each_other_at_each_number(tmp_path: Path) -> None:
    content = json.loads(GOLDEN.read_text()) | {"name": "slower"}
    content["identity"]["system"] = "slower"
    for coefficient in content["under_load"]["runtime"]["coefficients"]:
        coefficient["value"] *= 2
    (tmp_path / "slower.json").write_text(json.dumps(content))
    asked = ("compare", tmp_path / "slower.json", GOLDEN, *SIZE, "-c", "1,4")
    points = json.loads(joulebench(*asked, "--json").stdout)["points"]
    assert [point["concurrency"] for point in points] == [1, 4]
    # At 1 both have their own models, which are alike.
    assert [point["runtime_ratio"] for point in points] == pytest.approx([1.0, 2.0])
    assert [point["cheaper_runtime"] for point in points] == ["", "example-1b-schema-3"]
    shown = joulebench(*asked).stdout
    assert "at 64 in, 32 out, 4 in flight: no significant difference in energy; B is faster" in shown
    assert compare(tmp_path / "slower.json", GOLDEN, [64], [32], concurrency=4).runtime.ratio == pytest.approx([2.0])
