"""Whole runs with the fake backend: failures are results, interruptions lose nothing, other runs are refused."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.core.sizes import Point
from harness.energy.meter import Meter
from harness.runs.records import load_trials, read_trials
from harness.runs.summary import summarise
from tests.helpers import (
    FAKE,
    FOUR_POINTS,
    JOULEBENCH,
    environment,
    joulebench,
    others_computing,
    refused,
    take_interrupts,
)


def measure(directory: Path, model: str = "fake", *options: object) -> subprocess.CompletedProcess[str]:
    done = joulebench(*FAKE, "-m", model, "-o", directory, *FOUR_POINTS, *options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_file(directory: Path) -> dict[str, Any]:
    """``run.json`` as it stands."""
    return json.loads((directory / "run.json").read_text())


def by_point(directory: Path) -> dict[tuple[int, int], list]:
    points: dict[tuple[int, int], list] = {}
    for record in read_trials(directory):
        points.setdefault((record.input_tokens, record.output_tokens), []).append(record)
    return points


def test_whole_run_with_the_known_costs(tmp_path: Path) -> None:
    done = measure(tmp_path, "fake:noise=0.01")
    assert done.returncode == 0
    table = load_trials(tmp_path)
    counted = table[table.purpose == "measure"]
    assert set(map(tuple, counted[["input_tokens", "output_tokens"]].to_numpy())) == {
        (8, 8),
        (64, 8),
        (8, 64),
        (64, 64),
    }
    for _, row in counted.iterrows():
        prefill_s = 0.010 + 1e-4 * row.input_tokens + 1e-8 * row.input_tokens**2
        decode_s = sum(0.005 + 1e-6 * (row.input_tokens + k) for k in range(1, row.output_tokens))
        assert row.prefill_s == pytest.approx(prefill_s, rel=0.05)
        assert row.decode_s == pytest.approx(decode_s, rel=0.05)
        assert row.runtime_s == pytest.approx(row.prefill_s + row.decode_s, rel=1e-6)
        assert row.output_tokens_produced == row.output_tokens
    assert counted.energy_j.isna().all()
    assert list(table.trial_id) == list(range(len(table)))
    assert "drift" in done.stdout


def test_windows_reach_their_length(tmp_path: Path) -> None:
    measure(tmp_path, "fake", "--min-window", "2")
    counted = [record for record in read_trials(tmp_path) if record.purpose == "measure"]
    assert all(record.window_s >= 2.0 for record in counted)
    assert all(record.window_s < 2.0 + record.runtime_s * 1.01 for record in counted)
    assert all(record.runtime_s == pytest.approx(record.window_s / record.repeats) for record in counted)


def test_windows_are_filled_by_what_requests_take_once_warm(tmp_path: Path) -> None:
    """A first request that takes twice as long, as plans for attention kernels make it, shortens no window."""
    done = measure(tmp_path, "fake:first=2,step_s=0.2", "--min-window", "6", "--max-window", "30")
    assert done.returncode == 0, done.stderr
    for records in by_point(tmp_path).values():
        warmup, *counted = [record for record in records if record.status == "ok"]
        assert warmup.purpose == "warmup"
        assert warmup.repeats >= 2
        assert all(record.window_s >= 6.0 for record in counted)


def test_a_request_of_most_of_the_time_limit_warms_up_alone(tmp_path: Path) -> None:
    slow = ["-m", "fake:realtime=1,step_s=0.2", "--point", "8,8", "--timeout", "2.4", "--runs", "1"]
    assert joulebench(*FAKE, *slow, "-o", tmp_path).returncode == 0
    assert [(record.purpose, record.repeats, record.status) for record in read_trials(tmp_path)][:2] == [
        ("warmup", 1, "ok"),
        ("measure", 1, "ok"),
    ]


def test_no_kv_cache_costs_a_full_pass_each_step(tmp_path: Path) -> None:
    measure(tmp_path, "fake", "--no-kv-cache")
    record = next(record for record in by_point(tmp_path)[64, 8] if record.purpose == "measure")
    assert record.decode_s == pytest.approx(sum(0.010 + 1e-4 * x + 1e-8 * x * x for x in range(65, 72)), rel=1e-6)
    assert run_file(tmp_path)["backend"]["config"]["kv_cache"] is False


@pytest.mark.parametrize(
    ("model", "options", "status", "reason"),
    [
        ("fake:segfault_at=64x8", [], "error", "SIGSEGV"),
        ("fake:error_at=64x8", [], "error", "the fake backend fails here"),
        ("fake:short_at=64x8", [], "error", "asked for 64 input and 8 output tokens"),
        ("fake:hang_at=64x8", ["--timeout", "2"], "timeout", "no answer within 2 s"),
        ("fake:oom_above=127", [], "oom", "127 tokens"),
    ],
)
def test_failures_are_results_and_the_sweep_goes_on(
    model: str, options: list[str], status: str, reason: str, tmp_path: Path
) -> None:
    done = measure(tmp_path, model, *options)
    assert done.returncode == 0, done.stderr
    points = by_point(tmp_path)
    failing = (64, 64) if status == "oom" else (64, 8)
    failures = [record for record in points.pop(failing) if record.status != "ok"]
    assert {record.status for record in failures} == {status}
    assert reason in failures[0].reason
    for records in points.values():
        assert sum(record.status == "ok" and record.purpose == "measure" for record in records) == 3
    workers = [record.worker for record in read_trials(tmp_path)]
    assert max(workers) == len(failures), "every failure is followed by a new worker"
    assert reason.split()[0] in done.stdout


def test_what_needs_more_memory_is_skipped(tmp_path: Path) -> None:
    measure(tmp_path, "fake:oom_above=71", "--seed", "3")
    statuses = {point: {record.status for record in records} for point, records in by_point(tmp_path).items()}
    assert statuses[8, 8] == {"ok"}
    assert statuses[64, 64] <= {"skipped", "oom"}
    skipped = [record for record in read_trials(tmp_path) if record.status == "skipped"]
    assert all("ran out of it" in record.reason for record in skipped)
    assert len(read_trials(tmp_path)) == len({record.id for record in read_trials(tmp_path)})


def test_protocol_points_beyond_the_context_are_skipped(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake:context=300", "-o", tmp_path)
    assert done.returncode == 0
    skipped = {
        (record.input_tokens, record.output_tokens): record.reason
        for record in read_trials(tmp_path)
        if record.status == "skipped"
    }
    assert set(skipped) == {(512, 32)}
    assert "context of 300" in skipped[512, 32]


def start(directory: Path, *options: object) -> subprocess.Popen:
    """A run in real time, long enough to be interrupted."""
    command = [*JOULEBENCH, *FAKE, "-m", "fake:realtime=1", "-o", directory, *FOUR_POINTS, *options]
    process = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=take_interrupts,
    )
    deadline = time.monotonic() + 60
    while len(read_trials(directory)) < 2:
        assert time.monotonic() < deadline, "the run never got going"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_interruption_ends_cleanly_and_the_same_command_resumes(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    process = start(directory, "--min-window", "0.2")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert errors.strip().count("\n") == 0, errors
    resume = shlex.split(errors.partition("resume with: ")[2])
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    before = read_trials(directory)
    resumed = subprocess.run(resume, capture_output=True, text=True, env=environment())
    assert resumed.returncode == 0, resumed.stderr
    after = read_trials(directory)
    assert after[: len(before)] == before
    assert {record.session for record in after} == {0, 1}
    assert [record.id for record in after] == list(range(len(after)))
    assert [session["ended"] for session in run_file(directory)["sessions"]] == ["interrupted", "complete"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--seed", "9"], "--seed: 0 there and 9 now"),
        (["--no-kv-cache"], "--kv-cache: True there and False now"),
        (["-m", "fake:noise=0.1"], "--model: 'fake' there and 'fake:noise=0.1' now"),
        (["--probes", "fake"], "--probes: 'none' there and 'fake' now"),
        (["--cpu-watts", "30"], "--cpu-watts: None there and 30.0 now"),
        (["--calibrate", "fake=1.1,0"], "--calibrate: () there and ('fake=1.1,0',) now"),
        (["--sample-rate", "7"], "--sample-rate: 20.0 there and 7.0 now"),
        (["--protocol", "paper"], "--kv-cache: True there and False now"),
    ],
)
def test_directory_of_another_run_is_refused(changed: list[str], named: str, tmp_path: Path) -> None:
    assert measure(tmp_path).returncode == 0
    before = (tmp_path / "trials.jsonl").read_bytes()
    line = refused(measure(tmp_path, "fake", *changed))
    assert named in line
    assert "another directory" in line
    assert (tmp_path / "trials.jsonl").read_bytes() == before


def counted(directory: Path) -> dict[tuple[int, int], int]:
    """Counted trials by size."""
    sizes = [(trial.input_tokens, trial.output_tokens) for trial in read_trials(directory) if trial.counts]
    return dict(Counter(sizes))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["--point", "9,9"], {(8, 8): 3, (64, 8): 3, (8, 64): 3, (64, 64): 3, (9, 9): 3}),
        (["--max-trials", "2"], {(8, 8): 3, (64, 8): 3, (8, 64): 3, (64, 64): 3}),
        (["--min-window", "0.5", "--point", "9,9"], {(8, 8): 3, (64, 8): 3, (8, 64): 3, (64, 64): 3, (9, 9): 3}),
        (["--timeout", "99", "--max-foreign-load", "0.9"], {(8, 8): 3, (64, 8): 3, (8, 64): 3, (64, 64): 3}),
        (["--protocol", "precise"], {(8, 8): 3, (64, 8): 3, (8, 64): 3, (64, 64): 3}),
    ],
)
def test_a_run_goes_on_with_what_touches_only_what_is_still_to_be_measured(
    changed: list[str], expected: dict[tuple[int, int], int], tmp_path: Path
) -> None:
    """The fake machine is exact, so that three trials satisfy every protocol."""
    assert measure(tmp_path).returncode == 0
    before = (tmp_path / "trials.jsonl").read_bytes()
    assert measure(tmp_path, "fake", *changed).returncode == 0
    assert (tmp_path / "trials.jsonl").read_bytes().startswith(before)
    assert counted(tmp_path) == expected
    points = set(map(tuple, run_file(tmp_path)["plan"]["points"]))
    assert points == {(m, n, 1) for m, n in expected}
    # The first command again finds all done, and forgets none of the points.
    done = measure(tmp_path)
    assert "nothing is left to measure" in done.stdout
    assert set(map(tuple, run_file(tmp_path)["plan"]["points"])) == points


def test_more_trials_and_a_tighter_precision_are_measured_where_they_are_missing(tmp_path: Path) -> None:
    noisy = "fake:noise=0.05"
    assert measure(tmp_path, noisy, "--min-window", "0", "--max-trials", "3").returncode == 0
    assert set(counted(tmp_path).values()) == {3}
    assert measure(tmp_path, noisy, "--min-window", "0", "--max-trials", "5", "--precision", "0.0001").returncode == 0
    assert set(counted(tmp_path).values()) == {5}
    run = run_file(tmp_path)
    assert run["plan"]["stopping"]["max_trials"] == 5
    assert [session["ended"] for session in run["sessions"]] == ["complete", "complete"]


def test_a_point_that_met_its_time_limit_is_tried_again_with_a_longer_one_only(tmp_path: Path) -> None:
    def timeouts(limit_s: str) -> int:
        measure(tmp_path, "fake:hang_at=64x8", "--timeout", limit_s)
        return sum(trial.status == "timeout" for trial in read_trials(tmp_path))

    assert [timeouts("1"), timeouts("1"), timeouts("2"), timeouts("2"), timeouts("1")] == [1, 1, 2, 2, 2]
    assert [session["plan"]["timeout_s"] for session in run_file(tmp_path)["sessions"]] == [1.0, 2.0]


def test_what_was_disturbed_is_measured_again_by_the_same_command(tmp_path: Path) -> None:
    """Also what an earlier version discarded; nothing that is recorded is lost."""
    assert measure(tmp_path).returncode == 0
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    spoilt = [json.loads(line) for line in lines if json.loads(line)["purpose"] != "drift"]
    for trial in spoilt:
        if trial["purpose"] == "measure" and (trial["input_tokens"], trial["output_tokens"]) == (64, 8):
            trial |= {"status": "discarded", "reason": "other programs took 30% of the CPU"}
    before = "".join(json.dumps(trial) + "\n" for trial in spoilt)
    (tmp_path / "trials.jsonl").write_text(before)
    assert counted(tmp_path) == {(8, 8): 3, (8, 64): 3, (64, 64): 3}
    done = measure(tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "trials.jsonl").read_text().startswith(before)
    assert counted(tmp_path) == {(8, 8): 3, (64, 8): 3, (8, 64): 3, (64, 64): 3}
    again = [trial.point for trial in read_trials(tmp_path) if trial.session == 1 and trial.purpose == "measure"]
    assert set(again) == {Point(64, 8)}
    assert "nothing is left to measure" in measure(tmp_path).stdout


def test_drift_is_that_of_the_first_point_also_where_the_run_goes_on_without_it(tmp_path: Path) -> None:
    assert joulebench(*FAKE, "-m", "fake", "-o", tmp_path, "--point", "8,8").returncode == 0
    assert joulebench(*FAKE, "-m", "fake", "-o", tmp_path, "--point", "24,24").returncode == 0
    drifts = [trial.point for trial in read_trials(tmp_path) if trial.purpose == "drift" and trial.session == 1]
    assert {(point.input_tokens, point.output_tokens) for point in drifts} == {(8, 8)}


def test_an_option_that_this_program_does_not_know_is_not_passed_over(tmp_path: Path) -> None:
    assert measure(tmp_path).returncode == 0
    run = run_file(tmp_path)
    run["backend"]["config"]["speculative"] = True
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert "--speculative: True there and None now" in refused(measure(tmp_path, "fake", "--point", "9,9"))


def test_drift_is_looked_at_again_after_a_run_has_gone_on(tmp_path: Path) -> None:
    measure(tmp_path)
    first = [trial for trial in read_trials(tmp_path) if trial.purpose == "drift"]
    measure(tmp_path, "fake", "--point", "9,9", "--point", "10,10")
    drifts = [trial for trial in read_trials(tmp_path) if trial.purpose == "drift"]
    assert len(drifts) == 2 * len(first)
    assert {trial.point for trial in drifts} == {first[0].point}
    assert drifts[-1].session == 1


@pytest.mark.parametrize(
    ("part", "changed", "named"),
    [
        ("backend", {"settings": {"virtual_clock": False}}, "virtual_clock"),
        ("backend", {"device": "cuda"}, "device"),
        ("backend", {"versions": {"fake": "0"}}, "the version of fake: '0' there and '1' now"),
        ("model", {"parameters": 2}, "parameters"),
        ("energy", {"rate_hz": 5.0}, "--sample-rate: 5.0 there"),
    ],
)
def test_what_only_the_loaded_backend_knows_is_compared_too(
    part: str, changed: dict, named: str, tmp_path: Path
) -> None:
    """A run that stopped half-way and whose hardware or libraries have changed since does not go on."""
    assert measure(tmp_path).returncode == 0
    lines = (tmp_path / "trials.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "trials.jsonl").write_text("".join(lines[:5]))
    run = run_file(tmp_path)
    run[part] |= changed
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert named in refused(measure(tmp_path))
    assert len(read_trials(tmp_path)) == 5


def test_hang_ups_that_are_ignored_stay_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(tmp_path / "run", "--min-window", "0.05")
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_directory_from_another_machine_is_refused(tmp_path: Path) -> None:
    measure(tmp_path)
    run = run_file(tmp_path)
    run["machine"]["cpu_model"] = "Zilog Z80"
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert "Zilog Z80" in refused(measure(tmp_path))


def test_run_file_tells_what_was_measured_on_what(tmp_path: Path) -> None:
    measure(tmp_path, "fake", "--threads", "2")
    run = run_file(tmp_path)
    assert run["schema_version"] == 2
    assert run["plan"]["protocol"] == "quick"
    assert run["model"]["random_weights"] is True
    assert run["backend"]["config"]["threads"] == 2
    assert run["backend"]["versions"] == {"fake": "1"}
    assert run["sessions"][0]["software"]["python"]
    machine = run["machine"]
    assert machine["logical_cores"] >= 1
    assert machine["memory_bytes"] > 2**20
    assert {"cpu_model", "gpus", "os", "governor", "container", "virtual_machine"} <= set(machine)
    assert len(machine["hostname_sha256"]) == 16


def test_energies_of_a_synthetic_source_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Meter.idle
    monkeypatch.setattr(Meter, "idle", lambda meter, _: idle(meter, 3.0, settle_s=0.5))
    done = joulebench(
        "measure", "--backend", "fake", "-m", "fake:realtime=1", "-o", tmp_path, "--point", "64,16",
        "--probes", "fake:idle_w=150:busy_w=150", "--max-foreign-load", "1", "--min-window", "1", "--max-window", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = load_trials(tmp_path)
    counted = table[table.purpose == "measure"]
    assert len(counted) >= 3
    assert (counted.energy_j > 0).all()
    assert (counted.energy_ci95_j > 0).all()
    assert (counted.energy_per_output_token_j * 16).tolist() == pytest.approx(counted.energy_j.tolist())
    assert (counted.energy_per_token_j * 80).tolist() == pytest.approx(counted.energy_j.tolist())
    session = run_file(tmp_path)["sessions"][0]
    assert set(session["idle"]) == {"before", "after"}
    assert "change" in done.stdout, "the drift of idle power is told"
    # The synthetic source draws the same power all the time: net of idle nothing is left.
    assert (counted.net_energy_j.abs() <= counted.net_energy_ci95_j + counted.energy_ci95_j).all()
    assert (counted.energy_per_token_ci95_j * 80).tolist() == pytest.approx(counted.energy_ci95_j.tolist())


@pytest.mark.parametrize("damage", [{"sessions": 3}, {"backend": 5}, {"schema_version": True}, {"model": {}}])
def test_damaged_run_file_is_refused(damage: dict, tmp_path: Path) -> None:
    measure(tmp_path)
    run = run_file(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(run | damage))
    refused(measure(tmp_path))
    refused(joulebench("trials", tmp_path))


def test_record_of_another_size_is_refused(tmp_path: Path) -> None:
    measure(tmp_path)
    trials = tmp_path / "trials.jsonl"
    trials.write_text(trials.read_text().replace('"input_tokens": 64', '"input_tokens": 63'))
    assert "not in its plan" in refused(measure(tmp_path))


def test_ids_stay_unique_when_a_line_is_lost(tmp_path: Path) -> None:
    measure(tmp_path)
    trials = tmp_path / "trials.jsonl"
    lines = trials.read_text().splitlines(keepends=True)
    del lines[2]
    trials.write_text("".join(lines))
    assert measure(tmp_path).returncode == 0
    ids = [record.id for record in read_trials(tmp_path)]
    assert len(ids) == len(set(ids))


def test_modules_in_the_current_directory_are_not_ours(tmp_path: Path) -> None:
    for name in ("harness", "backends"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a stranger was imported')")
    (tmp_path / "queue.py").write_text("raise SystemExit('a stranger was imported')")
    command = [sys.executable, "-P", "-m", "harness", *FAKE, "-m", "fake", "--point", "8,8", "-o", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    assert len(read_trials(tmp_path / "run")) > 3


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "| head -n 1"])
def test_output_that_goes_nowhere_costs_no_measurement(redirection: str, tmp_path: Path) -> None:
    command = shlex.join([*JOULEBENCH, *FAKE, "-m", "fake", "--point", "8,8", "-o", str(tmp_path / "run")])
    done = subprocess.run(
        ["bash", "-c", f"{command} {redirection}"], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert "Traceback" not in done.stderr
    assert sum(record.purpose == "drift" for record in read_trials(tmp_path / "run")) == 3


def test_terminal_without_unicode_is_no_obstacle(tmp_path: Path) -> None:
    command = [*JOULEBENCH, *FAKE, "-m", "fake", "--point", "8,8", "-o", str(tmp_path / "run")]
    variables = {**environment(), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr


def test_a_run_that_others_disturb_throughout_ends_with_marked_results(tmp_path: Path) -> None:
    """And so does the same command again while they stay; neither takes longer than on a machine at rest."""

    def run(directory: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = ["measure", "--backend", "fake", "-m", "fake:realtime=1", "--probes", "none", "-o", directory]
        points = ["--point", "8,4", "--point", "16,4", "--point", "24,4"]
        return joulebench(*command, *points, "--max-foreign-load", "0", "--min-window", "0.5", "--max-trials", "2")

    with others_computing():
        first, second = run(), run()
    for done in (first, second):
        assert done.returncode == 0, done.stderr
        looked, loading, *_ = done.stdout.splitlines()
        assert looked.startswith("Other programs used ")
        assert "(limit 0 %)" in looked
        assert "--max-foreign-load 1" in looked
        assert loading.startswith("loading")
    measured = [trial for trial in read_trials(tmp_path) if trial.purpose == "measure"]
    assert all(trial.status == "disturbed" and trial.runtime_s and not trial.counts for trial in measured)
    assert all((trial.reason or "").endswith("of the CPU (limit 0 %)") for trial in measured)
    assert all(trial.conditions["foreign_programs"] for trial in measured)
    # The first point is measured again until it is clear that they stay.
    assert Counter((trial.session, trial.input_tokens) for trial in measured) == {
        **{(session, 8): 3 for session in (0, 1)},
        **{(session, size): 2 for session in (0, 1) for size in (16, 24)},
    }
    for session in run_file(tmp_path)["sessions"]:
        assert session["ended"] == "complete"
        assert session["load_at_start"]["share"] > 0
        assert 1 <= len(session["load_at_start"]["programs"]) <= 3
    assert [summary.disturbed for summary in summarise(measured)] == [6, 4, 4]


def test_a_sensor_shared_with_others_costs_the_energy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "another process (pid 7) used GPU 0"
    monkeypatch.setattr("harness.energy.probes.fake.Fake.conditions", lambda probe: {"energy_of_others": reason})
    idle = Meter.idle
    monkeypatch.setattr(Meter, "idle", lambda meter, _: idle(meter, 0.5, settle_s=0.1))
    done = joulebench(
        "measure", "--backend", "fake", "-m", "fake:realtime=1", "-o", tmp_path, "--point", "8,4",
        "--probes", "fake", "--max-foreign-load", "1", "--min-window", "1.2", "--max-window", "1.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = [trial for trial in read_trials(tmp_path) if trial.purpose == "measure"]
    assert {trial.status for trial in measured} == {"disturbed"}
    for trial in measured:
        assert trial.runtime_s
        assert trial.reason == reason
        assert trial.energy.total.request_j is None
        assert reason in trial.energy.total.reason
