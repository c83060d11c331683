"""The Mac's acceptance script, briefly on this machine, and its table on made-up runs with two power sources."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from backends.llama_cpp.threads import default_threads
from tests.helpers import FAKE, joulebench
from tests.scripts.acceptance import measured, python_that_says, steps, table, tabled


def test_whole_script_runs_on_any_cpu_with_the_estimate(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("llama_cpp")
    if sys.platform == "darwin":
        pytest.skip("on a Mac it would ask for GPUs that a virtual machine lists and doesn't have")
    done = measured("mac", "--brief", tmp_path)
    rows = table(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    made = steps(done)
    assert [made[:3], made[-1]] == [["sensors", "transformers-cpu", "llama-cpp-cpu"], "report"]
    threads = [name for name in made if name.startswith("threads-")]
    assert threads == made[3:-1]
    for name in ("transformers-cpu", "llama-cpp-cpu", *threads):
        assert rows[f"decode, {name}"]["value"] > 0
    assert rows["threads that llama-cpp chooses"]["value"] > 0
    assert "powermetrics exists only on macOS" in rows["powermetrics to ioreport, cpu"]["text"]
    run = json.loads((tmp_path / "llama-cpp-cpu" / "run.json").read_text())
    assert list(run["sessions"][0]["energy"]["probes"]) == ["estimate"]
    assert (tmp_path / "acceptance.txt").read_text() in done.stdout
    assert "is no acceptance" in done.stdout
    assert "to send it: tar czf" in done.stdout


def test_mac_without_powermetrics_is_told_the_line_and_measured_with_ioreport(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "steps").mkdir(parents=True)
    (out / "steps" / "sensors.done").touch()
    remedy = "an administrator can allow it with this one line: me ALL=(root) NOPASSWD: /usr/bin/powermetrics"
    refused = {"name": "powermetrics", "works": False, "reason": "sudo: a password is required", "remedy": remedy}
    works = {"name": "ioreport", "works": True, "domains": []}
    (out / "sensors.json").write_text(json.dumps({"probes": [refused, works]}))
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    python = python_that_says(tmp_path, "")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = measured("mac", out, PATH=path, JOULEBENCH_PYTHON=str(python))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"without powermetrics: sudo: a password is required; {remedy}" in done.stdout
    asked = (tmp_path / "asked").read_text().splitlines()
    with_energy = [line for line in asked if "--probes ioreport" in line]
    assert [tuple(option(line, name) for name in ("backend", "device", "model")) for line in with_energy] == [
        ("transformers", "mps", "smollm2-135m"),
        ("transformers", "cpu", "smollm2-135m"),
        ("llama-cpp", "cpu", "smollm2-135m"),
        ("llama-cpp", "metal", "smollm2-135m"),
    ]
    assert all("--probes none" in line for line in asked if line not in with_energy)
    counts = [int(option(line, "threads")) for line in asked if "--threads" in line]
    assert os.cpu_count() in counts
    assert default_threads() in counts
    assert [option(line, "device") for line in asked if "qwen2.5-0.5b" in line] == ["mps", "cpu", "cpu", "metal"]


def option(line: str, name: str) -> str:
    """The value of an option on a command line."""
    return line.partition(f" --{name} ")[2].split()[0]


@pytest.mark.skipif(sys.platform == "darwin", reason="this is macOS")
def test_other_systems_are_refused_in_one_line(tmp_path: Path) -> None:
    done = measured("mac", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "this measures a Mac; with --brief it can be tried out on any system" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no folder for the output; say bash "),
        (["--device", "mps", "out"], "unknown option --device"),
        (["--minutes", "1", "out"], "--minutes must be at least 2, not 1"),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments: list[str], said: str) -> None:
    done = measured("mac", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a made-up Mac: powermetrics reads 1 % less for its CPU, 10 % less for its GPU; its ANE draws nothing."""
    out = tmp_path_factory.mktemp("mac")
    plan = ["-m", "fake", "--point", "8,64", "--runs", "3", "--min-window", "0.01"]
    assert joulebench(*FAKE, *plan, "-o", out / "llama-cpp-metal").returncode == 0
    run_file = out / "llama-cpp-metal" / "run.json"
    content = json.loads(run_file.read_text())
    fields = {"kind": "counter", "method": "modelled", "resolution": 0.001, "period_s": 0.1}
    content["sessions"][0]["energy"]["domains"] = {
        name: {"name": name, "component": rail, "source": f"soc-{rail}", "probe": probe, **fields}
        for rail in ("cpu", "gpu", "ane")
        for name, probe in ((f"soc-{rail}", "powermetrics"), (f"soc-{rail}-ioreport", "ioreport"))
    }
    run_file.write_text(json.dumps(content))
    trials_file = out / "llama-cpp-metal" / "trials.jsonl"
    trials = [json.loads(line) for line in trials_file.read_text().splitlines()]
    assert [trial["purpose"] for trial in trials] == ["warmup"] + 3 * ["measure"] + 3 * ["drift"]
    for trial in trials:
        cpu_j = 1.0 if trial["purpose"] == "warmup" else 8.0 if trial["id"] == 2 else 9.9
        trial["energy"] = {
            "domains": {
                "soc-cpu": figure(cpu_j),
                "soc-cpu-ioreport": figure(10.0),
                "soc-gpu": figure(18.0),
                "soc-gpu-ioreport": figure(20.0),
                "soc-ane": figure(None),
                "soc-ane-ioreport": figure(None),
            },
            "components": {},
            "total": figure(28.0),
            "warnings": [],
        }
    trials_file.write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    return out


def figure(joules: float | None) -> dict:
    """Energy of a rail, with an interval of 2 % on either side."""
    nothing = dict.fromkeys(("prefill_j", "prefill_ci95_j", "decode_j", "decode_ci95_j"))
    interval = None if joules is None else 0.02 * joules
    reason = "the counter did not move" if joules is None else None
    return {"method": "modelled", "request_j": joules, "request_ci95_j": interval, "reason": reason, **nothing}


def test_table_sets_both_sources_beside_each_other_window_by_window(two_sources: Path) -> None:
    done = tabled("mac", two_sources)
    assert done.returncode == 0, done.stderr
    rows = table(two_sources)
    cpu, gpu = (rows[f"powermetrics to ioreport, {rail}"] for rail in ("cpu", "gpu"))
    assert (cpu["value"], cpu["met"]) == (pytest.approx(0.99), True)
    assert "worst 0.8000 in 6 windows (llama-cpp-metal, trial 2)" in cpu["text"]
    assert (rows["intervals that overlap, cpu"]["value"], rows["intervals that overlap, cpu"]["met"]) == (5 / 6, False)
    assert (gpu["value"], gpu["met"]) == (pytest.approx(0.9), False)
    assert rows["intervals that overlap, gpu"]["text"] == "the 95 % intervals overlap in 0 of 6 windows"
    assert rows["powermetrics to ioreport, ane"]["text"] == "not measured: the counter did not move"
    assert rows["drift, llama-cpp-metal"]["value"] == pytest.approx(0, abs=0.01)


def test_number_of_threads_that_is_slower_than_another_is_not_met(tmp_path: Path, two_sources: Path) -> None:
    plan = ["--point", "8,64", "--runs", "2", "--min-window", "0.01"]
    for name, step_s, threads in (("llama-cpp-cpu", 0.02, 4), ("threads-4", 0.02, 4), ("threads-8", 0.01, 8)):
        model = f"fake:step_s={step_s},step_linear_s=0"
        assert joulebench(*FAKE, *plan, "-m", model, "-o", tmp_path / name).returncode == 0
        content = json.loads((tmp_path / name / "run.json").read_text())
        content["backend"]["settings"]["threads"] = threads
        (tmp_path / name / "run.json").write_text(json.dumps(content))
    tabled("mac", tmp_path)
    row = table(tmp_path)["threads that llama-cpp chooses"]
    assert (row["value"], row["met"]) == (pytest.approx(0.5), False)
    assert row["text"] == "4 of them reach 50.0 % of the rate that 8 reach, the best number"


def test_source_that_was_refused_says_why(two_sources: Path, tmp_path: Path) -> None:
    shutil.copytree(two_sources, tmp_path, dirs_exist_ok=True)
    run_file = tmp_path / "llama-cpp-metal" / "run.json"
    content = json.loads(run_file.read_text())
    domains = content["sessions"][0]["energy"]["domains"]
    content["sessions"][0]["energy"]["domains"] = {
        name: domain for name, domain in domains.items() if domain["probe"] == "ioreport"
    }
    run_file.write_text(json.dumps(content))
    probes = [
        {"name": "powermetrics", "works": False, "reason": "powermetrics was refused: sudo: a password is required"},
        {"name": "ioreport", "works": True, "domains": []},
    ]
    (tmp_path / "sensors.json").write_text(json.dumps({"probes": probes}))
    tabled("mac", tmp_path)
    text = table(tmp_path)["powermetrics to ioreport, cpu"]["text"]
    assert text == "not measured: powermetrics: powermetrics was refused: sudo: a password is required"
