"""Integration of single traces: edges, wraps, resets, gaps and what can't be told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_models import KINDS, readings, scene
from synthetic import ORIGIN_NS, SENSORS, Load, Sensor, random_load

from harness.core.quantities import Method
from harness.energy.attribution import attribute
from harness.energy.integrate import (
    calibrate,
    edge_uncertainty_s,
    margin_s,
    part_energy,
    relative_half_width_so_far,
    window_energy,
)
from harness.energy.readings import Calibration, Domain, Trace, Window

S = 1_000_000_000


def counter(values: np.ndarray, step_s: float = 0.1, wrap_j: float | None = None, method: Method = "counter") -> Trace:
    domain = Domain("c", "gpu", "counter", method, "test", 0.001, wrap_j=wrap_j, source="s")
    return Trace(domain, (np.arange(values.size) * step_s * S).astype(np.int64), values)


def power(values: np.ndarray, step_s: float = 0.1) -> Trace:
    domain = Domain("p", "gpu", "power", "integrated", "test", 0.001, source="s")
    return Trace(domain, (np.arange(values.size) * step_s * S).astype(np.int64), values)


@given(watts=st.floats(0.1, 1000), start=st.floats(0.5, 4), length=st.floats(0.5, 4))
def test_constant_power_is_exact_from_either_kind(watts: float, start: float, length: float) -> None:
    times = np.arange(100) * 0.1
    for trace in (counter(watts * times), power(np.full(100, watts))):
        energy = window_energy(trace, int(start * S), int((start + length) * S))
        assert energy.joules == pytest.approx(watts * length, rel=1e-6)
        assert energy.ci95_j is not None
        assert 0 < energy.ci95_j < watts * 0.2 + 0.01


@given(
    steps=st.lists(st.floats(0.0, 40.0), min_size=30, max_size=60).filter(lambda steps: sum(steps[10:20]) > 1),
    wrap_j=st.floats(100.0, 500.0),
    offset=st.floats(0.0, 1.0),
)
def test_wraps_change_nothing(steps: list[float], wrap_j: float, offset: float) -> None:
    plain = np.concatenate(([0.0], np.cumsum(steps)))
    wrapped = (plain + offset * wrap_j) % wrap_j
    expected = window_energy(counter(plain), S, 2 * S)
    found = window_energy(counter(wrapped, wrap_j=wrap_j), S, 2 * S)
    assert found.joules == pytest.approx(expected.joules, rel=1e-6, abs=1e-6)


def test_a_reset_counter_is_null_not_negative() -> None:
    values = np.concatenate((np.arange(10.0) * 10 + 5000, np.arange(10.0) * 10))
    for wrap_j in (None, 262_143.0):
        energy = window_energy(counter(values, wrap_j=wrap_j), int(0.5 * S), int(1.5 * S))
        assert energy.joules is None
        assert "reset" in (energy.reason or "")


@pytest.mark.parametrize(
    ("start_s", "end_s", "reason"),
    [
        (-1.0, 1.0, "no reading before"),
        (1.0, 9.0, "no reading after"),
        (1.01, 1.09, "fewer than two|did not move"),
    ],
)
def test_windows_the_readings_do_not_span(start_s: float, end_s: float, reason: str) -> None:
    for trace in (counter(np.arange(30.0)), power(np.full(30, 10.0))):
        energy = window_energy(trace, int(start_s * S), int(end_s * S))
        assert energy.joules is None
        assert energy.ci95_j is None
        assert any(text in (energy.reason or "") for text in reason.split("|"))


def test_a_stuck_counter_is_null() -> None:
    assert window_energy(counter(np.full(30, 7.0)), S, 2 * S).reason == "the readings did not move during the window"
    assert window_energy(power(np.zeros(30)), S, 2 * S).joules is None


@pytest.mark.parametrize("period_s", [None, 0.1])
@pytest.mark.parametrize("counts", [0, 1, 2])
def test_a_modelled_rail_that_is_all_but_off_is_bounded_by_its_counts(period_s: float | None, counts: int) -> None:
    """As Apple's GPU rail during a run on the CPU: whole millijoules, none or few of them."""
    values = np.full(60, 7.0)
    values[30 : 30 + counts] += 0.001 * np.arange(counts)
    values[30 + counts :] += 0.001 * counts
    rail = counter(values, method="modelled")
    rail = replace(rail, domain=replace(rail.domain, period_s=period_s))
    energy = window_energy(rail, int(2.5 * S), 4 * S)
    assert energy.joules == pytest.approx(0.001 * counts)
    assert energy.ci95_j is not None
    assert energy.ci95_j >= 0.001


def test_a_rail_that_updates_late_is_not_taken_for_one_that_is_off() -> None:
    """4 W, shown every second: a window between two updates reads no change, and that is not 0 J."""
    times = np.arange(0.0, 10.0, 0.1)
    rail = counter(np.floor(times + 1e-9) * 4.0, method="modelled")
    rail = replace(rail, domain=replace(rail.domain, period_s=1.0))
    assert window_energy(rail, int(5.2 * S), int(5.6 * S)).joules is None
    dead = Trace(rail.domain, rail.times_ns[:57], rail.values[:57], "pulled out")
    assert window_energy(dead, int(5.2 * S), int(5.6 * S)).joules is None


def test_two_readings_of_one_time_change_nothing() -> None:
    """Reports that were late together bear one time."""
    plain = counter(np.arange(30.0))
    times = plain.times_ns.copy()
    times[14] = times[15]
    energy = window_energy(replace(plain, times_ns=times), S, int(1.5 * S))
    assert energy.joules == pytest.approx(5.0, abs=0.5)
    assert energy.ci95_j is not None
    assert 0.0 < energy.ci95_j < 2.0


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
@given(
    seed=st.integers(0, 2**32 - 1),
    window_s=st.floats(0.05, 2.0),
    starts_s=st.floats(-2.0, 0.5),
    outlives_s=st.floats(-0.5, 0.5),
    calibrated=st.booleans(),
)
@settings(deadline=None, derandomize=True)
def test_readings_cut_anywhere_never_raise(
    sensor: Sensor, seed: int, window_s: float, starts_s: float, outlives_s: float, calibrated: bool
) -> None:
    """A sensor may start late or die at any time around a window: figures turn null, never false and never an error."""
    rng = np.random.default_rng(seed)
    load = random_load(rng, window_s, 8.0)
    whole = sensor.observe(load, -2.0, window_s + 2.0, rng)
    since, until = (ORIGIN_NS + int(time_s * S) for time_s in (starts_s, window_s + outlives_s))
    kept = (whole.times_ns >= since) & (whole.times_ns <= until)
    trace = Trace(whole.domain, whole.times_ns[kept], whole.values[kept], "cut off")
    if calibrated:
        trace = calibrate(trace, Calibration(1.05, 1.0))
    marks = ORIGIN_NS + (np.array([0.0, 0.3, 1.0]) * window_s * S).astype(np.int64)
    report = attribute([trace], Window(*(marks[[at]] for at in range(3))))
    for name in ("request", "prefill", "decode"):
        joules = getattr(report.total, f"{name}_j")
        assert joules is None or joules > 0.0


def test_a_sensor_that_dies_just_after_a_window_shorter_than_its_delay_is_null() -> None:
    """Every reading, dated back by half of a second's averaging, lies before the window."""
    trace = power(np.full(52, 100.0), 0.1)
    late = replace(trace, domain=replace(trace.domain, period_s=0.1, averaging_s=1.0))
    energy = window_energy(late, int(4.7 * S), 5 * S)
    assert energy.joules is None
    assert "fewer than two" in (energy.reason or "")


def test_a_dead_sensor_gives_its_reason_unless_it_outlived_the_window() -> None:
    alive = counter(np.arange(30.0))
    dead = Trace(alive.domain, alive.times_ns, alive.values, "pulled out")
    assert window_energy(dead, S, 9 * S).reason == "pulled out"
    assert window_energy(dead, S, 2 * S).joules == pytest.approx(10.0)
    empty = Trace(alive.domain, alive.times_ns[:0], alive.values[:0], "never spoke")
    assert window_energy(empty, S, 2 * S).reason == "never spoke"


def test_a_step_at_the_edges_is_not_smeared() -> None:
    """A window of 1 s at 300 W amid 50 W: straight interpolation of the counter would lose several per cent."""
    polls = np.arange(0.033, 4.0, 0.1)
    joules = 50 * polls + 250 * np.clip(polls - 1.5, 0.0, 1.0)
    trace = Trace(counter(joules).domain, (polls * S).astype(np.int64), joules)
    energy = window_energy(trace, int(1.5 * S), int(2.5 * S))
    assert energy.joules == pytest.approx(300.0, rel=0.002)


def test_calibration_corrects_either_kind() -> None:
    correction = Calibration(1.048, 1.26)
    times = np.arange(40) * 0.1
    for trace in (counter((0.954 * 300 - 1.2) * times), power(np.full(40, 0.954 * 300 - 1.2))):
        energy = window_energy(calibrate(trace, correction), S, 3 * S)
        assert energy.joules == pytest.approx(600.0, rel=0.001)


def test_a_calibrated_counter_that_was_reset_is_null() -> None:
    values = np.concatenate((np.arange(10.0) * 10 + 5000, np.arange(10.0) * 10))
    energy = window_energy(calibrate(counter(values), Calibration(1.05, 0.0)), int(0.5 * S), int(1.5 * S))
    assert energy.joules is None
    assert "reset" in (energy.reason or "")


def test_calibration_undoes_wraps_first() -> None:
    plain = np.arange(40) * 30.0
    corrected = calibrate(counter(plain % 100.0, wrap_j=100.0), Calibration(2.0, 0.0))
    assert window_energy(corrected, S, 3 * S).joules == pytest.approx(1200.0)


def test_the_planned_edge_uncertainty_matches_the_stated_one() -> None:
    """What window lengths are planned with is what a steady load then gets."""
    domain = Domain("c", "gpu", "counter", "counter", "test", 0.001, period_s=0.1, source="s")
    polls = np.arange(0.0, 20.0, 0.05)
    joules = np.floor(polls / 0.1 + 1e-9) * 0.1 * 200.0
    trace = Trace(domain, (polls * S).astype(np.int64), joules)
    planned_s = edge_uncertainty_s(domain, 0.05)
    for start_ns in (5 * S + S // 40, 5 * S):
        energy = window_energy(trace, start_ns, start_ns + 10 * S)
        assert energy.ci95_j is not None
        assert 0.5 * planned_s < energy.ci95_j / 200.0 < 1.1 * planned_s
    assert 0.01 < planned_s / 4.0 < 0.011, "1 % in 4 s"


def test_a_long_averaging_window_costs_no_more_at_rest_than_planned() -> None:
    """Between rests a reading averaged over a second has the planned uncertainty, and tells the truth."""
    sensor = Sensor("slow", False, 0.1, averaging_s=1.0, method="integrated")
    margin = margin_s(sensor.domain(), 0.05) + 0.3
    load = Load(np.array([-10.0, 0.0, 10.0, 20.0]), np.array([50.0, 200.0, 50.0]))
    trace = sensor.observe(load, -margin, 10.0 + margin, np.random.default_rng(0))
    energy = window_energy(trace, ORIGIN_NS, ORIGIN_NS + 10 * S)
    assert energy.joules is not None
    assert energy.ci95_j is not None
    assert abs(energy.joules - 2000.0) <= energy.ci95_j
    assert energy.ci95_j / 200.0 < edge_uncertainty_s(sensor.domain(), 0.05)


def waited_for(starts_s: float, ends_s: float, wait_s: float = 0.0025) -> Trace:
    """A counter that moves by 20 mJ every ms, polled every 50 ms, and every 50 µs before a start and after an end."""
    looks = [
        np.arange(0.0, 2.0, 0.05),
        np.arange(starts_s - wait_s, starts_s, 5e-5),
        ends_s + np.arange(0, wait_s, 5e-5),
    ]
    times_ns = np.unique((np.concatenate(looks) * 1e9).astype(np.int64))
    domain = Domain("package", "cpu", "counter", "counter", "test", 6e-5, 0.001)
    return Trace(domain, times_ns, np.floor(times_ns / 1e6) * 0.020)


def test_a_counter_that_was_waited_for_at_both_edges_tells_a_window_between_two_polls() -> None:
    trace = waited_for(1.0071, 1.0471)
    energy = window_energy(trace, 1_007_100_000, 1_047_100_000)
    assert energy.joules == pytest.approx(0.8, abs=energy.ci95_j)
    assert energy.ci95_j < 0.05 * energy.joules


def test_a_window_of_few_updates_or_of_edges_that_were_not_waited_for_is_refused() -> None:
    short = window_energy(waited_for(1.0071, 1.0101), 1_007_100_000, 1_010_100_000)
    unread = window_energy(waited_for(0.2, 0.3), 1_007_100_000, 1_047_100_000)
    assert (short.joules, unread.joules) == (None, None)
    assert short.reason == unread.reason == "the readings did not move during the window"


@pytest.mark.parametrize("sensor", KINDS, ids=lambda sensor: sensor.name)
def test_a_running_window_knows_how_sure_it_would_be(sensor: Sensor) -> None:
    """What it says while it runs is about what is stated once it is over, and it falls."""
    rng = np.random.default_rng(5)
    length_s = max(6.0, 6.0 * sensor.period_s)
    seen = scene("steady", sensor, rng, length_s)
    margin = margin_s(sensor.domain(), 0.05) + 0.3
    whole = readings(sensor, seen, rng, margin)

    def at(until_s: float) -> float | None:
        there = whole.times_ns <= ORIGIN_NS + int(until_s * S)
        trace = Trace(whole.domain, whole.times_ns[there], whole.values[there])
        return relative_half_width_so_far([trace], ORIGIN_NS, ORIGIN_NS + int(until_s * S))

    assert at(0.01) is None
    half, full = at(length_s / 2.0), at(length_s)
    stated = window_energy(whole, *seen.edges_ns)
    assert half is not None
    assert full is not None
    assert stated.joules is not None
    assert stated.ci95_j is not None
    assert full < half
    assert 0.5 * stated.ci95_j / stated.joules < full < 0.03
    assert relative_half_width_so_far([], ORIGIN_NS, ORIGIN_NS + S) is None


def test_readings_that_lag_by_a_known_time_are_dated_back() -> None:
    """Half a second late: a window of 2 s of load would lose a fifth."""
    rng = np.random.default_rng(6)
    late = replace(KINDS[1], lag_s=0.5)
    seen = scene("steady", late, rng, 2.0)
    trace = readings(late, seen, rng, margin_s(late.domain(), 0.05) + 0.3)
    energy = window_energy(trace, *seen.edges_ns)
    assert energy.joules == pytest.approx(seen.true_j, rel=0.01)
    blind = window_energy(replace(trace, domain=replace(trace.domain, lag_s=0.0)), *seen.edges_ns)
    assert blind.joules is not None
    assert abs(blind.joules / seen.true_j - 1.0) > 0.05


def test_a_counter_behind_a_low_pass_is_dated_back_by_its_time_constant() -> None:
    """From the midst of work to the midst of rest; what the low-pass holds back differs by 50 J of 700."""
    load, filter_s = Load(np.array([-9.0, 0.0, 4.0, 20.0]), np.array([50.0, 300.0, 50.0])), 0.2
    times_s = np.arange(-3.0, 9.0, 0.02)
    held_back_j = filter_s * (load.filtered_w(times_s, filter_s) - 50.0)
    domain = Domain("it", "gpu", "counter", "counter", "nvml", 0.001, 0.02, stamped=True, filter_s=filter_s)
    trace = Trace(
        domain, ORIGIN_NS + np.round(times_s * S).astype(np.int64), load.energy_j(-3.0, times_s) - held_back_j
    )
    energy = part_energy(trace, ORIGIN_NS + 2 * S, ORIGIN_NS + 6 * S)
    assert energy.joules == pytest.approx(700.0, abs=1.0)
