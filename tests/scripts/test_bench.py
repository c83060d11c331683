"""The table of the project's own speed: its structure, and ratios with margins wide enough for any machine."""

import json
import statistics
import subprocess
import sys
from typing import Any

import pytest

from tests.helpers import ROOT, environment

pytest.importorskip("torch")
pytest.importorskip("transformers")


def script(name: str, *options: str, timeout_s: float = 850) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / name), *options]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout_s)


LIGHT = {
    "not sampled": 0.8,
    "scipy least_squares": 1.2,
    "bilinear in numpy": 0.25,
    "argsort and cumsum": 0.015,
    "bare typer": 0.5,
}
HEAVY = {"generate()": 0.6, "compile none": 0.6, "bare loop": 0.6}
"""By reference the least ratio: a quarter to two thirds of what the short version reaches. A loaded machine must pass,
a slower loop must not."""


def short(*only: str) -> dict[str, Any]:
    options = [part for name in only for part in ("--only", name)]
    done = script("speed.py", "--short", "--threads", "1", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def light() -> dict[str, Any]:
    return short("sampling", "fit", "predict", "threshold", "startup", "llama-bench", "graph", "roofline")


@pytest.fixture(scope="module")
def heavy() -> dict[str, Any]:
    """The rows that load models and compile."""
    return short("generate", "inductor", "harness")


def check_rows(found: dict[str, Any], floors: dict[str, float]) -> None:
    assert {row["reference_name"] for row in found["comparisons"]} == set(floors)
    for row in found["comparisons"]:
        # The fastest round of each side: other programs can only make a round slower.
        assert max(row["ours"]) / max(row["reference"]) > floors[row["reference_name"]], row
        ratios = [a / b for a, b in zip(row["ours"], row["reference"], strict=True)]
        low, high = row["quartiles"]
        assert len(ratios) >= 2
        assert row["median_ratio"] == pytest.approx(statistics.median(ratios))
        assert min(ratios) <= low <= row["median_ratio"] <= high <= max(ratios)
        assert row["aim"] > 0
        assert row["unit"].endswith("/s")


def test_light_rows_hold_their_rounds_and_no_ratio_is_far_from_its_aim(light: dict[str, Any]) -> None:
    check_rows(light, LIGHT)


@pytest.mark.slow
def test_rows_of_models_hold_their_rounds_and_no_ratio_is_far_from_its_aim(heavy: dict[str, Any]) -> None:
    check_rows(heavy, HEAVY)


def test_what_cannot_run_says_why(light: dict[str, Any]) -> None:
    import torch

    assert "--short" in light["unavailable"]["llama-bench"]
    if not torch.cuda.is_available():
        assert {light["unavailable"][name] for name in ("graph", "roofline")} == {"it needs a CUDA GPU"}
        assert not any("graph" in row["name"] for row in light["comparisons"])


def test_the_table_shows_one_row_and_its_aim() -> None:
    done = script("speed.py", "--short", "--only", "predict", "--only", "llama-bench", "--rounds", "3")
    assert done.returncode == 0, done.stderr
    _, heads, row, absent = done.stdout.splitlines()
    assert heads.split() == ["ours", "reference", "ratio", "quartiles", "aim", "against"]
    assert row.startswith("predict requests")
    assert "bilinear in numpy" in row
    assert "≥ 0.5" in row
    assert absent.startswith("llama-bench: not measured, ")


def test_a_benchmark_that_fails_costs_no_other_row() -> None:
    options = ["--short", "--only", "fit", "--only", "predict", "--rounds", "2", "--json"]
    command = [sys.executable, "-c", BROKEN_FIT, str(ROOT / "scripts" / "bench"), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == {"fit": "ValueError: no fit today"}
    assert [row["reference_name"] for row in found["comparisons"]] == ["bilinear in numpy"]


BROKEN_FIT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import speed

def broken(options):
    raise ValueError("no fit today")

speed.BENCHMARKS["fit"] = broken
speed.main()
"""


def test_rounds_are_as_many_as_asked() -> None:
    done = script("speed.py", "--short", "--only", "predict", "--rounds", "3", "--json")
    (row,) = json.loads(done.stdout)["comparisons"]
    assert len(row["ours"]) == len(row["reference"]) == 3


def test_energies_from_a_simulated_rapl_tree_are_true() -> None:
    done = script("rapl_tree.py", "--windows", "0.3", "--repeats", "6", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for row in (found["windows"]["0.3"], found["wrapping"]):
        assert row["median_error"] < 0.01, "far more than a loaded machine needs; half of what 50 ms samples would give"
        assert row["median_error"] <= row["worst_error"]
        assert row["coverage"] >= 0.5
        assert 0 < row["ci95"] < 0.1


@pytest.mark.parametrize(
    "options", [("--only", "nothing"), ("--rounds", "1"), ("--threads", "0")], ids=lambda options: options[0]
)
def test_wrong_options_are_refused_in_one_line(options: tuple[str, ...]) -> None:
    done = script("speed.py", *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("speed.py: error: ")
    assert options[0] in line


def test_roofline_of_the_processor() -> None:
    found = json.loads(script("roofline.py", "--device", "cpu", "--json").stdout)
    assert found["copy_bytes_per_s"] > 1e8
    assert found["matmul_flops_per_s"] > 1e8
    for rate in ("copy_bytes_per_s", "matmul_flops_per_s"):
        low, high = found[f"{rate}_quartiles"]
        assert low <= found[rate] <= high


def test_roofline_needs_its_device() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU")
    done = script("roofline.py", "--device", "cuda")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == "roofline.py: error: device 'cuda' isn't usable here; choose one of cpu"


@pytest.mark.parametrize("windows", ["abc", "0", "-1", "nan", "inf", "0.5,,2"])
def test_wrong_windows_of_the_rapl_tree_are_refused_in_words(windows: str) -> None:
    done = script("rapl_tree.py", f"--windows={windows}", timeout_s=30)
    assert done.returncode == 2
    assert f"{windows!r} is not lengths in s above 0" in done.stderr
    assert done.stderr.count("\n") == 1
