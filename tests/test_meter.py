"""The meter: selection, windows, idle, conditions and sensors that die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness import probes
from harness.errors import ProbeUnavailable, UserError
from harness.foreign import ForeignLoad
from harness.meter import Meter
from harness.probes.base import Probe, ProbeContext
from harness.probes.fake import Fake
from harness.types import Calibration, Window


def run(meter: Meter, seconds: float = 1.0, repeats: int = 1) -> Window:
    """Mark back-to-back requests whose prefill is half of each."""
    marks: list[list[int]] = [[], [], []]
    for _ in range(repeats):
        marks[0].append(time.monotonic_ns())
        time.sleep(seconds / 2 / repeats)
        marks[1].append(time.monotonic_ns())
        time.sleep(seconds / 2 / repeats)
        marks[2].append(time.monotonic_ns())
    return Window(*(np.array(times) for times in marks))


def report(meter: Meter, window: Window) -> dict[str, Any]:
    return meter.attribute(meter.traces(int(window.start_ns[0]), int(window.end_ns[-1])), window)


@pytest.mark.parametrize("selection", ["fake", "fake:kind=power:period_s=0.02"])
def test_a_window_recovers_the_known_integral(selection: str) -> None:
    option = selection.partition(":")[2] or None
    truth = Fake(option)
    with Meter.open(selection, ProbeContext()) as meter:
        time.sleep(0.3)
        window = run(meter, 2.0, repeats=2)
        total = report(meter, window)["total"]
    true_j = truth.energy_j(window.start_ns[0] / 1e9, window.end_ns[-1] / 1e9) / 2
    assert abs(total["request_j"] - true_j) <= total["request_ci95_j"]
    assert total["request_ci95_j"] < 0.2 * true_j


def test_calibration_is_applied_and_described() -> None:
    correction = {"fake": Calibration(2.0, 10.0)}
    with Meter.open("fake:idle_w=100:busy_w=100", ProbeContext(), calibration=correction) as meter:
        time.sleep(0.3)
        total = report(meter, run(meter, 1.0))["total"]
        assert meter.describe()["calibration"] == {"fake": {"gain": 2.0, "offset_w": 10.0}}
    assert total["request_j"] == pytest.approx(210.0, rel=0.1)


def test_a_calibration_of_an_absent_domain_is_refused() -> None:
    with pytest.raises(UserError, match="no power domain gpu7"):
        Meter.open("fake", ProbeContext(), calibration={"gpu7": Calibration(1.0, 0.0)})


def test_a_sensor_that_dies_in_mid_trial_gives_null_with_the_reason() -> None:
    with Meter.open("fake:fail_after_s=0.8", ProbeContext()) as meter:
        time.sleep(0.3)
        answer = report(meter, run(meter, 1.2))
        for figure in (answer["total"], answer["components"]["gpu"], answer["domains"]["fake"]):
            assert figure["request_j"] is None
            assert "told to die" in figure["reason"]
        later = report(meter, run(meter, 0.3))
        assert later["total"]["request_j"] is None
        assert meter.idle(0.2)["total"]["power_w"] is None


def test_no_probes_measure_nothing() -> None:
    with Meter.open("none", ProbeContext()) as meter:
        assert meter.needed_window_s() == 0.0
        answer = report(meter, run(meter, 0.1))
        assert answer["total"]["request_j"] is None
        assert answer["total"]["reason"] == "no power source"
        assert answer["components"] == {}
        json.dumps(meter.describe())


def test_idle_power_is_told_with_its_uncertainty() -> None:
    with Meter.open("fake:idle_w=42:busy_w=42", ProbeContext()) as meter:
        idle = meter.idle(1.0)
    assert idle["duration_s"] == pytest.approx(1.0, abs=0.5)
    assert abs(idle["total"]["power_w"] - 42) <= idle["total"]["ci95_w"]
    assert idle["components"]["gpu"]["method"] == "counter"


def test_slower_sensors_need_longer_windows() -> None:
    needed = []
    for period_s in (0.02, 0.1, 0.5):
        with Meter.open(f"fake:period_s={period_s}", ProbeContext()) as meter:
            needed.append(meter.needed_window_s())
            assert meter.needed_window_s(0.02) == pytest.approx(needed[-1] / 2)
    assert needed == sorted(needed)
    assert 5 < needed[1] < 15


def only(monkeypatch: pytest.MonkeyPatch, roles: dict[str, Callable[[], Probe]]) -> None:
    """Let these be all the probes there are."""
    monkeypatch.setattr(probes, "names", lambda: sorted(roles))
    monkeypatch.setattr(probes, "create", lambda name: roles[name]())


def meter_like(name: str, **changes: str) -> Callable[[], Probe]:
    def create() -> Probe:
        probe = Fake(":".join(f"{key}={value}" for key, value in changes.items()) or None)
        probe.role = "meter"
        domains = probe.domains

        def renamed() -> list[Any]:
            return [type(domain)(**{**domain.__dict__, "probe": name}) for domain in domains()]

        probe.domains = renamed  # type: ignore[method-assign]
        return probe

    return create


def fallback() -> Probe:
    from harness.probes.estimate import create

    return create()


def test_auto_leaves_out_what_does_not_work_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {"good": meter_like("good"), "bad": meter_like("bad", unavailable="yes"), "guess": fallback}
    only(monkeypatch, roles)
    with Meter.open("auto", ProbeContext()) as meter:
        description = meter.describe()
    assert list(description["probes"]) == ["good"]
    assert [left["probe"] for left in description["left_out"]] == ["bad"]
    assert description["left_out"][0]["remedy"]
    assert meter.notices == []


@pytest.mark.parametrize("device", [None, "cpu", "cuda"])
def test_auto_falls_back_to_the_estimate_and_says_so(monkeypatch: pytest.MonkeyPatch, device: str | None) -> None:
    only(monkeypatch, {"bad": meter_like("bad", unavailable="yes"), "guess": fallback})
    with Meter.open("auto", ProbeContext(device=device, worker_pid=os.getpid())) as meter:
        assert len(meter.notices) == 1
        assert "estimated, not measured" in meter.notices[0]
        assert meter.needed_window_s() == 0.0


def test_auto_estimates_the_cpu_when_only_an_idle_gpu_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"gpu": meter_like("gpu"), "guess": fallback})
    with Meter.open("auto", ProbeContext(device="cpu", worker_pid=os.getpid())) as meter:
        assert meter.describe()["components"] == {"gpu": ["fake"], "cpu": ["cpu-time"]}


def test_a_named_probe_that_does_not_work_is_an_error_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"does not work here: .*; leave out the word"):
        Meter.open("fake:unavailable", ProbeContext())
    with pytest.raises(UserError, match="unknown probe"):
        Meter.open("fake,watts", ProbeContext())


def test_every_sensor_is_closed_when_one_of_several_can_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Fake, "close", lambda self: closed.append(self))

    def refuse(self: Any, context: ProbeContext) -> None:
        raise ProbeUnavailable("no")

    monkeypatch.setattr("harness.probes.estimate.Estimate.open", refuse)
    with pytest.raises(UserError):
        Meter.open("fake,estimate", ProbeContext())
    assert len(closed) == 1


def test_the_estimate_follows_the_worker() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
    try:
        with Meter.open("estimate", ProbeContext(), foreign_load_limit=None) as meter:
            assert report(meter, run(meter, 0.3))["total"]["request_j"] is None
            meter.set_worker(child.pid)
            time.sleep(0.3)
            total = report(meter, run(meter, 1.0))["total"]
    finally:
        child.kill()
        child.wait()
    assert total["request_j"] > 0
    assert total["method"] == "estimated"


def test_foreign_load_spoils_a_window_and_our_own_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with Meter.open("fake", ProbeContext()) as meter:
        window = run(meter, 0.1)
        marks = int(window.start_ns[0]), int(window.end_ns[-1])
        monkeypatch.setattr(ForeignLoad, "share", lambda self, start, end: 0.3)
        assert meter.conditions(*marks)["discard"] == "other programs took 30% of the CPU"
        monkeypatch.setattr(ForeignLoad, "share", lambda self, start, end: 0.05)
        assert meter.conditions(*marks)["discard"] is None
        monkeypatch.setattr(ForeignLoad, "share", lambda self, start, end: None)
        assert meter.conditions(*marks)["foreign_cpu_load"] is None


def test_foreign_load_counts_everybody_but_us_and_the_worker() -> None:
    def share(mine: bool) -> float:
        child = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
        try:
            time.sleep(0.3)
            load = ForeignLoad()
            load.sample(child.pid if mine else None)
            start = time.monotonic_ns()
            time.sleep(1.0)
            end = time.monotonic_ns()
            load.sample(child.pid if mine else None)
            answer = load.share(start, end)
            assert answer is not None
            return answer
        finally:
            child.kill()
            child.wait()

    assert 0.0 <= share(mine=True) <= 1.0
    assert share(mine=False) > 0.0


def test_foreign_load_of_a_moment_or_across_a_restart_is_unknown() -> None:
    load = ForeignLoad()
    load.sample(None)
    now = time.monotonic_ns()
    load.sample(None)
    assert load.share(now, now) is None
    time.sleep(0.3)
    load.sample(os.getpid())
    assert load.share(now, time.monotonic_ns() - 1) is None
