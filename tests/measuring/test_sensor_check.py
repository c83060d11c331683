"""The load that times sensors, what is kept of it, and what the meter and the run make of it."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest

from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes.base import ProbeContext
from harness.energy.probes.fake import Fake
from harness.energy.readings import Domain
from harness.energy.step_model import LoadSteps
from harness.energy.step_response import StepResponse, Timing
from harness.measuring import sensor_check, square_wave
from harness.measuring.sensor_cache import CachedResponse, keep_responses, load_responses
from harness.measuring.sensor_check import BUDGET_S, check_sensors, irregular_halves
from harness.measuring.wave_process import Wave, run_wave, steps_of
from tests.measuring.followed_load import followed

FOUND = StepResponse(
    period=Timing(0.12, 0.001), delay=Timing(0.09, 0.003), lag=Timing(0.03, 0.004), averaging=Timing(0.12, 0.005),
    filter=Timing(0.001, 0.003),
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sensors.json"


class Board(Fake):
    """A sensor of this machine's CPU."""

    role = "meter"
    its: ClassVar[dict[str, Any]] = {}

    def domains(self) -> list[Domain]:
        return [replace(domain, **({"component": "cpu"} | self.its)) for domain in super().domains()]


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which loads were asked for; none of them runs, and each tells the same."""
    asked: list[str] = []

    def wave(devices: str, halves: Any, *_: object, **__: object) -> Wave:
        asked.append(devices)
        now = time.monotonic_ns()
        steps = LoadSteps(np.array([now]), np.array([1.0]))
        return Wave("cpu", start_ns=now, end_ns=now, steps={"cpu": steps})

    monkeypatch.setattr(sensor_check, "run_wave", wave)
    monkeypatch.setattr(sensor_check, "step_response", lambda trace, load: FOUND)
    return asked


@pytest.fixture
def meter() -> Iterator[Meter]:
    with _meter() as opened:
        yield opened


def _meter(**its: Any) -> Meter:
    probe = Board("period_s=0.1")
    probe.its = its  # type: ignore[misc]
    probe.open(ProbeContext())
    return Meter({"board": probe})


def test_a_sensor_that_follows_the_load_is_timed_by_it(tmp_path: Path) -> None:
    """A rail of 100 ms updates, each the mean of 50 ms that ended 30 ms before."""
    with (
        followed(tmp_path, period_s=0.1, averaging_s=0.05, lag_s=0.03) as root,
        Meter.open(EnergyConfig(probes=f"hwmon:{root}")) as meter,
    ):
        stated = meter.describe().domains["ina3221-vdd-cpu-cv"]
        began = time.monotonic()
        check = check_sensors(meter)["ina3221-vdd-cpu-cv"]
        assert time.monotonic() - began < 4 * BUDGET_S  # other tests take the processors meanwhile
        found = check.response
        assert found.reason is None
        assert check.source.startswith("measured 2")
        assert found.period
        assert found.delay
        assert found.period.value_s == pytest.approx(0.1, rel=0.1)
        # Looks of the stand-in for a sensor come late on a busy machine.
        assert abs(found.delay.value_s - 0.055) < found.delay.ci95_s + 0.02
        now = meter.describe().domains["ina3221-vdd-cpu-cv"]
        assert check.taken_over == (now != stated)


def test_it_is_measured_once_and_then_read(waves: list[str], meter: Meter, cache: Path) -> None:
    first = check_sensors(meter)["fake"]
    assert first.response == FOUND
    assert first.taken_over
    assert waves == ["cpu"]
    domain = meter.describe().domains["fake"]
    assert domain.period_s == 0.12
    assert domain.lag_s == pytest.approx(0.03)
    with _meter() as other:
        again = check_sensors(other)["fake"]
        assert again.response == FOUND
        assert again.source == f"cached, {first.source}"
        assert other.describe().domains["fake"] == domain
        assert waves == ["cpu"]
        assert check_sensors(other, "off") == {}
        check_sensors(other, "again")
    assert waves == ["cpu", "cpu"]
    assert json.loads(cache.read_text())["version"] == 1


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"version": 1}', '{"version": 1, "sensors": 3}', '{"version": 0, "sensors": {}}', "\x00\xff"],
)
def test_a_damaged_cache_is_measured_anew(waves: list[str], meter: Meter, cache: Path, damage: str) -> None:
    cache.parent.mkdir()
    cache.write_text(damage)
    assert check_sensors(meter)["fake"].response == FOUND
    assert waves == ["cpu"]
    assert len(load_responses()) == 1


def test_an_entry_that_makes_no_sense_is_measured_anew(cache: Path) -> None:
    assert keep_responses({"a": CachedResponse("2026", FOUND), "b": CachedResponse("2026", FOUND)}) is None
    content = json.loads(cache.read_text())
    content["sensors"]["a"]["response"]["lag"]["value_s"] = -1.0
    cache.write_text(json.dumps(content))
    assert load_responses() == {"b": CachedResponse("2026", FOUND)}


def test_a_cache_that_cannot_be_written_is_a_line_and_no_fault(waves: list[str], meter: Meter, cache: Path) -> None:
    cache.parent.write_text("in the way")
    notices: list[str] = []
    assert check_sensors(meter, notice=notices.append)["fake"].response == FOUND
    assert "can't be kept for the next run" in notices[-1]
    assert "JOULEBENCH_CACHE_DIR" in notices[-1]


@pytest.mark.parametrize(
    ("its", "reason"),
    [
        ({"method": "estimated"}, "no sensor of its own"),
        ({"scope": "process"}, "no sensor of its own"),
        ({"period_s": 0.001}, "its moves are waited for"),
        ({"period_s": 2.1}, "every 2.1 s"),
        ({"component": "dram"}, "no load here steps it"),
    ],
)
def test_what_needs_no_load_gets_none(waves: list[str], its: dict[str, Any], reason: str) -> None:
    with _meter(**its) as meter:
        before = meter.describe().domains
        check = check_sensors(meter)["fake"]
        assert reason in str(check.response.reason)
        assert check.source == "stated by the probe"
        assert not check.taken_over
        assert meter.describe().domains == before
    assert waves == []


def test_synthetic_sources_get_no_load(waves: list[str]) -> None:
    with Meter.open(EnergyConfig(probes="fake")) as meter:
        assert check_sensors(meter)["fake"].response.reason == "it is no sensor of this machine"
    assert waves == []


def test_a_load_that_does_not_start_leaves_what_is_stated(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_check, "run_wave", lambda *_, **__: Wave(reason="the load did not start within 20 s"))
    before = meter.describe().domains
    check = check_sensors(meter)["fake"]
    assert check.response.reason == "no load stepped it: the load did not start within 20 s"
    assert check.source == "stated by the probe"
    assert meter.describe().domains == before


@pytest.mark.parametrize("reason", ["did not follow the load", None])
def test_what_a_load_did_not_tell_is_measured_again_the_next_day(
    monkeypatch: pytest.MonkeyPatch, cache: Path, waves: list[str], reason: str | None
) -> None:
    """Others may have hidden it, or kept the load from starting."""
    started = sensor_check.run_wave
    if reason is None:
        monkeypatch.setattr(sensor_check, "run_wave", lambda *_, **__: waves.append("") or Wave(reason="no start"))
    monkeypatch.setattr(sensor_check, "step_response", lambda trace, load: StepResponse(reason=reason))
    for _ in range(2):
        with _meter() as meter:
            check = check_sensors(meter)["fake"]
            assert check.response.reason == (reason or "no load stepped it: no start")
            assert check.source == "stated by the probe"
    assert len(waves) == 1
    content = json.loads(cache.read_text())
    (entry,) = content["sensors"].values()
    entry["measured_at"] = (datetime.now(UTC) - timedelta(days=1.1)).isoformat()
    cache.write_text(json.dumps(content))
    monkeypatch.setattr(sensor_check, "run_wave", started)
    monkeypatch.setattr(sensor_check, "step_response", lambda trace, load: FOUND)
    with _meter() as meter:
        assert check_sensors(meter)["fake"].response == FOUND
    assert len(waves) == 2


@pytest.mark.parametrize("seconds", [4.5, 6.0, 7.5])
def test_halves_are_irregular_and_take_as_long_as_they_may(seconds: float) -> None:
    for seed in range(50):
        halves = irregular_halves(seconds, random.Random(seed))
        assert len(halves) % 2 == 1
        assert sum(halves) <= seconds + 0.13
        assert halves[-1] >= 1.0
        assert len({round(half, 3) for half in halves}) >= 3


def test_the_wave_tells_when_its_threads_worked() -> None:
    wave = run_wave("cpu", lambda ready_s: [0.1, 0.2, 0.1, 0.15, 0.1], 60.0)
    assert wave.device == "cpu"
    steps = wave.steps["cpu"]
    assert steps.edges == 4
    busy_ns = np.diff(steps.times_ns) @ steps.levels[:-1]
    assert busy_ns / 1e9 == pytest.approx(0.35, abs=0.1)
    assert wave.start_ns <= int(steps.times_ns[1])


def test_a_load_that_is_killed_before_its_wave_is_a_reason() -> None:
    pids: list[int] = []

    def halves(ready_s: float) -> list[float]:
        os.kill(pids[0], signal.SIGKILL)
        time.sleep(0.3)
        return [0.1] * 3

    assert run_wave("cpu", halves, 60.0, started=pids.append).reason == "the load ended too early"


def test_work_that_fails_was_done_until_then() -> None:
    def fail() -> None:
        raise RuntimeError("the GPU fell off the bus")

    begun_ns = time.monotonic_ns()
    done = square_wave._run([("gpu", fail)], [0.0, 0.1, 0.0], time.monotonic(), os.getppid())
    ((begin_ns, end_ns),) = done["gpu"]
    assert begun_ns <= begin_ns <= end_ns < begun_ns + 100_000_000


def test_steps_of_several_threads() -> None:
    steps = steps_of(0, [[10, 20], [12, 22], [30, 40], [30, 41]], 2)
    assert steps.times_ns.tolist() == [-1, 10, 12, 20, 22, 30, 30, 40, 41]
    assert steps.levels.tolist() == [0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0]


def test_timing_goes_into_the_run_and_out_again() -> None:
    from harness.energy.metered_window import MeterDescription
    from harness.energy.step_response import SensorCheck
    from harness.runs.run_schema import Session

    check = SensorCheck("measured 2026-11-29T00:00:00+00:00", True, FOUND)
    domain = {"it": Domain("it", "cpu", "power", "integrated", "hwmon", 0.01, lag_s=0.03, filter_s=0.1, seen_s=0.02)}
    session = Session(software={}, energy=MeterDescription("system", domains=domain), idle={}, sensors={"it": check})
    read = Session.model_validate_json(session.model_dump_json())
    assert read.sensors == {"it": check}
    assert read.energy.domains == domain
    before = json.loads(session.model_dump_json())
    del before["sensors"]
    assert Session.model_validate_json(json.dumps(before)).sensors == {}
    assert asdict(check)["response"]["lag"] == {"value_s": 0.03, "ci95_s": 0.004}


def test_an_interrupt_ends_the_load() -> None:
    def interrupt(pid: int) -> None:
        pids.append(pid)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_wave("cpu", lambda ready_s: [0.1, 60.0, 0.1], 60.0, started=interrupt)
    assert not psutil.pid_exists(pids[0])
