"""Figures 1 and 2 for published systems, runs, and both in the same axes."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.modelling.profile import Profile, shipped_names
from tests.helpers import FAKE, ROOT, joulebench, refused

RUN = ROOT / "tests" / "data" / "run-first"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("published")
    done = joulebench("figures", "--published", "--models", "-o", directory)
    assert done.returncode == 0, done.stderr
    assert "wrote 8 files" in done.stdout
    return directory


@pytest.mark.parametrize("figure", ["figure1", "figure2"])
def test_published_points_are_the_aggregated_measurements(published: Path, figure: str) -> None:
    rows = read(published / f"{figure}.csv")
    profiles = {(p.identity.system, p.identity.model): p for p in map(Profile.load, shipped_names())}
    assert {(row["system"], row["model"]) for row in rows} == set(profiles)
    assert len(profiles) == 11
    for row in rows:
        size = float(row["input_tokens"]), float(row["output_tokens"])
        (point,) = (
            m for m in profiles[row["system"], row["model"]].measurements if (m.input_tokens, m.output_tokens) == size
        )
        tokens = sum(size)
        assert int(row["trials"]) == point.trials
        assert float(row["runtime_s"]) == point.runtime_s.mean
        assert float(row["throughput_tokens_per_s"]) == pytest.approx(tokens / point.runtime_s.mean)
        if point.energy_j is None:
            assert row["energy_j"] == ""
        else:
            assert float(row["energy_j"]) == point.energy_j.mean
            assert float(row["energy_per_token_j"]) == pytest.approx(point.energy_j.mean / tokens)


def test_published_sweeps_end_where_the_trials_end(published: Path) -> None:
    longest: dict[str, float] = {}
    for row in read(published / "figure2.csv"):
        name = f"{row['system']} {row['model']}"
        longest[name] = max(longest.get(name, 0), float(row["output_tokens"]))
    assert longest["m1-pro mistral-7b"] == 512
    assert 480 < longest["m1-pro llama-2-7b"] <= 512, "some of its requests for 512 stopped early"
    assert longest["palmetto-v100 falcon-7b"] < 1100
    assert longest["palmetto-v100 llama-2-7b"] < 2100
    assert longest["swing-a100 llama-2-7b"] > 4000


def test_vector_files_embed_their_fonts(published: Path) -> None:
    pdf = (published / "figure1.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    svg = (published / "figure1.svg").read_text(encoding="utf-8")
    assert "<text" not in svg, "glyphs are outlines, so that no font is needed"
    assert (published / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_drawn_into_the_same_axes(tmp_path: Path) -> None:
    refusal = refused(joulebench("figures", RUN, "--published", "-o", tmp_path / "no"))
    assert "cache mode" in refusal
    assert "--allow-mixed" in refusal
    done = joulebench("figures", RUN, "--published", "--allow-mixed", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "estimated, not measured" in done.stdout
    rows = read(tmp_path / "figure1.csv")
    assert len({(row["system"], row["model"]) for row in rows}) == 12
    own = [row for row in rows if row["energy_method"] == "estimated"]
    assert [int(float(row["input_tokens"])) for row in own] == [8, 16, 32, 64, 128, 256, 512]
    assert all(float(row["runtime_s_ci95"]) > 0 for row in own)
    assert "not comparable" not in done.stdout
    assert "mixed: the systems differ in cache mode" in done.stdout
    assert "mixed: " in (tmp_path / "figure1.svg").read_text(encoding="utf-8")
    assert "mixed: " not in (tmp_path / "phases.svg").read_text(encoding="utf-8"), "it shows the run alone"


def test_phases_of_a_run(tmp_path: Path) -> None:
    done = joulebench("figures", RUN, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    table = json.loads(joulebench("trials", RUN, "--format", "json").stdout)
    decode = [t["decode_energy_j"] for t in table if (t["input_tokens"], t["output_tokens"]) == (32, 128)]
    counted = [t for t in table if (t["input_tokens"], t["output_tokens"]) == (32, 128) and t["purpose"] == "measure"]
    assert decode
    expected = sum(t["decode_energy_j"] for t in counted) / len(counted) / 127
    (row,) = (r for r in read(tmp_path / "phases.csv") if (r["phase"], r["output_tokens"]) == ("decode", "128.0"))
    assert float(row["energy_per_token_j"]) == pytest.approx(expected)


def test_failures_are_shown_where_they_happened(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=300", "-p", "8-512*2", "-n", "8-128*2", "-o", tmp_path / "run"]
    assert joulebench(*FAKE, *options).returncode == 0
    done = joulebench("figures", tmp_path / "run", "-o", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    svg = (tmp_path / "figures" / "figure1.svg").read_text(encoding="utf-8")
    assert re.search(r"<!-- (out of memory|skipped) -->", svg)
    rows = read(tmp_path / "figures" / "figure1.csv")
    assert max(float(row["input_tokens"]) for row in rows) == 256
    assert all(row["energy_j"] == "" for row in rows), "not measured is empty, never 0"


def test_profiles_by_path_and_other_fixed_sizes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "profiles" / "m1-pro-llama-2-7b.json", tmp_path / "a.json")
    done = joulebench("figures", tmp_path / "a.json", "--fixed-output", "8", "--fixed-input", "4", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no figure2: nothing was measured at about 4 input tokens" in done.stdout
    assert {row["output_tokens"] for row in read(tmp_path / "figure1.csv")} <= {"8.0"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "out"], "name runs or profiles"),
        (["no-such-profile", "-o", "out"], "no-such-profile"),
        (["--published", "--boundary", "dram", "-o", "out"], "dram"),
        (["--published", "-o", "a.json"], "can't write"),
        (
            ["--published", "--fixed-input", "5", "--fixed-output", "3", "-o", "out"],
            "nothing could be drawn",
        ),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert words in refused(joulebench("figures", *arguments, cwd=tmp_path))


def test_tokens_of_every_sequence_of_a_batch_count(tmp_path: Path) -> None:
    from harness.runs.records import load_trials

    run = tmp_path / "run"
    options = ["-m", "fake", "--batch-size", "4", "-p", "8,64", "-n", "8,64", "-o", run]
    assert joulebench(*FAKE, *options).returncode == 0
    assert joulebench("figures", run, "-o", tmp_path / "figures").returncode == 0
    (row,) = (row for row in read(tmp_path / "figures" / "figure1.csv") if row["input_tokens"] == "64.0")
    trials = load_trials(run).query("purpose == 'measure' and input_tokens == 64 and output_tokens == 32")
    assert float(row["throughput_tokens_per_s"]) == pytest.approx(4 * (64 + 32) / trials["runtime_s"].mean())


def test_models_pass_through_the_points_of_a_batch(tmp_path: Path) -> None:
    from harness.showing.drawn_systems import load_drawn
    from harness.showing.panels import Options
    from harness.showing.sweep_figures import sweep_figure

    run = tmp_path / "run"
    assert (
        joulebench(*FAKE, "-m", "fake", "--batch-size", "4", "-p", "8-128*2", "-n", "8-128*2", "-o", run).returncode
        == 0
    )
    figure = sweep_figure([load_drawn(str(run))], "input", Options(models=True))
    _, throughput, *_ = figure.axes
    points = throughput.lines[0]
    model = next(line for line in throughput.lines if len(line.get_xdata()) > 3 * len(points.get_xdata()))
    measured, curve = (np.asarray(line.get_xydata(), dtype=float) for line in (points, model))
    assert np.interp(measured[:, 0], *curve.T) == pytest.approx(measured[:, 1], rel=0.02)


def test_profiles_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        shutil.copy(ROOT / "profiles" / "m1-pro-llama-2-7b.json", tmp_path / name)
    done = joulebench("figures", "a.json", "b.json", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {row["system"] for row in read(tmp_path / "out" / "figure1.csv")} == {"a.json", "b.json"}


def test_phases_of_a_part_of_the_components_are_left_out(tmp_path: Path) -> None:
    """Energy per phase is known as a sum alone."""
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    records = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    for record in records:
        if record["status"] == "ok":
            record["energy"]["components"]["dram"] = record["energy"]["components"]["cpu"]
    (run / "trials.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    part = joulebench("figures", run, "--boundary", "cpu", "-o", tmp_path / "part")
    assert "the figure of the phases leaves out" in part.stdout
    assert (tmp_path / "part" / "figure1.csv").exists()
    assert not (tmp_path / "part" / "phases.csv").exists()
    whole = joulebench("figures", run, "--boundary", "cpu+dram", "-o", tmp_path / "whole")
    assert "the figure of the phases" not in whole.stdout
    assert (tmp_path / "whole" / "phases.csv").exists()


def test_size_of_which_only_the_warm_up_ran_is_a_failure(tmp_path: Path) -> None:
    from harness.runs.records import load_run
    from harness.showing.drawn_systems import failed_sizes

    run = tmp_path / "run"
    assert joulebench(*FAKE, "-m", "fake", "--point", "64,32", "-o", run).returncode == 0
    assert failed_sizes(load_run(run)) == []
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    for trial in trials:
        if trial["purpose"] == "measure":
            trial |= {"status": "timeout", "reason": "too slow"}
    (run / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    assert [failure.input_tokens for failure in failed_sizes(load_run(run))] == [64]
