"""Runs at several power caps, from the driver to the figure: recorded, never pooled, told apart, drawn."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.modelling.profile import Profile
from tests.helpers import JOULEBENCH, build_nvml, environment, install_guest, joulebench, needs_gcc, refused

pytestmark = needs_gcc

BOARD = """
from dataclasses import replace

from backends.fake.backend import FakeBackend


class Board(FakeBackend):
    def load(self, config):
        return replace(super().load(config), device="cuda", device_names=("Test Board",), gpu_uuids=("GPU-0",))


create = Board
"""
"""A backend that computes on the GPU of the stand-in for NVML."""

WINDOW = ["--min-window", "0.5", "--max-window", "0.5"]
POINTS = [part for size in ("8,2", "8,4", "16,3", "32,2", "32,4") for part in ("--point", size)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs at caps of 350 and 250 W; the board draws the same at both, and is slower at 250."""
    folder = tmp_path_factory.mktemp("caps")
    install_guest(folder, "joulebench.backends", "board", BOARD)
    build_nvml(folder)
    started = []
    for cap in (350, 250):
        (folder / f"scenario-{cap}").write_text(f"gpus=1\ncap_w={cap}\napplication_clock=1410\n")
        variables = environment() | {"LD_LIBRARY_PATH": str(folder), "NVML_SCENARIO": str(folder / f"scenario-{cap}")}
        variables["PYTHONPATH"] += f":{folder}"
        model = f"fake:realtime=1,floor_s={0.02 if cap == 350 else 0.03}"
        options = [
            "-m",
            model,
            "--probes",
            "nvml",
            "--max-foreign-load",
            "1",
            "--min-window",
            "0.5",
            "--max-window",
            "0.5",
            "--runs",
            "2",
        ]
        command = [*JOULEBENCH, "measure", "--backend", "guest", *options, *POINTS, "-o", str(folder / f"run-{cap}")]
        started.append(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for process in started:
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said.decode()
    # The model's name is the fake's behaviour, which the cap changes here: one model all the same.
    for cap in (350, 250):
        facts = json.loads((folder / f"run-{cap}" / "run.json").read_text())
        facts["model"]["name"] = "fake"
        (folder / f"run-{cap}" / "run.json").write_text(json.dumps(facts))
    return folder


def test_the_cap_is_part_of_what_was_measured_and_runs_at_two_are_not_pooled(runs: Path, tmp_path: Path) -> None:
    for cap in (350, 250):
        assert joulebench("fit", runs / f"run-{cap}", "-o", tmp_path / f"{cap}.json").returncode == 0
        settings = Profile.load(tmp_path / f"{cap}.json").identity.settings
        assert (settings["power_limit_w"], settings["application_clock_mhz"]) == (cap, 1410)
    assert "differ in power_limit_w" in refused(joulebench("fit", runs / "run-350", runs / "run-250"))
    compared = joulebench("compare", tmp_path / "350.json", tmp_path / "250.json")
    assert compared.returncode == 0, compared.stderr
    assert "(350 W power cap)" in compared.stdout
    assert "(250 W power cap)" in compared.stdout


def test_a_cap_that_changes_during_a_run_is_refused_with_both(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "run-350", tmp_path / "run")
    lines = (tmp_path / "run" / "trials.jsonl").read_text().splitlines()
    trial = json.loads(lines[-5])
    trial["conditions"]["nvml"]["gpus"]["GPU-0"]["power_cap_w"]["min"] = 200.0
    lines[-5] = json.dumps(trial)
    (tmp_path / "run" / "trials.jsonl").write_text("".join(f"{line}\n" for line in lines))
    refusal = refused(joulebench("fit", tmp_path / "run"))
    assert "measured at more than one power cap of GPU-0, 200 W and 350 W" in refusal
    assert "a directory of its own (-o)" in refusal


def test_caps_that_amds_driver_told_part_runs_too(runs: Path, tmp_path: Path) -> None:
    for cap in (350, 250):
        copy = tmp_path / f"amd-{cap}"
        shutil.copytree(runs / f"run-{cap}", copy)
        trials = [json.loads(line) for line in (copy / "trials.jsonl").read_text().splitlines()]
        for trial in trials:
            if told := trial["conditions"].pop("nvml", None):
                seen = {"0000:0d:00": {"power_limit_w": told["gpus"]["GPU-0"]["power_cap_w"], "power_cap_w": None}}
                trial["conditions"]["amd"] = {"gpus": seen}
        (copy / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials))
        done = joulebench("fit", copy, "-o", tmp_path / f"{cap}.json")
        assert done.returncode == 0, done.stderr
        assert Profile.load(tmp_path / f"{cap}.json").identity.settings["power_limit_w"] == cap
    assert "differ in power_limit_w" in refused(joulebench("fit", tmp_path / "amd-350", tmp_path / "amd-250"))


def test_energy_and_speed_are_drawn_against_the_cap(runs: Path, tmp_path: Path) -> None:
    done = joulebench("figures", runs / "run-350", runs / "run-250", "--fixed-output", "4", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "caps.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["power_limit_w"]) for row in rows] == [250, 350]
    for row in rows:
        profile = joulebench("fit", runs / f"run-{float(row['power_limit_w']):.0f}", "-o", tmp_path / "p.json")
        assert profile.returncode == 0
        point = next(
            m
            for m in Profile.load(tmp_path / "p.json").measurements
            if (m.input_tokens, m.output_tokens) == (float(row["input_tokens"]), float(row["output_tokens"])) == (32, 4)
        )
        assert float(row["total_tokens_per_s"]) == pytest.approx(36 / point.runtime_s.mean)
        assert point.energy_j
        assert float(row["energy_per_token_j"]) == pytest.approx(point.energy_j.mean / 36)
    assert float(rows[0]["total_tokens_per_s"]) < float(rows[1]["total_tokens_per_s"])
    alone = joulebench("figures", runs / "run-350", "-o", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    assert not (tmp_path / "alone" / "caps.svg").exists()
