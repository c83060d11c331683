"""``measure --pictures``: what the first five minutes end in."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from harness.showing.pictures import draw_all
from tests.helpers import FAKE, ROOT, joulebench

RUN = ROOT / "tests" / "data" / "run-first"


def test_a_run_ends_in_a_fit_figures_thresholds_and_a_report(tmp_path: Path) -> None:
    options = ["-m", "fake", "-p", "8-128*2", "-n", "8-64*2", "-o", tmp_path / "run", "--pictures"]
    done = joulebench(*FAKE, *options)
    assert done.returncode == 0, done.stderr
    for name in ("profile.json", "report.html", "pictures/fit.png", "pictures/figure1.pdf", "pictures/figure2.csv"):
        assert (tmp_path / "run" / name).stat().st_size > 100, name
    assert (tmp_path / "run" / "pictures" / "threshold-published.png").exists()
    assert "comparison: No shipped profile ran fake." in done.stdout
    # As the other commands to type next: ``joulebench`` alone would not be found where .venv isn't activated.
    (fit,) = re.findall(r"^  (.*) predict ", done.stdout, re.MULTILINE)
    assert f"{fit} measure --protocol paper -m llama-2-7b" in done.stdout


def test_run_of_failures_has_its_report_and_its_exit_code(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake:oom_above=3", "--point", "8,8", "-o", tmp_path / "run", "--pictures")
    assert done.returncode == 1
    assert "Nothing was measured: out of memory" in done.stderr
    assert (tmp_path / "run" / "report.html").exists()


def test_sweeps_at_other_lengths_are_drawn(tmp_path: Path) -> None:
    sizes = ["-p", "8,16,32,64", "-n", "2,4,8,16", "--fixed-input", "16", "--fixed-output", "4"]
    done = joulebench(*FAKE, "-m", "fake", *sizes, "-o", tmp_path, "--pictures")
    assert done.returncode == 0, done.stderr
    for name, count in (("figure1", 4), ("figure2", 4)):
        with (tmp_path / "pictures" / f"{name}.csv").open() as stream:
            assert sum(row["model"] == "fake" for row in csv.DictReader(stream)) == count
    assert "--fixed-output chooses another" not in (tmp_path / "report.html").read_text()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_what_is_not_possible_ends_no_other_step(run: Path) -> None:
    lines = (run / "trials.jsonl").read_text().splitlines(keepends=True)
    (run / "profile.json").write_text("{}")
    (run / "trials.jsonl").write_text("".join(lines[:4]))
    said = list(draw_all(run))
    assert len(said) == 5
    assert "measure at least 4" in said[0]
    assert not (run / "profile.json").exists(), "a model of another state of the run would mislead"
    assert "to open in a browser" in said[4]


def test_an_unwritable_directory_is_said(run: Path) -> None:
    (run / "pictures").write_text("a file")
    said = list(draw_all(run))
    assert all("left out: can't write" in line for line in said)


def test_the_fit_of_a_disturbed_run_says_so(tmp_path: Path) -> None:
    run = Path(shutil.copytree(ROOT / "tests" / "data" / "run-first", tmp_path / "run"))
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    marked = [trial | {"status": "disturbed"} if trial["purpose"] == "measure" else trial for trial in trials]
    (run / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in marked))
    said, mark = next(iter(draw_all(run))).splitlines()
    assert said.startswith("fit: ")
    assert "(11 of 11 points) are disturbed" in mark
