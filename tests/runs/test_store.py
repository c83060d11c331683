"""The run directory as it is written: locks, torn lines, full and unwritable disks."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.energy.readings import Domain, Trace, Window
from harness.runs.records import read_trace, read_trials
from harness.runs.run_schema import Run
from harness.runs.schema import Trial
from harness.runs.store import RunStore, StorageError

RECORD = Trial(
    id=0,
    session=0,
    worker=0,
    purpose="measure",
    input_tokens=8,
    output_tokens=4,
    status="ok",
    started_at="2026-01-01T00:00:00.000+00:00",
    repeats=2,
    window_s=2.0,
    runtime_s=1.0,
)
MARKS = np.arange(3, dtype=np.int64)
WINDOW = Window(MARKS, MARKS + 1, MARKS + 2)
DOMAIN = Domain("gpu0.counter", "gpu", "counter", "counter", "nvml", 0.001, source="gpu:0", scope="gpu")
TRACE = Trace(DOMAIN, MARKS, np.array([0.5, 1.5, 2.5]), failure="lost")
RUN = Run.model_validate_json(
    json.dumps(
        {
            "schema_version": 2,
            "plan": {
                "protocol": "quick",
                "seed": 0,
                "stopping": {},
                "min_window_s": 1.0,
                "max_window_s": 10.0,
                "timeout_s": 600.0,
                "points": [],
            },
            "backend": {
                "name": "fake",
                "config": {"kv_cache": True, "batch_size": 1},
                "device": "cpu",
                "device_names": [],
                "gpu_uuids": [],
                "settings": {},
                "versions": {},
            },
            "model": {"name": "fake", "context_length": 100, "dtype": "float32", "random_weights": True},
            "machine": {
                "cpu_model": None,
                "usable_cores": 1,
                "memory_bytes": 1,
                "gpus": [],
                "container": None,
                "hostname_sha256": "",
            },
            "energy": {},
            "sessions": [],
        }
    )
)


def test_what_is_appended_is_read_back_in_full(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run") as store:
        store.write_run(RUN)
        store.append(RECORD, WINDOW, [TRACE])
        store.append(replace(RECORD, id=1, status="oom", reason="full"))
    first, second = read_trials(tmp_path / "run")
    assert first == replace(RECORD, trace="traces/0.npz")
    assert (second.status, second.trace) == ("oom", None)
    window, (trace,) = read_trace(tmp_path / "run", first)
    assert trace.domain == DOMAIN
    assert trace.failure == "lost"
    np.testing.assert_array_equal(trace.values, TRACE.values)
    np.testing.assert_array_equal(window.end_ns, WINDOW.end_ns)
    with pytest.raises(UserError, match="no trace"):
        read_trace(tmp_path / "run", second)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_torn_last_line_is_removed_and_said(tmp_path: Path, cut: int) -> None:
    with RunStore(tmp_path) as store:
        store.write_run(RUN)
        store.append(RECORD)
        store.append(replace(RECORD, id=1))
    trials = tmp_path / "trials.jsonl"
    os.truncate(trials, trials.stat().st_size - cut)
    assert [record.id for record in read_trials(tmp_path)] == [0], "reading passes over the torn line"
    with RunStore(tmp_path) as store:
        assert [record.id for record in store.records] == [0]
        assert "torn" in store.notices[0]
        store.append(replace(RECORD, id=1))
    assert [record.id for record in read_trials(tmp_path)] == [0, 1]


def test_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_run(RUN)
        store.append(RECORD)
        store.append(RECORD)
    trials = tmp_path / "trials.jsonl"
    lines = trials.read_text().splitlines()
    trials.write_text("\n".join([lines[0], lines[1][:-5], lines[1], ""]))
    with pytest.raises(UserError, match="line 2"):
        read_trials(tmp_path)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        with pytest.raises(UserError, match="another joulebench"):
            RunStore(tmp_path)
        store.write_run(RUN)
    with RunStore(tmp_path) as store:
        assert store.run == RUN


def test_directory_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        RunStore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(UserError, match="can't write"):
        RunStore(path)


def test_unused_directory_is_taken_away_again(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run"):
        assert (tmp_path / "run").exists()
    assert not (tmp_path / "run").exists()
    with RunStore(tmp_path / "run") as store:
        store.write_run(RUN)
    assert (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"tmpfs can't be mounted: {mounted.stderr.decode().strip()}")
    try:
        with RunStore(mount / "run") as store:
            store.write_run(RUN)
            noise = np.random.default_rng(0).integers(0, 2**62, 12_000)
            offered = 0

            def fill() -> None:
                nonlocal offered
                for offered in range(1, 100):
                    store.append(replace(RECORD, id=offered - 1), Window(noise, noise, noise), [])

            with pytest.raises(StorageError, match="No space left"):
                fill()
            kept = len(store.records)
        assert 0 < kept == offered, "the reserve takes the trial that found the disk full"
        records = read_trials(mount / "run")
        assert [record.id for record in records] == list(range(kept))
        np.testing.assert_array_equal(read_trace(mount / "run", records[-1])[0].end_ns, noise)
        (mount / "filler").write_bytes(b"x" * (shutil.disk_usage(mount).free // 4096 * 4096))
        with pytest.raises(UserError, match="No space left"):
            RunStore(mount / "run")
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_file_that_must_not_grow_keeps_its_whole_lines(tmp_path: Path) -> None:
    """The limit on file size stops a write half-way, as a full disk can; nobody needs root for it."""
    program = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from dataclasses import replace
from tests.runs.test_store import RECORD, RUN
from harness.runs.store import RunStore, StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with RunStore(Path({str(tmp_path / "run")!r})) as store:
    store.write_run(RUN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    try:
        for id in range(100):
            store.append(replace(RECORD, id=id))
    except StorageError:
        print(len(store.records))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    records = read_trials(tmp_path / "run")
    assert len(records) == int(done.stdout) > 0
    assert (tmp_path / "run" / "trials.jsonl").read_bytes().endswith(b"\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="can't write"):
        RunStore(tmp_path / "run")


def test_run_file_is_replaced_as_a_whole() -> None:
    with tempfile.TemporaryDirectory() as name, RunStore(Path(name)) as store:
        for number in range(3):
            store.write_run(RUN.model_copy(update={"tool_version": str(number)}))
            assert json.loads((Path(name) / "run.json").read_text())["tool_version"] == str(number)
        assert not list(Path(name).glob("*.part"))


@pytest.mark.parametrize(
    "content",
    [
        {"trials.jsonl": '{"mine": 1}'},
        {"worker.log": "mine"},
        {"run.json.part": "mine"},
        {"trials.jsonl": "", "notes.txt": "mine"},
        {"traces/0.npz": "mine"},
    ],
)
def test_files_that_are_not_ours_are_left_alone(content: dict[str, str], tmp_path: Path) -> None:
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="another directory"):
        RunStore(tmp_path)
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == content


def test_records_without_their_run_file_are_kept_and_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_run(RUN)
        store.append(RECORD)
    (tmp_path / "run.json").unlink()
    with pytest.raises(UserError, match="damaged"):
        RunStore(tmp_path)
    assert [record.id for record in read_trials(tmp_path)] == [0]


def test_refusal_leaves_no_litter(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_run(RUN)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        RunStore(tmp_path)
    assert not (tmp_path / ".reserve").exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"runtime_s": None},
        {"runtime_s": 0},
        {"runtime_s": "fast"},
        {"status": "fine"},
        {"input_tokens": None},
        {"energy": {}},
        {"energy": {"total": 3, "components": {}}},
    ],
)
def test_records_that_make_no_sense_are_named(damage: dict, tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_run(RUN)
        store.append(RECORD)
    trials = tmp_path / "trials.jsonl"
    trials.write_text(json.dumps(json.loads(trials.read_text()) | damage) + "\n")
    with pytest.raises(UserError, match=r"line 1 is not a trial record"):
        read_trials(tmp_path)


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_numbers_that_are_none_are_refused(value: str, tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_run(RUN)
        store.append(RECORD)
    trials = tmp_path / "trials.jsonl"
    trials.write_text(trials.read_text().replace('"runtime_s": 1.0', f'"runtime_s": {value}'))
    with pytest.raises(UserError, match="line 1"):
        read_trials(tmp_path)
