"""How long windows and idle baselines last under a meter, and what pauses in a window are taken for."""

from __future__ import annotations

import time

import numpy as np
import pytest

from harness.energy import attribution
from harness.energy.attribution import attribute
from harness.energy.config import EnergyConfig
from harness.energy.integrate import Energy
from harness.energy.meter import Meter
from harness.energy.phases import PhaseEnergies
from harness.energy.readings import Domain, Trace, Window
from harness.energy.resting import SHORTEST_S, rested_enough
from harness.energy.running_window import RunningWindow

COUNTER = Domain("fake", "gpu", "counter", "counter", "fake", 0.001, 0.1)


def open_meter(options: str) -> Meter:
    return Meter.open(EnergyConfig(probes=options, max_foreign_load=None))


@pytest.mark.parametrize("precision", [0.02, 0.05])
def test_a_window_ends_once_its_readings_are_precise_enough(precision: float) -> None:
    with open_meter("fake:period_s=0.05:cycle_s=0.034") as meter:
        running = RunningWindow(meter, precision)
        with meter.window() as window:
            running.begin()
            began = time.monotonic()
            while (again_s := running()) is not None:
                assert 0.0 < again_s <= 1.0
                time.sleep(again_s)
            lasted_s = time.monotonic() - began
        assert window.energy_j
        # On a busy machine reads come late, those at the window's edges too.
        assert window.ci95_j <= 2.5 * precision * window.energy_j
        assert 0.1 < lasted_s < 3.0 * meter.needed_window_s(precision) + 1.0


def test_a_dead_sensor_keeps_no_window_waiting_for_longer_than_its_kind_takes() -> None:
    with open_meter("fake:period_s=0.05:fail_after_s=0.5") as meter:
        time.sleep(0.7)
        assert meter.sensors() == []
        running = RunningWindow(meter, 0.05)
        running.begin()
        assert running() is None


def test_idle_power_is_read_for_as_long_as_it_takes() -> None:
    with open_meter("fake:period_s=0.01:cycle_s=0.05") as meter:
        began = time.monotonic()
        idle = meter.idle(30.0, settle_s=0.0)
        lasted_s = time.monotonic() - began
    assert SHORTEST_S <= (idle.duration_s or 0.0) <= lasted_s < 8.0
    assert idle.total.power_w == pytest.approx(150.0, rel=0.03)


def counted(power_w: np.ndarray, step_s: float, period_s: float = 0.1, phase_s: float = 0.03) -> Trace:
    """A counter's trace of a power that keeps each level for ``step_s``, polled every 50 ms."""
    joules = np.concatenate(([0.0], np.cumsum(power_w * step_s)))
    polls_s = np.arange(0.2, step_s * power_w.size, 0.05)
    updates_s = np.floor((polls_s - phase_s) / period_s) * period_s + phase_s
    values = np.interp(updates_s, step_s * np.arange(joules.size), joules)
    return Trace(COUNTER, (polls_s * 1e9).astype(np.int64), values)


def test_a_machine_that_comes_to_rest_is_watched_for_longer() -> None:
    now_ns = int(9.9e9)
    steady, falling = counted(np.full(1000, 60.0), 0.01), counted(np.linspace(80.0, 50.0, 1000), 0.01)
    assert rested_enough([steady], int(1e9), now_ns)
    assert not rested_enough([falling], int(1e9), now_ns)
    assert not rested_enough([steady], int(1e9), int((1.0 + SHORTEST_S) * 1e9) - 1)
    assert not rested_enough([], int(1e9), now_ns)


def test_the_energy_of_pauses_is_no_request_s() -> None:
    rng = np.random.default_rng(5)
    held, errors = [], []
    for _ in range(40):
        pauses_s = rng.uniform(0.0, 0.1, 40).round(3)
        start_ms = 2000 + np.concatenate(([0], np.cumsum(100 + 1000 * pauses_s[:-1]))).astype(int)
        power_w = np.full(start_ms[-1] + 3000, 60.0)
        for start in start_ms:
            power_w[start : start + 30], power_w[start + 30 : start + 100] = 300.0, 200.0
        window = Window(*(1_000_000 * (start_ms + ms) for ms in (0, 30, 100)))
        found = attribute([counted(power_w, 0.001, phase_s=rng.uniform(0.0, 0.1))], window, paused=True).total
        assert found.request_j is not None
        assert found.request_ci95_j is not None
        true_j = 0.03 * 300.0 + 0.07 * 200.0
        errors.append(found.request_j / true_j - 1.0)
        held.append(abs(found.request_j - true_j) <= found.request_ci95_j)
    assert np.mean(held) >= 0.9
    assert np.sqrt(np.mean(np.square(errors))) <= 0.01


@pytest.mark.parametrize("failure", [None, "the phases can't be told"])
def test_pauses_that_readings_hardly_tell_draw_no_more_than_requests(
    monkeypatch: pytest.MonkeyPatch, failure: str | None
) -> None:
    """Four requests of 0.2 s with 20 ms between them, seen by a counter that moves every 0.4 s."""
    start_ms = 2000 + 220 * np.arange(4)
    power_w = np.full(5000, 60.0)
    for start in start_ms:
        power_w[start : start + 60], power_w[start + 60 : start + 200] = 300.0, 200.0
    if failure:
        none = Energy(None, None, failure)
        monkeypatch.setattr(attribution, "phase_energies", lambda *_: PhaseEnergies(none, none, none))
    window = Window(*(1_000_000 * (start_ms + ms) for ms in (0, 60, 200)))
    found = attribute([counted(power_w, 0.001, period_s=0.4)], window, paused=True).total
    assert found.request_j is not None
    assert found.request_ci95_j is not None
    assert abs(found.request_j - 46.0) <= found.request_ci95_j < 4.0


def test_a_window_without_pauses_keeps_all_of_its_energy() -> None:
    start_ns = 10**9 * np.arange(2, 6)
    window = Window(start_ns, start_ns + 3 * 10**8, start_ns + 10**9 - 1000)
    found = attribute([counted(np.full(10_000, 200.0), 0.001)], window, paused=True).total
    assert found.request_j == pytest.approx(200.0, rel=1e-3)
