"""The published accounting gives the published figures; its means are those of the published trials."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.deciding import paper_accounting
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import from_pairs
from harness.showing import paper
from tests.helpers import ROOT

DATA = ROOT.parent / "shared" / "data"
BUILDER = ROOT / "scripts" / "published" / "build_accounting.py"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published trials are not beside the checkout")


@pytest.fixture(scope="module")
def alpaca():
    return load_workload("alpaca")


@pytest.mark.parametrize(("key", "at_best_kwh", "large_kwh"), [("input", 0.748, 0.815), ("output", 0.645, 0.698)])
def test_the_published_minima_are_regenerated(alpaca, key: str, at_best_kwh: float, large_kwh: float) -> None:
    result = paper_accounting.paper_curve(alpaca, "m1-pro", "swing-a100", key)
    assert result.curve.threshold[result.best] == 32
    assert result.curve.energy_j[result.best] / 3.6e6 == pytest.approx(at_best_kwh, rel=0.005)
    assert result.large_only[0] / 3.6e6 == pytest.approx(large_kwh, rel=0.005)
    assert 0.075 <= result.saving <= 0.083


def test_the_published_arithmetic_by_hand() -> None:
    """Three prompts of 11 tokens belong to 8, two of 12 to 16: 2^3.5 = 11.3. Outputs and their lengths don't count."""
    means = paper_accounting.published_means("output")
    w = from_pairs("w", "test", [11, 12], [900, 1], [3.0, 2.0])
    result = paper_accounting.paper_curve(w, "m1-pro", "swing-a100", "output")
    small, large = means["m1-pro"], means["swing-a100"]
    split = 33 * small[8][0] + 24 * large[16][0]
    assert result.small_only[0] == pytest.approx(33 * small[8][0] + 24 * small[16][0])
    assert result.large_only[1] == pytest.approx(33 * large[8][1] + 24 * large[16][1])
    assert result.curve.energy_j[0] == pytest.approx(result.large_only[0])
    assert result.curve.energy_j[1] == pytest.approx(result.small_only[0])
    assert result.curve.small_share.tolist() == [0.0] + [1.0] * 6
    longer = from_pairs("w", "test", [8, 12], [1, 1], [3.0, 2.0])
    assert paper_accounting.paper_curve(longer, "m1-pro", "swing-a100", "output").curve.energy_j[0] == pytest.approx(
        split - 9 * small[8][0]
    )


def test_curves_end_at_the_systems_alone(alpaca) -> None:
    """No prompt is longer than 366 tokens, and few are as short as 8."""
    for key in paper_accounting.THRESHOLDS:
        result = paper_accounting.paper_curve(alpaca, "m1-pro", "swing-a100", key)
        assert result.curve.energy_j[-1] == pytest.approx(result.small_only[0])
        assert result.curve.runtime_s[-1] == pytest.approx(result.small_only[1])
        assert result.curve.energy_j[0] == pytest.approx(result.large_only[0], rel=0.01)
        assert (np.diff(result.curve.runtime_s) >= 0).all()


@pytest.mark.parametrize(
    ("lengths", "small", "key", "expected"),
    [
        ([5], "m1-pro", "input", "4 tokens"),
        ([800], "m1-pro", "output", "1024 tokens"),
        ([32], "palmetto-v100", "input", "palmetto-v100"),
        ([32], "m1-pro", "total", "input and output"),
    ],
)
def test_what_the_published_means_do_not_reach_is_refused(lengths, small, key, expected) -> None:
    w = from_pairs("w", "test", lengths, [1] * len(lengths))
    with pytest.raises(UserError, match=expected):
        paper_accounting.paper_curve(w, small, "swing-a100", key)


@needs_data
def test_the_shipped_files_are_what_the_script_makes_of_the_published_trials() -> None:
    specification = importlib.util.spec_from_file_location("build_paper_accounting", BUILDER)
    assert specification is not None
    assert specification.loader is not None
    builder = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(builder)
    for name, made in (("alpaca", builder.alpaca(DATA)), ("paper-accounting", builder.paper_accounting(DATA))):
        assert json.loads((ROOT / "profiles" / f"{name}.json").read_text()) == made


@needs_data
def test_the_authors_filter_loses_the_trials_it_loses() -> None:
    """Read without pandas: a trial whose name holds a 0 anywhere is gone, trial 10 and the size 1024 with it."""
    with (DATA / "wilkins2024" / "output-sweep.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if "inference" in r["Phase"] and "0" not in r["Phase"]]
    kept = [r for r in rows if r["System"] == "M1-Pro" and r["Number of Output Tokens"] == "512"]
    mean = np.mean(
        [(float(r["CPU Energy (J)"]) + float(r["GPU Energy (J)"])) / float(r["Total Number of Tokens"]) for r in kept]
    )
    assert paper_accounting.published_means("output")["m1-pro"][512][0] == pytest.approx(mean)
    assert not any(r["Number of Output Tokens"] in ("1024", "2048", "4096") for r in rows)
    assert 1024 not in paper_accounting.published_means("output")["swing-a100"]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    directory = tmp_path_factory.mktemp("paper") / "new"
    _, paths = paper.reproduce(directory)
    assert all(path.is_file() for path in paths)
    return directory, json.loads((directory / "summary.json").read_text())


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_figure_is_written_three_times(reproduced) -> None:
    directory, _ = reproduced
    for figure in range(1, 6):
        assert (directory / f"figure{figure}.pdf").read_bytes().startswith(b"%PDF")
        assert (directory / f"figure{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert len(read(directory / f"figure{figure}.csv")) > 8


@pytest.mark.parametrize(("figure", "key", "last"), [("figure4", "input", 2048), ("figure5", "output", 512)])
def test_the_threshold_tables(reproduced, alpaca, figure: str, key: str, last: int) -> None:
    directory, summary = reproduced
    rows = read(directory / f"{figure}.csv")
    columns = ["accounting", "threshold", "energy_kwh", "runtime_s", "small_only_kwh", "large_only_kwh"]
    assert list(rows[0]) == [*columns, "saving", "saving_ci95", "runtime_ratio"]
    for accounting in {row["accounting"] for row in rows}:
        thresholds = [int(row["threshold"]) for row in rows if row["accounting"] == accounting]
        assert thresholds == [2**i for i in range(3, last.bit_length())]
    published = [row for row in rows if row["accounting"] == "paper"]
    assert min(published, key=lambda row: float(row["energy_kwh"]))["threshold"] == "32"
    assert summary[key]["regenerated"]["threshold"] == 32
    assert 0.075 <= summary[key]["regenerated"]["saving"] <= 0.083
    whole = [row for row in rows if row["accounting"] == "query"]
    assert float(whole[-1]["energy_kwh"]) > 10 * float(published[-1]["energy_kwh"])


def test_the_sweeps_hold_every_published_system_and_model(reproduced) -> None:
    directory, _ = reproduced
    for figure, column, longest in (("figure1", "input_tokens", 2000), ("figure2", "output_tokens", 4000)):
        rows = read(directory / f"{figure}.csv")
        assert len({(row["system"], row["model"]) for row in rows}) == 11
        assert max(float(row[column]) for row in rows) > longest
        assert all(float(row["runtime_s"]) > 0 for row in rows)


def test_histogram_figure_counts_every_prompt(reproduced) -> None:
    directory, _ = reproduced
    for axis in ("input", "output"):
        requests = [float(r["requests"]) for r in read(directory / "figure3.csv") if r["axis"] == axis]
        assert sum(requests) == pytest.approx(52_002)


def test_the_builder_without_raw_data_names_its_argument(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, BUILDER, tmp_path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "DATA_FOLDER" in done.stderr
    assert "input-sweep.csv" in done.stderr
