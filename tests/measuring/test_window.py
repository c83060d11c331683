"""How many requests a window has, whoever ends it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Completion, Config, Request
from harness.energy.readings import Domain
from harness.measuring.pauses import longest_pause_s
from harness.measuring.plan import make_plan
from harness.measuring.window import WindowPlan, run_window
from harness.measuring.window_length import fewest_requests, most_requests
from harness.measuring.worker_process import TrialFailed, WorkerProcess
from tests.measuring.stub_backend import StubBackend

SIZE = {"input_tokens": 4, "output_tokens": 2, "seed": 0}
PLAN, _ = make_plan()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess("fake", tmp_path / "log")
    process.load(Config("fake:realtime=1,floor_s=0.01,step_s=0.01"), 60.0)
    yield process
    process.close()


def after(seconds: float) -> object:
    """Looks like those of a meter that has seen enough after so many seconds."""
    until = time.monotonic() + seconds
    return lambda: None if time.monotonic() >= until else 0.02


def test_a_window_goes_on_until_it_is_told_to_end(worker: WorkerProcess) -> None:
    began = time.monotonic()
    marks = worker.run(60.0, look=after(0.4), **SIZE, fewest=2)["window"]
    assert 0.4 <= time.monotonic() - began < 1.5
    assert (marks["end_ns"][-1] - marks["start_ns"][0]) / 1e9 >= 0.3
    gaps_ns = [start - end for start, end in zip(marks["start_ns"][1:], marks["end_ns"], strict=False)]
    assert sorted(gaps_ns)[len(gaps_ns) // 2] < 1e6, "asking whether to end delays no request"


def test_a_window_has_the_fewest_requests_though_told_at_once_and_the_most_though_never(worker: WorkerProcess) -> None:
    at_once = worker.run(60.0, look=lambda: None, **SIZE, fewest=5)["window"]
    never = worker.run(60.0, look=lambda: 0.01, **SIZE, fewest=2, most=7)["window"]
    assert (len(at_once["end_ns"]), len(never["end_ns"])) == (5, 7)


def test_words_that_come_too_late_end_no_later_window(worker: WorkerProcess) -> None:
    """Parent and child may both end a window; what the parent says then must not be taken for a message."""
    looks = 0

    def late() -> float | None:
        # The window of 40 ms is over when this returns.
        nonlocal looks
        looks += 1
        time.sleep(0.2)
        return None

    for _ in range(3):
        assert len(worker.run(60.0, look=late, **SIZE, fewest=2, most=2)["window"]["end_ns"]) == 2
        assert len(worker.run(60.0, look=lambda: 0.05, **SIZE, fewest=2, most=12)["window"]["end_ns"]) == 12
    assert looks == 3


def test_a_worker_that_is_killed_while_its_window_is_watched_is_a_failed_trial(worker: WorkerProcess) -> None:
    def kill() -> float:
        os.kill(worker.pid, signal.SIGKILL)
        return 0.05

    with pytest.raises(TrialFailed, match="was killed by SIGKILL"):
        worker.run(60.0, look=kill, **SIZE, fewest=2)
    assert not worker.alive


def test_a_worker_that_hangs_while_its_window_is_watched_is_out_of_time(worker: WorkerProcess) -> None:
    def stop() -> float:
        os.kill(worker.pid, signal.SIGSTOP)
        return 0.05

    with pytest.raises(TrialFailed, match="no answer within 1 s") as caught:
        worker.run(1.0, look=stop, **SIZE, fewest=2)
    assert caught.value.status == "timeout"


def test_pauses_are_random_and_the_same_again_for_a_seed(worker: WorkerProcess) -> None:
    def pauses_s(seed: int) -> list[float]:
        asked = {"fewest": 12, "longest_pause_s": 0.05, "pause_seed": seed}
        marks = worker.run(60.0, **SIZE, **asked)["window"]
        return [(start - end) / 1e9 for start, end in zip(marks["start_ns"][1:], marks["end_ns"], strict=False)]

    first, again, other = pauses_s(1), pauses_s(1), pauses_s(2)
    assert first == pytest.approx(again, abs=0.02)
    assert max(abs(one - two) for one, two in zip(first, other, strict=True)) > 0.01
    assert 0.0 < min(first) < 0.02
    assert 0.03 < max(first) < 0.08


class Steady(StubBackend):
    """Requests of 100 ms on a clock of its own."""

    def run(self, request: Request) -> Completion:
        self.count = getattr(self, "count", 0) + 1
        start_ns = self.count * 100_000_000
        return Completion(start_ns, start_ns + 1, start_ns + 100_000_000, request.input_tokens, request.output_tokens)


@pytest.mark.parametrize(
    ("plan", "enough", "requests"),
    [
        (WindowPlan(3), True, 3),
        (WindowPlan(3, min_window_s=0.55), True, 6),
        (WindowPlan(3, most=4), False, 4),
        (WindowPlan(3, last_start_s=0.75), False, 8),
        (WindowPlan(5, last_start_s=0.15), True, 2),
    ],
)
def test_a_window_keeps_its_limits(plan: WindowPlan, enough: bool, requests: int) -> None:
    done = run_window(Steady(), Request(4, 2, 0), plan, enough=lambda: enough)
    assert len(done) == requests


@pytest.mark.parametrize(
    ("request_s", "metered", "fewest"),
    [
        ([0.5] * 3, False, 2),
        ([0.5] * 3, True, 2),
        ([4.0] * 3, False, 1),  # as long as a window needs to be
        ([4.0] * 3, True, 2),
        ([8.0] * 3, True, 1),  # two would not fit into the longest window
        ([0.01] * 3, False, 30),  # too short to see others' load
        ([0.10, 0.11, 0.09, 0.10], False, 10),  # (1.96 · 8.2 % / 2.5 %)² = 41, but no longer than a second
        ([0.100, 0.104, 0.096, 0.100], False, 7),  # (1.96 · 3.3 % / 2.5 %)²
    ],
)
def test_requests_of_a_window_follow_from_earlier_ones(request_s: list[float], metered: bool, fewest: int) -> None:
    assert fewest_requests(request_s, PLAN, metered) == fewest


def test_the_longest_window_is_never_passed() -> None:
    assert most_requests(3.0, replace(PLAN, max_window_s=10.0)) == 3
    assert most_requests(3.0, replace(PLAN, timeout_s=12.0)) == 2
    assert most_requests(30.0, PLAN) == 1


PARTIAL = Domain("gpu0", "gpu", "counter", "counter", "nvml", 0.001, 0.1, seen_s=0.025)
INSTANT = Domain("gpu0", "gpu", "power", "integrated", "nvml", 0.001, 0.1, averaging_s=0.025)
WHOLE = Domain("gpu0", "gpu", "counter", "counter", "nvml", 0.001, 0.1)


@pytest.mark.parametrize("sensor", [PARTIAL, INSTANT])
@pytest.mark.parametrize(
    ("request_s", "longest_s"),
    [
        ([0.1] * 5, 0.1),
        ([0.2] * 5, 0.1),
        ([0.05] * 5, 0.05),
        ([0.137] * 5, 0.0),
        ([20.0] * 5, 0.0),
        ([0.08, 0.12, 0.1, 0.11, 0.09], 0.0),  # their lengths differ enough to break the beat
    ],
)
def test_requests_that_beat_with_a_sensor_get_pauses(sensor: Domain, request_s: list[float], longest_s: float) -> None:
    found = longest_pause_s(request_s, [sensor], precision=0.01, window_s=5.0, phases=False)
    assert found == pytest.approx(longest_s)


def test_a_sensor_that_sees_all_the_time_needs_pauses_for_phases_alone() -> None:
    beat = {"precision": 0.01, "window_s": 5.0}
    assert longest_pause_s([0.1] * 5, [WHOLE], phases=False, **beat) == 0.0
    assert longest_pause_s([0.1] * 5, [WHOLE], phases=True, **beat) == pytest.approx(0.1)
    assert longest_pause_s([0.37] * 5, [WHOLE], phases=True, **beat) == 0.0
    assert longest_pause_s([0.1] * 5, [], phases=True, **beat) == 0.0
