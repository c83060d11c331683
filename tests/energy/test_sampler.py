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
    sampler.start()
    with sampler.hold(start):
        time.sleep(0.6)
        with sampler.hold(time.monotonic_ns()):  # a window inside a window lets go of its own only
            time.sleep(0.6)
        time.sleep(0.2)
        assert sampler.traces(start, time.monotonic_ns())[0].values[0] == 1.0
        assert sampler.conditions(probe, start, time.monotonic_ns())[0]["reads"] == 1
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


class Counter(Scripted):
    """One counter with updates of 1 ms, which moves at every read."""

    def domains(self) -> Sequence[Domain]:
        return [Domain(self.names[0], "cpu", "counter", "counter", "test", 1e-3, 0.001, source=self.names[0])]

    def read(self) -> Sequence[Reading]:
        return [reading for reading in super().read() if reading.domain == self.names[0]]


def edge_reads(*probes: Scripted, rate_hz: float = 1.0) -> list[int]:
    """How often each probe is read because of one edge, a while after sampling began."""
    sampler = Sampler(list(probes), rate_hz)
    sampler.start()
    try:
        time.sleep(0.3)
        before = [probe.reads for probe in probes]
        sampler.read_edge()
        return [probe.reads - count for probe, count in zip(probes, before, strict=True)]
    finally:
        sampler.stop()


def test_an_edge_is_read_at_once_whatever_the_rate() -> None:
    power, counter = Scripted("power"), Counter("counter")
    assert edge_reads(power, counter) == [1, 3]  # a counter is waited for until it has moved twice


def test_probes_whose_reads_are_slow_are_not_read_at_edges() -> None:
    slow, quick = Scripted("slow", lambda reads: time.sleep(0.005)), Scripted("quick")
    assert edge_reads(slow, quick) == [0, 1]


def test_a_quick_probe_that_once_waited_for_a_processor_is_still_read_at_edges() -> None:
    # Three reads before the edge, the last one late.
    probe = Scripted("x", lambda reads: time.sleep(0.01 if reads == 3 else 0.0))
    assert edge_reads(probe, rate_hz=8.0) == [1]


def test_a_counter_that_stands_still_is_waited_for_a_while_and_kept_as_two_readings() -> None:
    class Still(Counter):
        def read(self) -> Sequence[Reading]:
            return [Reading(reading.domain, reading.time_ns, 7.0) for reading in super().read()]

    probe = Still("x")
    sampler = Sampler([probe], rate_hz=1.0)
    start = time.monotonic_ns()
    sampler.start()
    time.sleep(0.1)
    began = time.monotonic()
    sampler.read_edge()
    took_s = time.monotonic() - began
    sampler.stop()
    trace = sampler.traces(start, time.monotonic_ns())[0]
    assert 0.019 < took_s < 0.2
    assert probe.reads > 20
    assert trace.values.tolist() == [7.0, 7.0]
    assert trace.times_ns[-1] - trace.times_ns[0] > 0.1e9


def test_a_domain_that_died_is_not_waited_for() -> None:
    class Half(Counter):
        def domains(self) -> Sequence[Domain]:
            name = self.names[1]
            return [*super().domains(), Domain(name, "cpu", "counter", "counter", "test", 1e-3, 0.001, source=name)]

    def die(reads: int) -> None:
        if reads == 1:
            raise ProbeFailed("one is gone", ("x-b",))

    assert edge_reads(Half("x", die)) == [3]


def test_a_probe_that_hangs_holds_no_edge_up_and_is_not_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.energy.sampler._EDGE_S", 0.2)
    hang, let_go = threading.Event(), threading.Event()

    def read(reads: int) -> None:
        if reads == 1:
            hang.set()
            let_go.wait(10.0)

    probe = Scripted("x", read)
    sampler = Sampler([probe], rate_hz=0.1)
    sampler.start()
    try:
        assert hang.wait(5.0)
        began = time.monotonic()
        sampler.read_edge()
        assert time.monotonic() - began < 2.0
    finally:
        let_go.set()
        sampler.stop()
    assert probe.reads == 1


def test_probes_are_read_by_one_thread() -> None:
    readers: set[str] = set()
    probe = Counter("x", lambda reads: readers.add(threading.current_thread().name))
    edge_reads(probe)
    assert readers == {"sampler"}
