"""Sizes that are chosen while measuring: from options to the run on disk, through kills and budgets."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import harness as jb
from harness.core.errors import UserError
from harness.core.sizes import Point
from harness.measuring.plan import PlanOptions, make_plan
from harness.measuring.schedule import MAX_CHOSEN
from harness.runs.records import load_run
from harness.runs.summary import summarise
from harness.showing.run_results import result_lines
from tests.helpers import ROOT, environment

FAKE = ("--backend", "fake", "-m", "fake", "--probes", "none", "--max-foreign-load", "1")


def measure(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "measure", *FAKE, "--protocol", "adaptive", "-o", str(directory)]
    return subprocess.run(
        [*command, *options], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("adaptive") / "run"
    done = measure(into)
    assert done.returncode == 0, done.stderr
    assert "The model's mean error, told by" in done.stdout
    return into


def test_it_stops_when_the_drawn_sizes_are_predicted_well_enough(directory: Path) -> None:
    run = load_run(directory)
    told, reached = run.facts.plan.adaptive, run.facts.sessions[-1].reached["runtime_s"]
    assert told is not None
    assert reached.drawn == len(told.drawn) >= 6
    assert reached.error + reached.doubt <= told.error == 0.02
    sizes = [(m, n) for m, n, _ in run.facts.plan.points]
    assert len(set(sizes)) == len(sizes)
    assert all(8 <= m <= 2048 and 8 <= n <= 1024 for m, n in sizes)
    assert {(m, n, c) for m, n, c in told.drawn} < set(run.facts.plan.points)


def test_the_claim_holds_at_sizes_that_were_not_measured(directory: Path, tmp_path: Path) -> None:
    """The synthetic machine is known exactly: fake:… prints the same runtime at every size asked for."""
    grid = tmp_path / "grid"
    jb.measure(grid, "fake", model="fake", probes="none", input_tokens="13-1900*3", output_tokens="11-900*3", grid=True,
               runs=1, max_foreign_load=1.0)  # fmt: skip
    profile = jb.fit(directory)
    errors = [
        abs(float(profile.runtime_s(t.input_tokens, t.output_tokens)) / t.runtime_s - 1)
        for t in load_run(grid).trials
        if t.counts and t.runtime_s
    ]
    assert sum(errors) / len(errors) <= 0.02


def test_the_same_command_again_has_nothing_left_to_do(directory: Path) -> None:
    before = (directory / "trials.jsonl").read_bytes()
    again = measure(directory)
    assert again.returncode == 0
    assert "nothing is left to measure" in again.stdout
    assert (directory / "trials.jsonl").read_bytes() == before


def test_a_smaller_error_goes_on_where_it_stopped(tmp_path: Path) -> None:
    noisy, into = ("-m", "fake:noise=0.01"), tmp_path / "run"
    assert measure(into, *noisy, "--error", "20%").returncode == 0
    before = load_run(into).facts.plan
    assert measure(into, *noisy, "--error", "0.05%", "--budget", "2s").returncode == 0
    after = load_run(into).facts.plan
    assert after.points[: len(before.points)] == before.points
    assert len(after.points) > len(before.points)


def test_other_sizes_are_refused(directory: Path) -> None:
    with pytest.raises(UserError, match="differs in --input-tokens"):
        jb.measure(directory, "fake", model="fake", probes="none", protocol="adaptive", input_tokens="8-512*2")


def test_a_killed_run_goes_on_as_if_nothing_had_been(directory: Path, tmp_path: Path) -> None:
    into = tmp_path / "killed"
    command = [sys.executable, "-m", "harness", "measure", *FAKE, "--protocol", "adaptive", "-o", str(into)]
    for trials in (3, 9, 17):
        with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                records = into / "trials.jsonl"
                if records.exists() and records.read_bytes().count(b"\n") >= trials:
                    process.kill()
                time.sleep(0.005)
    assert measure(into).returncode == 0
    killed, whole = load_run(into), load_run(directory)
    # A run that was killed may measure a point once more, but chooses the same ones.
    assert killed.facts.plan.points == whole.facts.plan.points
    assert killed.facts.plan.adaptive == whole.facts.plan.adaptive
    assert len({trial.id for trial in killed.trials}) == len(killed.trials)


def test_the_time_that_may_be_spent_ends_it(tmp_path: Path) -> None:
    done = measure(tmp_path / "run", "--error", "0.05%", "--budget", "1s", "-m", "fake:noise=0.05")
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "run")
    assert run.facts.sessions[-1].ended == "complete"
    assert run.facts.plan.adaptive is not None
    assert run.facts.plan.adaptive.budget_s == 1.0
    assert len(run.facts.plan.points) < MAX_CHOSEN


def test_sizes_that_run_out_of_memory_are_not_asked_for_again(tmp_path: Path) -> None:
    done = measure(tmp_path / "run", "-m", "fake:oom_above=1500", "--error", "5%")
    assert done.returncode == 0, done.stderr
    trials = load_run(tmp_path / "run").trials
    failed = [trial for trial in trials if trial.status == "oom"]
    assert 1 <= len(failed) <= 8
    for one in failed:
        later = [trial for trial in trials if trial.id > one.id]
        assert not any(t.input_tokens >= one.input_tokens and t.output_tokens >= one.output_tokens for t in later)


def test_a_size_that_fails_is_left_out_alone(tmp_path: Path) -> None:
    done = measure(tmp_path / "run", "-m", "fake:error_at=8x8", "--error", "5%")
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "run")
    assert {trial.status for trial in run.trials if trial.point == Point(8, 8)} == {"error"}
    assert "runtime_s" in run.facts.sessions[-1].reached


def test_traffic_of_ones_own_decides_which_sizes_matter(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{m},{n}" for m in range(100, 140) for n in (20, 30, 50)]
    trace.write_text("\n".join(["input_tokens,output_tokens", *rows]) + "\n")
    done = measure(tmp_path / "run", "--for", str(trace))
    assert done.returncode == 0, done.stderr
    points = load_run(tmp_path / "run").facts.plan.points
    assert all(100 <= m < 140 and n in (20, 30, 50) for m, n, _ in points)


def test_a_dry_run_says_what_it_would_do_and_how_long(tmp_path: Path) -> None:
    done = measure(tmp_path / "run", "--dry-run", "--error", "1%", "-c", "1,2")
    assert done.returncode == 0, done.stderr
    assert "until the model's mean error is below 1" in done.stdout
    assert "2 in flight" in done.stdout
    assert " in all for some 40 sizes" in done.stdout
    finer = measure(tmp_path / "run", "--dry-run", "--error", "0.25%", "-c", "1,2")
    assert " in all for some 80 sizes" in finer.stdout
    plan = json.loads(measure(tmp_path / "run", "--dry-run", "--json").stdout)["plan"]
    assert plan["adaptive"]["error"] == 0.02
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"error": "2%"}, "--protocol adaptive"),
        ({"budget": "10m"}, "--protocol adaptive"),
        ({"protocol": "adaptive", "error": "2 per cent"}, "such as 2%"),
        ({"protocol": "adaptive", "error": "0%"}, "such as 2%"),
        ({"protocol": "adaptive", "error": "nan"}, "such as 2%"),
        ({"protocol": "adaptive", "budget": "soon"}, "such as 90s"),
        ({"protocol": "adaptive", "budget": "0"}, "such as 90s"),
        ({"protocol": "adaptive", "runs": 3}, "--runs"),
        ({"protocol": "adaptive", "points": ("8,8",)}, "--point"),
        ({"protocol": "adaptive", "traffic": ((8, 8, 1.0),), "input_tokens": "8"}, "--for"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_remedy(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_plan(PlanOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("45", 45.0)])
def test_a_budget_is_written_as_people_write_durations(text: str, seconds: float) -> None:
    plan, _ = make_plan(PlanOptions(protocol="adaptive", budget=text))
    assert plan.adaptive is not None
    assert plan.adaptive.budget_s == seconds


def test_traffic_beyond_the_models_context_is_said_and_a_model_of_few_sizes_claims_nothing(tmp_path: Path) -> None:
    rows = ["input_tokens,output_tokens", *["20000,10"] * 9, "100,20"]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    done = measure(tmp_path / "run", "--for", str(tmp_path / "log.csv"))
    assert done.returncode == 0, done.stderr
    assert "90.0 % of your requests are longer than the model's context of 8192 tokens: they don't count" in done.stdout
    assert "The model's mean error is not known, too few of the sizes drawn at random were measured" in done.stdout


def test_an_error_that_was_not_reached_is_called_so(directory: Path, tmp_path: Path) -> None:
    run = load_run(directory)
    assert any(line.endswith("wanted: below 2.0 %, reached.") for line in result_lines(run, summarise(run.trials)))
    done = measure(tmp_path / "run", "-m", "fake:noise=0.1", "--error", "0.1%", "--budget", "20")
    assert done.returncode == 0, done.stderr
    assert "wanted: below 0.1 %, not reached." in done.stdout
