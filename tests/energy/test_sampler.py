"""The sampling thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from harness.core.errors import ProbeFailed
from harness.energy.probes import create
from harness.energy.probes.base import ProbeContext, Role
from harness.energy.readings import Domain, Reading
from harness.energy.sampler import Sampler


class Scripted:
    """Two domains; ``script`` is called at each read and may raise."""

    role: Role = "synthetic"
    note = "for tests"

    def __init__(self, name: str, script: Any = None) -> None:
        self.names = (f"{name}-a", f"{name}-b")
        self.script = script
        self.reads = 0

    def open(self, context: ProbeContext) -> None: ...

    def domains(self) -> Sequence[Domain]:
        return [Domain(name, "cpu", "power", "integrated", "test", 1.0, source=name) for name in self.names]

    def read(self) -> Sequence[Reading]:
        self.reads += 1
        if self.script is not None:
            self.script(self.reads)
        return [Reading(name, time.monotonic_ns(), float(self.reads)) for name in self.names]

    def conditions(self) -> dict[str, Any]:
        return {"reads": self.reads, "disturbed": None}

    def close(self) -> None: ...


def sample(sampler: Sampler, seconds: float) -> tuple[int, int]:
    start = time.monotonic_ns()
    sampler.start()
    time.sleep(seconds)
    sampler.stop()
    return start, time.monotonic_ns()


def test_readings_come_at_about_the_rate_and_in_order() -> None:
    sampler = Sampler([Scripted("x")], rate_hz=50)
    start, end = sample(sampler, 1.0)
    trace = sampler.traces(start, end)[0]
    assert 20 < trace.times_ns.size <= (end - start) / 1e9 * 50 + 2
    assert np.all(np.diff(trace.times_ns) > 0)
    assert trace.values.tolist() == list(range(1, trace.values.size + 1))


def test_traces_are_cut_to_the_asked_time() -> None:
    sampler = Sampler([Scripted("x")], rate_hz=50)
    start, _ = sample(sampler, 0.6)
    trace = sampler.traces(start + 200_000_000, start + 400_000_000)[0]
    assert trace.times_ns.size > 2
    assert trace.times_ns[0] >= start + 200_000_000
    assert trace.times_ns[-1] <= start + 400_000_000


def test_a_probe_that_fails_is_left_alone_and_the_others_go_on() -> None:
    def die(reads: int) -> None:
        if reads == 5:
            raise ProbeFailed("pulled out")

    dying, living = Scripted("dying", die), Scripted("living")
    sampler = Sampler([dying, living], rate_hz=50)
    start, end = sample(sampler, 0.6)
    traces = {trace.domain.name: trace for trace in sampler.traces(start, end)}
    assert traces["dying-a"].failure == "pulled out"
    assert traces["dying-a"].values.size == 4
    assert traces["living-a"].failure is None
    assert traces["living-a"].values.size > 8
    assert dying.reads == 5


def test_a_failure_of_one_domain_leaves_its_neighbour() -> None:
    def die(reads: int) -> None:
        if reads == 5:
            raise ProbeFailed("one is gone", ("x-a",))

    sampler = Sampler([Scripted("x", die)], rate_hz=50)
    sample(sampler, 0.5)
    assert sampler.failures() == {"x-a": "one is gone"}
    assert sampler.last_reading_ns("x-b") is not None


def test_an_unexpected_error_inside_a_probe_is_a_failure_too() -> None:
    def crash(reads: int) -> None:
        raise ZeroDivisionError

    sampler = Sampler([Scripted("x", crash)], rate_hz=50)
    sample(sampler, 0.2)
    assert sampler.failures() == {"x-a": "ZeroDivisionError", "x-b": "ZeroDivisionError"}


def test_a_thread_that_ends_leaves_a_reason_with_every_domain() -> None:
    def leave(reads: int) -> None:
        if reads == 3:
            raise SystemExit("enough")

    sampler = Sampler([Scripted("x", leave), Scripted("y")], rate_hz=50)
    sample(sampler, 0.3)
    assert set(sampler.failures()) == {"x-a", "x-b", "y-a", "y-b"}
    assert all("SystemExit: enough" in reason for reason in sampler.failures().values())


def test_old_readings_are_forgotten_unless_they_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.energy.sampler._KEEP_S", 0.5)
    monkeypatch.setattr("harness.energy.sampler._CONDITIONS_EVERY_S", 0.1)
    probe = Scripted("x")
    sampler = Sampler([probe], rate_hz=50)
    start = time.monotonic_ns()
    sampler.hold(start)
    sampler.start()
    time.sleep(1.2)
    assert sampler.traces(start, time.monotonic_ns())[0].values[0] == 1.0
    assert sampler.conditions(probe, start, time.monotonic_ns())[0]["reads"] == 1
    sampler.hold(None)
    time.sleep(0.4)
    now = time.monotonic_ns()
    sampler.stop()
    kept = sampler.traces(start, now)[0]
    assert now - kept.times_ns[0] < 1.2e9
    assert kept.values[-1] > 1.0


def test_stopping_ends_the_thread() -> None:
    sampler = Sampler([create("fake")], rate_hz=20)
    sample(sampler, 0.1)
    sampler.stop()
    assert "sampler" not in {thread.name for thread in threading.enumerate()}


def test_conditions_are_kept_with_their_probe() -> None:
    probe, other = Scripted("x"), Scripted("y")
    sampler = Sampler([probe, other], rate_hz=20)
    start, end = sample(sampler, 0.3)
    assert sampler.conditions(probe, start, end)[0]["reads"] >= 1
    assert sampler.conditions(other, start, end)[0]["reads"] >= 1
    assert sampler.conditions(probe, 0, start) == []
