"""The contract of all probes, and the synthetic ones and the estimate in particular."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import ProbeFailed, ProbeUnavailable, UserError
from harness.energy import probes, trace_file
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes.base import Probe, ProbeContext, update_periods
from harness.energy.probes.estimate import ASSUMED_WATTS_PER_PROCESSOR
from harness.energy.probes.fake import Fake
from harness.energy.readings import Domain, Trace, Window


@pytest.fixture
def busy() -> Iterator[int]:
    """Process number of a child that computes."""
    child = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
    yield child.pid
    child.kill()
    child.wait()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A counter that wrapped nowhere, 40 readings in 0.4 s."""
    domain = Domain("old-counter", "gpu", "counter", "counter", "nvml", 0.001, source="gpu:old", scope="gpu")
    path = tmp_path / "3.npz"
    times = 5_000_000_000 + np.arange(40) * 10_000_000
    with path.open("wb") as stream:
        trace_file.write_trace(
            stream, Window(times[:1], times[5:6], times[-1:]), [Trace(domain, times, np.arange(40.0))]
        )
    return path


def option(name: str, recording: Path) -> str:
    return f"replay:{recording}" if name == "replay" else name


@pytest.mark.parametrize("name", probes.names())
def test_contract(name: str, recording: Path) -> None:
    """A probe that opens has well-formed domains and delivers them without blocking; one that can't says why."""
    probe: Probe = probes.create(option(name, recording))
    assert probe.role in ("meter", "machine", "fallback", "synthetic")
    try:
        probe.open(ProbeContext(worker_pid=os.getpid()))
    except ProbeUnavailable as unavailable:
        probe.close()
        if not unavailable.reason:
            pytest.fail("a probe that can't be opened gives no reason")
        return
    domains = {domain.name: domain for domain in probe.domains()}
    assert domains
    assert len(domains) == len(probe.domains())
    for domain in domains.values():
        assert domain.source
        assert domain.resolution > 0
        assert (domain.kind == "power") == (domain.method == "integrated")
    started_ns = time.monotonic_ns()
    readings = probe.read()
    assert time.monotonic_ns() - started_ns < 1e9
    assert {reading.domain for reading in readings} <= domains.keys()
    assert all(np.isfinite(reading.value) for reading in readings)
    assert "disturbed" in probe.conditions()
    assert probe.note
    probe.close()
    probe.close()


def test_names_are_the_files_names() -> None:
    real = ["amd", "battery", "command", "hwmon", "ioreport", "nvml", "powermetrics", "rapl", "remote"]
    assert probes.names() == sorted([*real, "estimate", "fake", "replay"])


def test_an_unknown_probe_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown probe 'watts': choose from amd, battery, command, estimate, fake"):
        probes.create("watts")


def test_replay_without_a_recording_is_unavailable() -> None:
    with pytest.raises(ProbeUnavailable, match="replay:FILE"):
        probes.create("replay").open(ProbeContext())


def test_auto_finds_its_way_on_this_very_machine() -> None:
    with Meter.open(EnergyConfig(), ProbeContext(worker_pid=os.getpid(), device="cpu")) as meter:
        assert meter.describe().components.keys() & {"cpu", "system"}


@pytest.mark.parametrize("name", ["nvml:1", "estimate:x", "fake:nonsense=1", "fake:period_s=soon"])
def test_wrong_options_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        probes.create(name)


def test_the_estimate_prices_cpu_time(busy: int) -> None:
    processors = os.cpu_count() or 1
    probe = probes.create("estimate")
    context = ProbeContext(worker_pid=busy, cpu_watts=10.0 * processors)
    probe.open(context)
    before = probe.read()[0]
    time.sleep(0.5)
    after = probe.read()[0]
    seconds = (after.time_ns - before.time_ns) / 1e9
    joules = after.value - before.value
    assert 0 < joules <= 10.0 * seconds * 1.2
    assert all(domain.method == "estimated" for domain in probe.domains())


def test_the_estimate_follows_a_restarted_worker_without_jumping(busy: int) -> None:
    probe = probes.create("estimate")
    context = ProbeContext(worker_pid=busy)
    probe.open(context)
    probe.read()
    time.sleep(0.2)
    before = probe.read()[0].value
    assert before > 0
    context.worker_pid = os.getpid()  # has spent seconds of its own before
    after = probe.read()[0].value
    assert before <= after < before + 0.5 * ASSUMED_WATTS_PER_PROCESSOR


def test_the_estimate_without_a_worker_reads_nothing() -> None:
    probe = probes.create("estimate")
    probe.open(ProbeContext())
    assert probe.read() == []


def test_the_estimate_says_that_it_is_one() -> None:
    probe = probes.create("estimate")
    probe.open(ProbeContext())
    assert "estimated, not measured" in probe.note
    assert f"{ASSUMED_WATTS_PER_PROCESSOR:g} W" in probe.note
    with pytest.raises(ProbeUnavailable):
        probe.open(ProbeContext(cpu_watts=-1.0))


def test_the_fake_counts_its_own_integral() -> None:
    probe = Fake("period_s=0.01:idle_w=20:busy_w=120:cycle_s=0.2")
    probe.open(ProbeContext())
    first = probe.read()[0]
    time.sleep(0.3)
    last = probe.read()[0]
    assert last.value - first.value == pytest.approx(
        probe.energy_j(first.time_ns / 1e9, last.time_ns / 1e9), abs=120 * 0.02
    )
    assert probe.energy_j(1.0, 11.0) == pytest.approx(10 * 70)


def test_the_fake_dies_when_told() -> None:
    probe = probes.create("fake:fail_after_s=0")
    probe.open(ProbeContext())
    with pytest.raises(ProbeFailed, match="told to die"):
        probe.read()
    with pytest.raises(ProbeUnavailable):
        probes.create("fake:unavailable").open(ProbeContext())


def test_a_replay_keeps_the_recorded_pace_and_ends(recording: Path) -> None:
    probe = probes.create(f"replay:{recording}")
    probe.open(ProbeContext())
    values: list[float] = []
    times: list[int] = []
    while len(values) < 40:
        fresh = probe.read()
        assert all(reading.time_ns <= time.monotonic_ns() for reading in fresh)
        values += [reading.value for reading in fresh]
        times += [reading.time_ns for reading in fresh]
        time.sleep(0.02)
    with pytest.raises(ProbeFailed, match="the recording is over"):
        probe.read()
    assert values == list(range(40))
    assert set(np.diff(times)) == {10_000_000}


def test_a_replay_of_something_else_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "notes.npz"
    wrong.write_text("not a recording")
    for path in (wrong, tmp_path / "absent.npz"):
        with pytest.raises(ProbeUnavailable, match="not the trace of a trial"):
            probes.create(f"replay:{path}").open(ProbeContext())


def test_update_periods_of_steady_readings() -> None:
    periods, assumed = update_periods({"steps": lambda: time.monotonic() // 0.05, "still": lambda: 7.0}, 0.6)
    assert periods["steps"] == pytest.approx(0.05, rel=0.3)
    assert periods["still"] == periods["steps"]
    assert assumed == ("still",)


def test_updates_that_repeat_the_value_do_not_lengthen_the_period() -> None:
    """60 % of the updates of an idle sensor show the value before."""
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.random(1000) < 0.4)
    start = time.monotonic()
    periods, assumed = update_periods({"idle": lambda: values[int((time.monotonic() - start) / 0.04)]}, 2.0)
    assert periods["idle"] == pytest.approx(0.04, rel=0.3)
    assert assumed == ()


def test_a_reading_that_hardly_changes_is_never_taken_for_a_fresh_one() -> None:
    periods, assumed = update_periods({"slow": lambda: time.monotonic() // 0.3}, 0.5)
    assert periods["slow"] == 0.25
    assert assumed == ("slow",)
