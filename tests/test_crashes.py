"""Kill parent and child at random instants; the records stay whole, resuming completes them, nobody is orphaned."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.runs.records import read_run, read_trials
from tests.helpers import FAKE, JOULEBENCH, environment, joulebench, refused

POINTS = [option for m in (1, 2, 3, 4) for n in (1, 2, 3) for option in ("--point", f"{m},{n}")]
COMMAND = [*FAKE, "-m", "fake:realtime=1,floor_s=0.004,step_s=0.002", *POINTS, "--min-window", "0.02"]
PARENT_KILLS = 30
CHILD_KILLS = 30


def start(directory: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*JOULEBENCH, *COMMAND, "-o", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def whole(directory: Path) -> list:
    """All records; every line but possibly the last must be one."""
    path = directory / "trials.jsonl"
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    assert all(json.loads(line)["id"] == number for number, line in enumerate(lines))
    return read_trials(directory) if (directory / "run.json").exists() else []


def complete(directory: Path) -> None:
    """Resume to the end; then every point has its trials and its raw marks."""
    done = joulebench(*COMMAND, "-o", directory)
    assert done.returncode == 0, done.stderr
    records = read_trials(directory)
    assert [record.id for record in records] == list(range(len(records)))
    counted: dict[tuple[int, int], int] = {}
    for record in records:
        if record.purpose == "measure" and record.status == "ok":
            point = (record.input_tokens, record.output_tokens)
            counted[point] = counted.get(point, 0) + 1
            assert (directory / record.trace).exists()
    assert set(counted) == {(m, n) for m in (1, 2, 3, 4) for n in (1, 2, 3)}
    assert all(3 <= count <= 4 for count in counted.values())
    assert [record.purpose for record in records if record.status == "ok"].count("drift") == 3


def wait_for_a_record(directory: Path, process: subprocess.Popen) -> None:
    """However slow the machine is, the next kill then hits a worker that measures."""
    before, until = recorded(directory), time.monotonic() + 30
    while recorded(directory) == before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


def recorded(directory: Path) -> int:
    """Bytes of the records."""
    path = directory / "trials.jsonl"
    return path.stat().st_size if path.exists() else 0


def gone(processes: list[psutil.Process]) -> bool:
    """Whether they have ended; where nobody waits for orphans they stay as zombies."""
    alive = psutil.wait_procs(processes, timeout=10)[1]
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_killing_the_parent_at_random_instants_loses_at_most_one_trial(tmp_path: Path) -> None:
    chance = random.Random(1)
    directory = tmp_path / "run"
    kept: list = []
    for _ in range(PARENT_KILLS):
        process = start(directory)
        # From the first milliseconds of start-up to the midst of measuring.
        time.sleep(chance.uniform(0.05, 2.0))
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        assert gone(children), "a worker outlived its parent"
        records = whole(directory)
        assert records[: len(kept)] == kept, "a record was lost or changed"
        kept = records
    complete(directory)
    assert read_trials(directory)[: len(kept)] == kept


def test_killing_the_child_at_random_instants_costs_only_its_trial(tmp_path: Path) -> None:
    chance = random.Random(2)
    directory = tmp_path / "run"
    kills = 0
    while kills < CHILD_KILLS:
        process = start(directory)
        while process.poll() is None and kills < CHILD_KILLS:
            if chance.random() < 0.5:
                wait_for_a_record(directory, process)
            time.sleep(chance.uniform(0.0, 0.3))
            try:
                children = psutil.Process(process.pid).children()
            except psutil.NoSuchProcess:
                break
            for child in children:
                # A child may end between being listed and being sent its signal.
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(chance.choice([signal.SIGKILL, signal.SIGSEGV]))
                    kills += 1
        _, errors = process.communicate(timeout=120)
        # A worker that never lives to the end of its loading stops the run, and says so.
        assert process.returncode == 0 or "joulebench: stopped: " in errors, errors
        assert "Traceback" not in errors
        if process.returncode == 0 and kills < CHILD_KILLS:
            # All was measured between the kills: begin another run.
            directory = tmp_path / f"run{kills}"
    failures = [record for path in tmp_path.iterdir() for record in read_trials(path) if record.status == "error"]
    assert all("SIG" in record.reason for record in failures)
    assert failures, "no kill hit a trial: the test tests nothing"


def test_worker_killed_while_it_waits_costs_one_trial(tmp_path: Path) -> None:
    """During the idle baseline nobody listens to the worker: its death is noticed by the next request."""
    command = [*COMMAND[: COMMAND.index("--point")], "--point", "1,1", "--probes", "fake", "--min-window", "0.1"]
    command += ["--max-window", "0.5"]
    program = "from harness.cli import main; from harness.measuring import session; session.IDLE_S = 1.0; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command, "-o", str(tmp_path)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    while "idle power" not in process.stdout.readline():
        assert process.poll() is None
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    process.communicate(timeout=250)
    assert process.returncode == 0
    records = read_trials(tmp_path)
    assert [record.status for record in records].count("error") == 1
    assert "SIGKILL" in records[0].reason
    assert sum(record.purpose == "measure" and record.status == "ok" for record in records) >= 3


def test_reload_that_is_refused_stops_the_run_cleanly(tmp_path: Path) -> None:
    gone_file = tmp_path / "gone"
    model = f"fake:realtime=1,refuse_when={gone_file},segfault_at=2x1"
    command = [*FAKE, "-m", model, "--seed", "1", "--point", "1,1", "--point", "2,1", "-o", str(tmp_path / "run")]
    command += ["--min-window", "0.3"]
    process = subprocess.Popen([*JOULEBENCH, *command], env=environment(), stderr=subprocess.PIPE, text=True)
    while not whole(tmp_path / "run"):
        assert process.poll() is None
        time.sleep(0.02)
    gone_file.touch()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped: the model can't be loaded any more" in errors
    assert "Traceback" not in errors
    gone_file.unlink()
    assert joulebench(*command).returncode == 0


def test_worker_dies_with_a_parent_that_is_killed_in_mid_trial(tmp_path: Path) -> None:
    hang = [*FAKE, "-m", "fake:hang_at=8x8", "--point", "8,8", "-o", str(tmp_path / "run")]
    process = subprocess.Popen([*JOULEBENCH, *hang], env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    assert gone(children)


def test_torn_run_file_of_a_killed_start_does_not_block(tmp_path: Path) -> None:
    """A kill before run.json exists leaves only our own files, which the next start takes over."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "run.json.part").write_text('{"schema_')
    (directory / "trials.jsonl").touch()
    (directory / ".reserve").write_bytes(b"x" * 1000)
    complete(directory)
    assert not (directory / ".reserve").exists()


@pytest.mark.parametrize("cut", [1, 50])
def test_torn_line_is_said_and_measured_again(cut: int, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    complete(directory)
    trials = directory / "trials.jsonl"
    count = len(read_trials(directory))
    with trials.open("rb+") as stream:
        stream.truncate(trials.stat().st_size - cut)
    done = joulebench(*COMMAND, "-o", directory)
    assert "torn" in done.stdout
    assert len(read_trials(directory)) >= count
    assert [session.ended for session in read_run(directory).sessions] == ["complete", "complete"]


def test_second_run_into_a_busy_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    endless = [*FAKE, "-m", "fake:realtime=1", "--point", "1,1", "--min-window", "60", "--max-window", "60"]
    process = subprocess.Popen(
        [*JOULEBENCH, *endless, "-o", str(directory)], env=environment(), stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (directory / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert "another joulebench" in refused(joulebench(*endless, "-o", directory))
    finally:
        process.kill()
        process.communicate()
