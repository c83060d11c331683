"""fit, profiles, predict, export and compare, from the command line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.modelling.profile import Profile
from tests.helpers import FAKE, FOUR_POINTS, ROOT, joulebench, refused

GRID = ROOT.parent / "shared" / "data" / "wilkins2024" / "grid-llama2-7b-a100.csv"
WIDTHS = {"j": ("energy_mean", "energy_request"), "s": ("runtime_mean", "runtime_request")}
NAMED = ["--system", "box", "--model", "tiny"]


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of the fake backend, whose cost is known."""
    run = tmp_path_factory.mktemp("runs") / "fake"
    done = joulebench(*FAKE, "--model", "fake", "-o", run, "-p", "8,64,512", "-n", "8,64,256", "--point", "256,128")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def fake_profile(fake_run: Path) -> Path:
    path = fake_run.parent / "fake.json"
    done = joulebench("fit", fake_run, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def trials(path: Path, energy: bool = True, **changed: object) -> Path:
    """A CSV of trials without a KV cache: 3 per point, 2 % noise."""
    rng = np.random.default_rng(4)
    rows = []
    for m, n in [(8, 32), (32, 32), (128, 32), (512, 32), (32, 8), (32, 128), (32, 512), (256, 256)]:
        contexts = np.arange(m, m + n)
        cost = float(np.sum(0.02 + 1e-4 * contexts)) * (1 + 0.02 * rng.standard_normal(3))
        for runtime_s in cost:
            row = {"input_tokens": m, "output_tokens": n, "runtime_s": runtime_s}
            rows.append(row | ({"cpu_energy_j": 9 * runtime_s, "gpu_energy_j": 90 * runtime_s} if energy else {}))
    table = pd.DataFrame(rows)
    for column, value in changed.items():
        table.loc[table.index[:1], column] = value
    table.to_csv(path, index=False)
    return path


def test_a_run_becomes_a_profile_that_predicts_what_nobody_measured(fake_profile: Path) -> None:
    done = joulebench("predict", fake_profile, "-p", "100", "-n", "50,100", "--json")
    assert done.returncode == 0, done.stderr
    predicted = json.loads(done.stdout)["predictions"]
    for row, n in zip(predicted, (50, 100), strict=True):
        contexts = 100 + np.arange(1, n)
        true = 0.01 + 1e-4 * 100 + 1e-8 * 100**2 + np.sum(0.005 + 1e-6 * contexts)
        assert row["runtime_s"] == pytest.approx(true, rel=1e-4)
        assert not row["out_of_range"]
        assert "energy_j" not in row


def test_a_profile_of_a_run_says_what_was_measured(fake_run: Path, fake_profile: Path) -> None:
    profile = Profile.load(fake_profile)
    assert profile.identity.backend == "fake"
    assert profile.identity.kv_cache
    assert profile.identity.random_weights
    assert len(profile.measurements) == 7
    assert profile.energy is None
    assert all(point.prefill_s is not None and point.trials >= 3 for point in profile.measurements)
    assert {record.name for record in profile.provenance.records} == {"fake/run.json", "fake/trials.jsonl"}
    shown = joulebench("profiles", "show", fake_profile).stdout
    assert "decode_floor_s" in shown
    assert "held-out error" in shown
    assert str(fake_run.parent) not in fake_profile.read_text()


def test_runs_of_different_systems_are_not_pooled(fake_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert (
        joulebench(*FAKE, "--model", "fake", "-o", other, "--no-kv-cache", "-p", "8,64", "-n", "8,64").returncode == 0
    )
    assert "differ in kv_cache" in refused(joulebench("fit", fake_run, other))


def test_runs_decoded_in_different_ways_are_not_pooled(fake_run: Path, tmp_path: Path) -> None:
    """A run from before there was a choice was decoded step by step, and pools with one that says so."""
    other, older, newer = tmp_path / "other", tmp_path / "older", tmp_path / "newer"
    for directory in (other, older, newer):
        shutil.copytree(fake_run, directory)
        run = json.loads((directory / "run.json").read_text())
        if directory == other:
            run["backend"]["config"]["compile"] = "graph"
        elif directory == older:
            del run["backend"]["config"]["compile"]
        else:
            run["backend"]["settings"]["kv_cache_length"] = "grows"
        (directory / "run.json").write_text(json.dumps(run))
    assert "differ in compile" in refused(joulebench("fit", fake_run, other))
    assert joulebench("fit", older, newer, "-o", tmp_path / "p.json").returncode == 0
    settings = Profile.load(tmp_path / "p.json").identity.settings
    assert settings["kv_cache_length"] == "grows"
    run = json.loads((other / "run.json").read_text())
    run["backend"]["config"]["compile"] = "none"
    run["backend"]["settings"]["kv_cache_length"] = "m + n"
    (other / "run.json").write_text(json.dumps(run))
    refusal = refused(joulebench("fit", older, newer, other))
    assert "differ in kv_cache_length" in refusal, "the first one knows neither"
    assert Profile.load(tmp_path / "p.json").identity.settings["compile"] == "none"


def test_runs_with_a_static_cache_are_fitted_as_their_steps_cost(fake_run: Path, tmp_path: Path) -> None:
    """Each step attends to m + n positions; a fit of steps over a growing cache would be off."""
    shutil.copytree(fake_run, tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    run["backend"]["settings"] |= {"kv_cache_class": "StaticCache", "kv_cache_length": "m + n"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))

    def decode_s(m: int, n: int) -> float:
        return (n - 1) * (0.005 + 1e-4 * (m + n))

    records = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    for record in records:
        record["decode_s"] = decode_s(record["input_tokens"], record["output_tokens"])
        record["runtime_s"] = record["prefill_s"] + record["decode_s"]
    (tmp_path / "run" / "trials.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = joulebench("fit", tmp_path / "run", "-o", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    assert "cost(m, n) = P(m) + (n − 1)·D(m + n)" in joulebench("profiles", "show", tmp_path / "p.json").stdout
    assert json.loads((tmp_path / "p.json").read_text())["runtime"]["decode_context"] == "m + n"
    profile = Profile.load(tmp_path / "p.json")
    assert float(profile.runtime_s(48, 40, part="decode")) == pytest.approx(decode_s(48, 40), rel=1e-3)
    predicted = joulebench("predict", tmp_path / "p.json", "-p", "48", "-n", "40", "--json")
    assert json.loads(predicted.stdout)["predictions"][0]["runtime_s"] == float(profile.runtime_s(48, 40))


def test_fit_prints_both_forms_as_json(tmp_path: Path) -> None:
    csv = trials(tmp_path / "t.csv")
    done = joulebench("fit", "--measurements", csv, *NAMED, "--no-kv-cache", "--json", "-o", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {"runtime", "energy", "cpu", "gpu"}
    for quantity in report.values():
        phase, bilinear = quantity["forms"]["phase"], quantity["forms"]["bilinear"]
        assert quantity["chosen"] == "phase"
        assert phase["loo_mape"] < 0.05 < bilinear["loo_mape"]
        assert phase["mape"] <= phase["loo_mape"]
        assert {"input_tokens", "output_tokens", "relative_error"} == set(phase["worst_point"])
        assert [c["name"].split("_")[0] for c in phase["coefficients"]] == ["prefill"] * 3
    profile = Profile.load(tmp_path / "p.json")
    assert float(profile.energy_j(64, 64)) == pytest.approx(99 * float(profile.runtime_s(64, 64)), rel=0.02)
    assert profile.name == "box-tiny"


def test_automatic_choice_takes_the_smaller_held_out_error_and_says_by_how_much(tmp_path: Path) -> None:
    csv = trials(tmp_path / "t.csv", energy=False)
    done = joulebench("fit", "--measurements", csv, *NAMED, "--no-kv-cache", "--form", "auto")
    errors = r"\(held-out error (\d+\.\d) % against (\d+\.\d) %\)"
    said = re.search(rf"runtime: phase fits better than bilinear {errors}", done.stdout)
    assert said, done.stdout
    assert float(said[1]) < float(said[2])
    worse = joulebench("fit", "--measurements", csv, *NAMED, "--no-kv-cache", "--form", "bilinear").stdout
    assert re.search(rf"runtime: phase fits better than bilinear {errors}; --form phase takes it", worse)


def test_without_energy_a_runtime_model_alone_is_made(tmp_path: Path) -> None:
    csv = trials(tmp_path / "t.csv", energy=False)
    assert joulebench("fit", "--measurements", csv, *NAMED, "--no-kv-cache", "-o", tmp_path / "p.json").returncode == 0
    profile = Profile.load(tmp_path / "p.json")
    assert profile.energy is None
    assert "energy was not measured" in joulebench("predict", tmp_path / "p.json", "-p", "64", "-n", "64").stdout


def test_negative_energies_count_for_runtime_alone_and_are_mentioned(tmp_path: Path) -> None:
    csv = trials(tmp_path / "t.csv", cpu_energy_j=-3.0)
    done = joulebench("fit", "--measurements", csv, *NAMED, "--no-kv-cache", "-o", tmp_path / "p.json")
    assert "1 trial with an energy of 0 or less counts for runtime alone" in done.stdout
    (first,) = [p for p in Profile.load(tmp_path / "p.json").measurements if p.input_tokens == 8]
    assert first.runtime_s.trials == 3
    assert first.energy_j is not None
    assert first.energy_j.trials == 2
    origin = Profile.load(tmp_path / "p.json").provenance
    assert (origin.excluded_trials, origin.runtime_only_trials) == (0, 1)


def test_suspects_are_named_and_dropped_on_request(tmp_path: Path) -> None:
    csv = trials(tmp_path / "t.csv", energy=False)
    table = pd.read_csv(csv)
    table.loc[table["input_tokens"] == 128, "runtime_s"] *= 5
    table.to_csv(csv, index=False)
    asked = ["fit", "--measurements", csv, *NAMED, "--no-kv-cache"]
    assert "suspect point 128 in, 32 out (-80 %)" in joulebench(*asked).stdout
    assert joulebench(*asked, "--drop-suspects", "-o", tmp_path / "p.json").returncode == 0
    runtime = Profile.load(tmp_path / "p.json").runtime
    (dropped,) = runtime.dropped
    assert (dropped.input_tokens, dropped.output_tokens) == (128, 32)
    # The error at the point dropped is that of the fit without it, and is not hidden.
    assert dropped.relative_error == pytest.approx(1 / 5 - 1, abs=0.02)
    report = json.loads(joulebench(*asked, "--drop-suspects", "--json").stdout)["runtime"]
    errors = 7 * runtime.held_out.mape + abs(dropped.relative_error)
    assert report["mape_with_dropped"] == pytest.approx(errors / 8)


def test_a_warm_up_left_in_is_named_and_kept(tmp_path: Path) -> None:
    table = pd.concat([pd.read_csv(trials(tmp_path / "t.csv", energy=False))] * 2, ignore_index=True)
    first = ~table.duplicated(["input_tokens", "output_tokens"])
    table.loc[first, "runtime_s"] *= 1.5
    table.to_csv(tmp_path / "t.csv", index=False)
    asked = ["fit", "--measurements", tmp_path / "t.csv", *NAMED, "--no-kv-cache"]
    named = json.loads(joulebench(*asked, "--json").stdout)["runtime"]["suspect_trials"]
    assert sorted(trial["value"] for trial in named) == pytest.approx(sorted(table.loc[first, "runtime_s"]))
    (said,) = [line for line in joulebench(*asked).stdout.splitlines() if "far from the others" in line]
    assert said.startswith("runtime: 8 trials lie far from the others of their points and are kept, the worst: ")
    assert said.count("median") == 3
    assert said.endswith("; --json lists all")
    assert "drop" not in said, "no cause is recorded"


def test_a_fit_says_what_its_intervals_are_made_of(tmp_path: Path) -> None:
    csv = trials(tmp_path / "t.csv")
    asked = ["fit", "--measurements", csv, *NAMED, "--no-kv-cache"]
    found = json.loads(joulebench(*asked, "--meter", "nvml", "--json", "-o", tmp_path / "p.json").stdout)
    profile = Profile.load(tmp_path / "p.json")
    for quantity, said in found.items():
        intervals = said["intervals"]
        assert 0 < intervals["mean_ci95"] <= intervals["request_ci95"] < 0.5
        for shares, sources in (("mean_shares", 4), ("request_shares", 5)):
            assert len(intervals[shares]) == sources
            assert sum(intervals[shares].values()) == pytest.approx(1)
        assert (intervals["mean_shares"]["meter"] > 0) == (quantity != "runtime")
        assert said["sessions"]["sessions"] == 1
        assert said["sessions"]["prior"]
    # By the same meter GPU and CPU have one gain.
    assert found["runtime"]["gain_ci95"] is None
    assert [found[name]["gain_ci95"] for name in ("energy", "gpu", "cpu")] == pytest.approx([0.075] * 3)
    assert profile.energy is not None
    assert "A100" in profile.energy.gain_source
    shown = joulebench(*asked).stdout
    assert "± of the mean   ± of one request   from trials   from model   from sessions   from meter" in shown
    assert "the meter is not known: its gain is taken to be ± 10 % (--meter names the kind" in shown
    assert "the meter is not known" not in joulebench(*asked, "--meter", "nvml").stdout
    assert "go with --measurements" in refused(joulebench("fit", tmp_path, "--meter", "nvml"))


def test_sessions_of_a_file_are_told_apart(tmp_path: Path) -> None:
    """Three days, 4 % apart: said, and in the interval; without the column they are one session with a prior."""
    days = []
    for day, factor in (("monday", 0.96), ("tuesday", 1.0), ("friday", 1.04)):
        table = pd.read_csv(trials(tmp_path / "t.csv", energy=False))
        days.append(table.assign(runtime_s=table["runtime_s"] * factor, session=day))
    pd.concat(days).to_csv(tmp_path / "t.csv", index=False)
    asked = ["fit", "--measurements", tmp_path / "t.csv", *NAMED, "--no-kv-cache", "--json"]
    found = json.loads(joulebench(*asked).stdout)["runtime"]
    assert (found["sessions"]["sessions"], found["sessions"]["prior"]) == (3, None)
    assert 0.02 < found["sessions"]["sd"] < 0.08
    pd.concat(days).drop(columns="session").to_csv(tmp_path / "t.csv", index=False)
    assert json.loads(joulebench(*asked).stdout)["runtime"]["sessions"]["prior"]


def test_predictions_in_json_lose_no_bit() -> None:
    asked = joulebench("predict", "m1-pro-mistral-7b", "-p", "9,130", "-n", "8,31", "--json")
    rows = json.loads(asked.stdout)["predictions"]
    runtimes = Profile.load("m1-pro-mistral-7b").predict_runtime([9, 9, 130, 130], [8, 31, 8, 31])
    assert [row["runtime_s"] for row in rows] == runtimes.value.tolist()
    assert [row["runtime_mean_ci95_s"] for row in rows] == runtimes.mean_95.tolist()
    assert [row["runtime_request_ci95_s"] for row in rows] == runtimes.request_95.tolist()


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("runtime_s", 0.0, "line 2: runtime_s is 0.0; it must be positive"),
        ("runtime_s", None, "line 2: runtime_s is missing; it must be positive"),
        ("input_tokens", -8, "line 2: input_tokens is -8"),
        ("gpu_energy_j", "many", "line 2: gpu_energy_j is text; it must be a number"),
    ],
)
def test_bad_measurements_are_refused_with_their_line(tmp_path: Path, column: str, value: object, said: str) -> None:
    csv = trials(tmp_path / "t.csv")
    table = pd.read_csv(csv).astype(object)
    table.loc[0, column] = value
    table.to_csv(csv, index=False)
    assert said in refused(joulebench("fit", "--measurements", csv, *NAMED))


def test_missing_columns_files_and_options_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("input_tokens,runtime_s\n8,1\n")
    assert "lacks the column output_tokens" in refused(joulebench("fit", "--measurements", tmp_path / "t.csv", *NAMED))
    assert "can't be read as CSV" in refused(joulebench("fit", "--measurements", tmp_path / "no.csv", *NAMED))
    table = trials(tmp_path / "good.csv")
    assert "needs --system NAME" in refused(joulebench("fit", "--measurements", table))
    assert "one of the two" in refused(joulebench("fit"))
    assert "holds no run" in refused(joulebench("fit", tmp_path))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--system", "", "--model", "m"], "--system is empty"),
        (["--system", "s", "--model", " "], "--model is empty"),
        ([*NAMED, "--name", "a b"], "'a b' can't name a profile: begin with a letter or digit"),
        ([*NAMED, "--name", ""], "'' can't name a profile"),
        ([*NAMED, "--name", "a" * 201], "200 characters at most"),
    ],
)
def test_names_are_checked_before_anything_is_read(tmp_path: Path, asked: list[str], said: str) -> None:
    assert said in refused(joulebench("fit", "--measurements", tmp_path / "absent.csv", *asked, "-o", tmp_path / "p"))


def test_a_system_of_any_name_becomes_a_profile(tmp_path: Path) -> None:
    csv, named = trials(tmp_path / "t.csv", energy=False), ["--system", "Ü" + "x" * 300, "--model", "m"]
    done = joulebench("fit", "--measurements", csv, *named, "--no-kv-cache", "-o", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    assert Profile.load(tmp_path / "p.json").name == "x" * 199


def test_points_of_one_output_token_are_refused_with_the_cache(tmp_path: Path) -> None:
    rows = "".join(f"{m},1,{0.02 + 1e-4 * m}\n" for m in (8, 32, 128, 512, 2048))
    (tmp_path / "t.csv").write_text("input_tokens,output_tokens,runtime_s\n" + rows)
    said = refused(joulebench("fit", "--measurements", tmp_path / "t.csv", *NAMED))
    assert "runtime: every point has 1 output token" in said


def test_too_few_points_say_what_to_measure(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("input_tokens,output_tokens,runtime_s\n8,8,1\n8,16,2\n16,8,3\n")
    assert "measure at least 4" in refused(joulebench("fit", "--measurements", tmp_path / "t.csv", *NAMED))


def test_predictions_are_flagged_or_refused_outside_the_range() -> None:
    asked = ["predict", "m1-pro-mistral-7b", "-p", "128-512*4", "-n", "32,256,4096"]
    rows = json.loads(joulebench(*asked, "--json").stdout)["predictions"]
    assert [row["out_of_range"] for row in rows] == [False, True, True] * 2
    # 4096 output tokens are three octaves beyond the output sweep; 512 in, 256 out lie between its axes.
    assert [row["too_far"] for row in rows] == [False, False, True] * 2
    for row in rows:
        widths = [row[f"{quantity}_ci95_{unit}"] for unit in "js" for quantity in WIDTHS[unit]]
        assert row["energy_j"] > 0
        if row["too_far"]:
            assert widths == [None] * 4
        else:
            assert 0 < widths[0] <= widths[1]
            assert 0 < widths[2] <= widths[3]
    shown = joulebench(*asked).stdout
    assert "extrapolated: outside the measured range" in shown
    assert len(re.findall(r"^ .*extrapolated", shown, re.MULTILINE)) == 2
    assert len(re.findall(r"^ .*outside what was measured", shown, re.MULTILINE)) == 2
    assert all(line.count("±") == 4 for line in shown.splitlines() if line.startswith((" 128      32", " 512      32")))
    assert "mean runtime, s   one request   mean energy, J   one request" in shown
    assert "outside the measured range" in refused(joulebench(*asked, "--strict"))


def test_profiles_are_listed_validated_and_described(fake_profile: Path, tmp_path: Path) -> None:
    listed = json.loads(joulebench("profiles", "list", "--json").stdout)
    assert "m1-pro-mistral-7b" in [row["name"] for row in listed]
    assert all(0 < row["energy_loo_mape"] < 0.1 for row in listed)
    assert "valid, schema version 3" in joulebench("profiles", "validate", fake_profile).stdout
    (tmp_path / "torn.json").write_text(fake_profile.read_text()[:500])
    assert "truncated" in refused(joulebench("profiles", "validate", fake_profile, tmp_path / "torn.json"))
    assert json.loads(joulebench("profiles", "schema").stdout)["title"] == "Profile"


@pytest.mark.parametrize("format", ["json", "csv", "parquet"])
def test_exports_hold_models_measurements_and_predictions(tmp_path: Path, format: str) -> None:
    done = joulebench("export", "swing-a100-mistral-7b", "--format", format, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    read = {"json": pd.read_json, "csv": pd.read_csv, "parquet": pd.read_parquet}[format]
    table = read(tmp_path / "out")
    profile = Profile.load("swing-a100-mistral-7b")
    assert set(table["table"]) == {"model", "covariance", "range", "measurement", "prediction"}
    at = table[(table["table"] == "prediction") & (table["quantity"] == "energy")]
    row = at[(at["input_tokens"] == 128) & (at["output_tokens"] == 32)].iloc[0]
    assert row["value"] == pytest.approx(float(profile.energy_j(128, 32)))
    measured = table[(table["table"] == "measurement") & (table["quantity"] == "runtime")]
    assert len(measured) == len(profile.measurements)


def test_comparison_says_who_is_cheaper_and_marks_what_is_mixed(tmp_path: Path) -> None:
    pair = ["compare", "m1-pro-mistral-7b", "swing-a100-mistral-7b"]
    compared = json.loads(joulebench(*pair, "-p", "16,512", "-n", "16", "--json").stdout)
    assert compared["boundary"] == ["cpu", "gpu"]
    assert not compared["mixed"]
    assert any("measured by different methods" in warning for warning in compared["warnings"])
    short, long = compared["points"]
    assert short["cheaper_energy"] == "m1-pro-mistral-7b"
    assert long["cheaper_energy"] == "swing-a100-mistral-7b"
    alike = json.loads(joulebench("compare", *[pair[1]] * 2, "-p", "64", "-n", "32", "--json").stdout)["points"]
    assert [point["cheaper_energy"] for point in alike] == [""]

    other = ["compare", "m1-pro-mistral-7b", "swing-a100-llama-2-7b"]
    assert "different models" in refused(joulebench(*other))
    mark, *lines = joulebench(*other, "--allow-mixed").stdout.splitlines()
    assert mark == "NOT COMPARABLE (--allow-mixed): different models"
    assert any(line.startswith("warning: m1-pro-mistral-7b and swing-a100-llama-2-7b ran different") for line in lines)
    assert "no energy of dram" in refused(joulebench(*pair, "--boundary", "dram"))


def test_a_comparison_begins_with_its_sentence_and_ends_with_its_warnings() -> None:
    done = joulebench("compare", "m1-pro-mistral-7b", "swing-a100-mistral-7b", "-p", "16,512", "-n", "16")
    first, *_, last = done.stdout.splitlines()
    assert first == (
        "m1-pro (A) against swing-a100 (B) at 2 request sizes: A needs less energy at 1, B at 1; B is faster at all of "
        "them"
    )
    assert last.startswith("warning: the energy of gpu was measured by different methods")
    single = joulebench("compare", "m1-pro-mistral-7b", "swing-a100-mistral-7b", "-p", "16", "-n", "16").stdout
    assert single.startswith("m1-pro (A) against swing-a100 (B) at 16 in, 16 out: A needs less energy; B is faster\n")


def test_an_interval_without_bounds_is_explained_where_there_is_one(tmp_path: Path) -> None:
    rows = [(8, 16, 3.0), (32, 8, 0.4), (32, 16, 5.0), (32, 32, 0.6)]
    text = "input_tokens,output_tokens,runtime_s\n" + "".join(f"{m},{n},{seconds}\n" for m, n, seconds in rows)
    (tmp_path / "noisy.csv").write_text(text)
    noisy = tmp_path / "noisy.json"
    made = joulebench("fit", "--measurements", tmp_path / "noisy.csv", *NAMED, "-o", noisy)
    assert made.returncode == 0, made.stderr
    lines = joulebench("compare", noisy, noisy, "-p", "8", "-n", "16").stdout.splitlines()
    assert any("1.00 (no bounds)" in line for line in lines)
    assert "no bounds: too few points, or too much scatter, for an interval" in lines
    bounded = joulebench("compare", "m1-pro-mistral-7b", "swing-a100-mistral-7b", "-p", "16", "-n", "16").stdout
    assert "no bounds" not in bounded


def test_runs_are_taken_where_profiles_are_and_fitted_on_the_way(
    fake_run: Path, fake_profile: Path, tmp_path: Path
) -> None:
    sizes = ["-p", "16", "-n", "16", "--json"]
    by_run, by_profile = (joulebench("predict", given, *sizes) for given in (fake_run, fake_profile))
    predicted, expected = json.loads(by_run.stdout), json.loads(by_profile.stdout)
    assert predicted["predictions"] == expected["predictions"]
    (note,) = predicted["fitted"]
    assert re.fullmatch(rf"fitted {re.escape(str(fake_run))}: held-out error runtime \d+\.\d %", note)
    assert by_run.stderr.strip() == note
    assert (expected["fitted"], by_profile.stderr) == ([], "")

    compared = json.loads(joulebench("compare", fake_run, fake_profile, *sizes).stdout)
    assert compared["fitted"] == [note]
    assert compared["points"][0]["runtime_ratio"] == 1
    assert joulebench("export", fake_run, "-o", tmp_path / "table.json").returncode == 0
    assert "not a profile. To fit a run: joulebench fit" in refused(joulebench("profiles", "show", fake_run))
    assert "holds no run" in refused(joulebench("predict", tmp_path, *sizes))


def test_two_fits_of_one_machine_have_names_of_their_own(fake_run: Path, fake_profile: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(fake_run, other)
    run = json.loads((other / "run.json").read_text())
    run["backend"]["name"], run["model"]["dtype"] = "llama-cpp", "Q4_0"
    (other / "run.json").write_text(json.dumps(run))
    assert joulebench("fit", other, "-o", tmp_path / "other.json").returncode == 0
    name, first = Profile.load(tmp_path / "other.json").name, Profile.load(fake_profile)
    assert name.endswith("-fake-llama-cpp-q4-0")
    assert name != first.name
    pair = ["compare", fake_run, other, "-p", "16", "-n", "16"]
    assert "measure one again with the same --dtype" in refused(joulebench(*pair))
    mark, sentence, *_ = joulebench(*pair, "--allow-mixed").stdout.splitlines()
    machine = first.identity.system
    assert mark == "NOT COMPARABLE (--allow-mixed): different precisions"
    assert sentence.startswith(f"{machine} (fake, float32) (A) against {machine} (llama-cpp, Q4_0) (B)")


def test_what_a_fit_can_not_tell_is_said_once(tmp_path: Path) -> None:
    run = ROOT / "tests" / "data" / "run-first"
    shown = joulebench("fit", run).stdout
    assert shown.count("Only two sweeps were measured") == 1
    assert "CPU energy includes other processes (--attribution system)." in shown
    assert shown.splitlines()[0].endswith(": held-out error runtime 3.1 %, energy 4.1 % (estimated)")
    assert re.search(r"^ energy \(estimated\) +\d", shown, re.MULTILINE)
    assert re.search(r"≈ \d", joulebench("predict", run, "-p", "32", "-n", "32").stdout)


@pytest.mark.skipif(not GRID.exists(), reason="the published grid is not here")
def test_the_published_grid_from_the_command_line() -> None:
    named = ["--system", "swing-a100", "--model", "llama-2-7b"]
    report = json.loads(joulebench("fit", "--measurements", GRID, *named, "--no-kv-cache", "--json").stdout)
    for quantity in ("runtime", "energy"):
        suspects = report[quantity]["forms"]["phase"]["suspects"]
        assert (9, 8) in [(s["input_tokens"], s["output_tokens"]) for s in suspects]
        assert report[quantity]["forms"]["bilinear"]["loo_mape"] > 0.15


def test_a_table_of_measurements_is_taken_where_a_run_is(tmp_path: Path) -> None:
    csv = trials(tmp_path / "small.csv")
    pd.read_csv(csv).assign(machine="other", model="tiny", kv_cache="off").to_csv(tmp_path / "b.csv", index=False)
    pd.read_csv(csv).assign(model="tiny", kv_cache="off").to_csv(csv, index=False)
    predicted = joulebench("predict", csv, "-p", "64", "-n", "32", "--json")
    assert predicted.returncode == 0, predicted.stderr
    named = ["--system", "small", "--no-kv-cache", "-o", tmp_path / "p.json"]
    assert joulebench("fit", "--measurements", csv, *named).returncode == 0
    of_profile = joulebench("predict", tmp_path / "p.json", "-p", "64", "-n", "32", "--json").stdout
    assert json.loads(predicted.stdout)["predictions"] == json.loads(of_profile)["predictions"]
    compared = joulebench("compare", csv, tmp_path / "b.csv", "-p", "64", "-n", "32")
    assert compared.returncode == 0, compared.stderr
    assert "other-tiny" in compared.stdout
    drawn = joulebench("figures", csv, tmp_path / "b.csv", "-o", tmp_path / "figures")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "figures" / "figure1.csv").is_file()


def test_what_trials_writes_gives_the_profile_of_the_run(tmp_path: Path) -> None:
    assert joulebench(*FAKE, "-m", "fake", *FOUR_POINTS, "-o", tmp_path / "run").returncode == 0
    assert joulebench("fit", tmp_path / "run", "-o", tmp_path / "run.json").returncode == 0
    run = Profile.load(tmp_path / "run.json")
    for form in ("csv", "json"):
        (tmp_path / f"t.{form}").write_text(joulebench("trials", tmp_path / "run", "--format", form).stdout)
        asked = ["fit", "--measurements", tmp_path / f"t.{form}", "--system", "a", "--model", "b"]
        made = joulebench(*asked, "-o", tmp_path / "p.json")
        assert made.returncode == 0, made.stderr
        table = Profile.load(tmp_path / "p.json")
        assert [point.runtime_s.mean for point in table.measurements] == pytest.approx(
            [point.runtime_s.mean for point in run.measurements]
        )
        assert [point.trials for point in table.measurements] == [point.trials for point in run.measurements]


def test_options_of_tables_of_measurements(tmp_path: Path) -> None:
    csv = trials(tmp_path / "t.csv")
    table = pd.read_csv(csv).assign(model="tiny")
    pd.concat([table, table.assign(model="big", runtime_s=99.0)]).to_csv(csv, index=False)
    asked = ["fit", "--measurements", csv, "--system", "box", "--no-kv-cache"]
    assert "--where model=tiny" in refused(joulebench(*asked))
    done = joulebench(*asked, "--where", "model=tiny", "-o", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    assert Profile.load(tmp_path / "p.json").identity.model == "tiny"
    assert "write it as --where COLUMN=VALUE" in refused(joulebench(*asked, "--where", "tiny"))
    assert "unknown form of tables" in refused(joulebench(*asked, "--table-form", "none"))
    assert "go with --measurements" in refused(joulebench("fit", tmp_path, "--trust-units"))
    pd.read_csv(csv).head(8).assign(kv_cache="off").to_csv(csv, index=False)
    assert "say --no-kv-cache" in refused(joulebench(*asked[:-1], "--kv-cache"))
