"""The edges of a window: when the worker and its parent talk there, and what becomes of a worker that doesn't."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Config
from harness.measuring.worker_process import TrialFailed, WorkerProcess

REQUEST = {"input_tokens": 4, "output_tokens": 2, "seed": 0, "fewest": 3, "min_window_s": 0.0}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess("fake", tmp_path / "log")
    process.load(Config("fake:realtime=1,floor_s=0.01,step_s=0.01"), 60.0)
    yield process
    process.close()


def test_edges_lie_right_before_the_first_request_and_right_after_the_last(worker: WorkerProcess) -> None:
    for _ in range(2):
        edges: list[tuple[int, int]] = []

        def at_edge(edges: list[tuple[int, int]] = edges) -> None:
            began = time.monotonic_ns()
            time.sleep(0.05)
            edges.append((began, time.monotonic_ns()))

        marks = worker.run(60.0, at_edge, **REQUEST)["window"]
        (_, ready), (over, _) = edges
        assert ready < marks["start_ns"][0] < ready + 1e9
        assert marks["end_ns"][-1] < over < marks["end_ns"][-1] + 1e9
        assert len(marks["start_ns"]) == 3


def test_a_worker_that_dies_while_it_waits_to_begin_is_a_failed_trial(worker: WorkerProcess) -> None:
    def die() -> None:
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.2)

    with pytest.raises(TrialFailed, match="was killed by SIGKILL") as caught:
        worker.run(60.0, die, **REQUEST)
    assert caught.value.status == "error"
    assert not worker.alive


def test_a_worker_that_hangs_after_it_was_told_to_begin_is_out_of_time(worker: WorkerProcess) -> None:
    began = time.monotonic()
    with pytest.raises(TrialFailed, match="no answer within 1 s") as caught:
        worker.run(1.0, lambda: os.kill(worker.pid, signal.SIGSTOP), **REQUEST)
    assert caught.value.status == "timeout"
    assert time.monotonic() - began < 10.0
    assert not worker.alive


def test_an_edge_that_takes_longer_than_the_time_limit_leaves_a_clear_reason(worker: WorkerProcess) -> None:
    with pytest.raises(TrialFailed, match=r"no answer within 0\.2 s"):
        worker.run(0.2, lambda: time.sleep(0.4), **REQUEST | {"fewest": 30})
