"""Runs of several concurrencies, and of batches as version 1 recorded them: which points a model is fitted to."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.core.errors import UserError
from harness.deciding.answers import decide_threshold
from harness.deciding.workload import from_pairs
from harness.modelling.profile import Profile, json_schema
from harness.modelling.profile_fit import fit, load_or_fit
from harness.modelling.sources import from_csv, from_runs
from harness.runs.records import load_run
from tests.helpers import FAKE, FOUR_POINTS, joulebench

WATTS = 100.0


def metered(run: Path) -> Path:
    """The run as a GPU meter of constant power would have recorded it: requests in flight share it."""
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    for trial in trials:
        if trial["runtime_s"]:
            trial["energy"] = report(WATTS * trial["runtime_s"] / trial["concurrency"])
    write(run, trials)
    return run


def report(joules: float) -> dict[str, Any]:
    said = {"method": "counter", "request_j": joules, "request_ci95_j": joules / 100}
    absent = ("prefill_j", "prefill_ci95_j", "decode_j", "decode_ci95_j", "reason", "phase_reason")
    figure = dict.fromkeys(absent) | said
    return {"domains": {}, "components": {"gpu": figure}, "total": figure, "warnings": []}


def write(run: Path, trials: list[dict[str, Any]]) -> None:
    (run / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials))


def measured(run: Path, *options: str) -> Path:
    done = joulebench(*FAKE, "--model", "fake:noise=0.01", "-o", run, *options)
    assert done.returncode == 0, done.stderr
    return metered(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sizes, each with 1 and with 8 requests in flight."""
    return measured(tmp_path_factory.mktemp("runs") / "both", "--concurrency", "1,8", *FOUR_POINTS)


def test_a_model_is_of_one_concurrency_and_says_what_is_left_out(run: Path) -> None:
    single, loaded = fit(run), fit(run, concurrency=8)
    assert (single.identity.concurrency, loaded.identity.concurrency) == (1, 8)
    assert {point.concurrency for point in loaded.measurements} == {8}
    assert single.provenance.notes[0] == (
        "the model is of 1 request in flight; 4 points are left out, at 8 in flight (fit -c chooses)"
    )
    assert loaded.provenance.notes[0].startswith("the model is of 8 requests in flight; 4 points are left out, at 1 ")
    assert single.provenance.excluded_trials == sum(point.trials for point in loaded.measurements)
    assert loaded.name == f"{single.name}-c8"
    assert loaded.identity.settings["requests_in_flight"] == "static batch"
    assert "requests_in_flight" not in single.identity.settings
    # A batch takes longer than a request alone, and each of its requests needs less.
    assert loaded.runtime_s(64, 64) > 1.5 * single.runtime_s(64, 64)
    assert loaded.energy_j(64, 64) == pytest.approx(WATTS * loaded.runtime_s(64, 64) / 8, rel=0.02)
    assert loaded.energy_j(64, 64) < 0.9 * single.energy_j(64, 64)
    validator = jsonschema.Draft202012Validator(json_schema())
    for profile in (single, loaded):
        validator.validate(json.loads(profile.dump()))
        assert Profile.parse(profile.dump()) == profile


def test_the_points_left_out_are_there_to_be_drawn(run: Path) -> None:
    pooled = from_runs([load_run(run)])
    assert [(point.concurrency, point.trials > 0) for point in pooled.others] == [(8, True)] * 4
    assert [point.concurrency for point in pooled.measurements] == [1] * 4


def test_without_enough_points_at_one_the_fewest_requests_that_have_them_are_fitted(run: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    shutil.copytree(run, few)
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    write(few, [trial for trial in trials if trial["concurrency"] == 8 or trial["input_tokens"] == 8])
    loaded = load_or_fit(few)
    assert loaded.profile.identity.concurrency == 8
    assert loaded.fitted[0].startswith(f"fitted {few} at 8 in flight: held-out error")
    write(few, [trial for trial in trials if trial["input_tokens"] == 8])
    with pytest.raises(
        UserError, match=r"2 distinct points can't tell .*; a model is of one concurrency, this one of 1"
    ):
        fit(few)


def test_runs_of_different_concurrencies_are_pooled(run: Path, tmp_path: Path) -> None:
    other = measured(tmp_path / "more", "--concurrency", "2", *FOUR_POINTS)
    both = fit([run, other], concurrency=2)
    assert both.identity.concurrency == 2
    assert "at 1, 8 in flight" in both.provenance.notes[0]
    alone = fit(other)
    assert both.runtime == alone.runtime
    assert both.energy == alone.energy
    assert alone.provenance.notes[0] == "the model is of 2 requests in flight"


def test_the_command_takes_the_concurrency(run: Path, tmp_path: Path) -> None:
    done = joulebench("fit", run, "-c", "8", "-o", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    assert "the model is of 8 requests in flight; 4 points are left out" in " ".join(done.stdout.split())
    assert Profile.load(tmp_path / "p.json").identity.concurrency == 8
    absent = joulebench("fit", run, "--concurrency", "3")
    assert absent.returncode == 2
    assert "nothing was measured at 3 in flight, only at 1, 8" in absent.stderr
    assert joulebench("fit", run, "-c", "0").returncode == 2


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of batches of 8 as it is recorded now, and as version 1 recorded it."""
    folder = tmp_path_factory.mktemp("batches")
    now = measured(folder / "now", "--concurrency", "8", *FOUR_POINTS)
    older = folder / "older"
    shutil.copytree(now, older)
    content = json.loads((now / "run.json").read_text())
    content["schema_version"] = 1
    content["backend"]["config"]["batch_size"] = 8
    del content["backend"]["concurrency"]
    for plan in (content["plan"], *(session["plan"] for session in content["sessions"])):
        plan["points"] = [point[:2] for point in plan["points"]]
    (older / "run.json").write_text(json.dumps(content))
    trials = [json.loads(line) for line in (now / "trials.jsonl").read_text().splitlines()]
    for trial in trials:
        del trial["concurrency"], trial["requests"]
        if trial["energy"]:
            trial["energy"] = report(8 * trial["energy"]["total"]["request_j"])
    write(older, trials)
    return now, older


def test_a_run_of_batches_means_what_it_did_in_version_1(batches: tuple[Path, Path]) -> None:
    """Costs per request, and decisions made of them, are those of the same run as it is recorded now."""
    now, older = (fit(run) for run in batches)
    assert older.identity == now.identity
    assert older.runtime == now.runtime
    assert older.energy == now.energy
    assert older.components == now.components
    assert older.measurements == now.measurements
    assert older.energy_j(64, 64) == pytest.approx(WATTS * older.runtime_s(64, 64) / 8, rel=0.02)
    workload = from_pairs("w", "test", [8, 16, 64], [8, 32, 64], [5.0, 3.0, 2.0])
    # A system that always needs what a request of middle size does: above it the batches are dearer.
    content = json.loads(now.dump()) | {"name": "flat", "components": {}}
    for model, cost in (
        (content["runtime"], now.runtime_s(16, 32)),
        (content["energy"]["model"], now.energy_j(16, 32)),
    ):
        for number, coefficient in enumerate(model["coefficients"]):
            coefficient["value"] = 1.01 * float(cost) if number == 0 else 0.0
    flat = Profile.parse(json.dumps(content | {"components": dict.fromkeys(["gpu"], content["energy"])}))
    answers = [decide_threshold(profile, flat, workload, key="total").decision for profile in (now, older)]
    assert [answer.threshold for answer in answers] == [48, 48]
    assert answers[0].plan == answers[1].plan
    assert answers[0].uncertainty == answers[1].uncertainty


def test_a_file_of_trials_may_say_its_concurrency(tmp_path: Path) -> None:
    header, rows = "input_tokens,output_tokens,runtime_s,energy_j,concurrency", []
    for m, n in ((8, 8), (64, 8), (8, 64), (64, 64)):
        rows += [f"{m},{n},{0.1 * m + n},{m + n},", f"{m},{n},{0.2 * m + 2 * n},{(m + n) / 4},4"]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    single, loaded = (from_csv(tmp_path / "t.csv", "box", "mine", True, c) for c in (None, 4))
    assert (single.identity.concurrency, loaded.identity.concurrency) == (1, 4)
    assert [point.runtime_s.mean for point in loaded.measurements] == [17.6, 129.6, 28.8, 140.8]
    assert [point.runtime_s.mean for point in single.measurements] == [8.8, 64.8, 14.4, 70.4]
    (tmp_path / "plain.csv").write_text("\n".join([header, *(row for row in rows if row.endswith(","))]).replace(
        ",concurrency", ""
    ).replace(",\n", "\n").rstrip(",") + "\n")  # fmt: skip
    plain = from_csv(tmp_path / "plain.csv", "box", "mine", True)
    assert plain.identity.concurrency is None
    assert plain.measurements == single.measurements
