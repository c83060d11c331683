"""Energies of prefills and decodes, from readings whose truth is known."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from coverage_phases import SENSORS, measured, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from request_trains import train
from synthetic import ORIGIN_NS, Load, Sensor

from harness.energy.integrate import Energy, window_energy
from harness.energy.phases import PhaseEnergies, phase_energies
from harness.energy.readings import Trace, Window

STAMPED = Sensor("stamped", True, 0.1, stamped=True)
SLOW = Sensor("100 ms", True, 0.1)


def ns(times_s: np.ndarray) -> np.ndarray:
    return ORIGIN_NS + np.round(times_s * 1e9).astype(np.int64)


def requests(lengths_s: np.ndarray, powers_w: np.ndarray, idle_w: float = 50.0) -> tuple[Load, Window]:
    """Requests with a prefill, a decode and a pause each; both arrays of shape (requests, 3)."""
    marks = np.concatenate(([0.0], np.cumsum(lengths_s.ravel())))
    load = Load(
        np.concatenate(([-9.0], marks, [marks[-1] + 9.0])), np.concatenate(([idle_w], powers_w.ravel(), [idle_w]))
    )
    return load, Window(ns(marks[:-1:3]), ns(marks[1::3]), ns(marks[2::3]))


def found(load: Load, window: Window, sensor: Sensor, seed: int = 0) -> tuple[Trace, Energy, PhaseEnergies]:
    last_s = (int(window.end_ns[-1]) - ORIGIN_NS) / 1e9
    trace = sensor.observe(load, -2.0, last_s + 2.0, np.random.default_rng(seed))
    whole = window_energy(trace, int(window.start_ns[0]), int(window.end_ns[-1]))
    return trace, whole, phase_energies(trace, window, whole)


def window_of(seed: int, prefill_s: float = 0.3, decode_s: float = 0.9, pause_s: float = 0.0) -> tuple[Load, Window]:
    rng = np.random.default_rng(seed)
    count = max(2, round(10.0 / (prefill_s + decode_s)))
    lengths = np.column_stack(
        (np.full(count, prefill_s), np.full(count, decode_s), rng.uniform(0.0, 1.0, count) * pause_s + 1e-4)
    )
    lengths[:, :2] *= rng.uniform(0.95, 1.05, (count, 2))
    powers = np.column_stack((np.full(count, 300.0), np.full(count, 200.0), np.full(count, 60.0)))
    powers[:, :2] *= rng.normal(1.0, 0.01, (count, 2))
    return requests(lengths, powers)


def test_a_counter_of_100_ms_resolves_prefills_of_300_ms() -> None:
    load, window = window_of(0)
    _, _, phases = found(load, window, SLOW)
    prefills, decodes = load.energy_j(*_s(window, "prefill")).sum(), load.energy_j(*_s(window, "decode")).sum()
    assert phases.prefill.joules == pytest.approx(prefills, abs=phases.prefill.ci95_j)
    assert phases.decode.joules == pytest.approx(decodes, abs=phases.decode.ci95_j)
    assert phases.prefill.ci95_j < 0.008 * prefills
    assert phases.decode.ci95_j < 0.003 * decodes


def _s(window: Window, phase: str) -> tuple[np.ndarray, np.ndarray]:
    edges = (window.start_ns, window.prefill_end_ns, window.end_ns)
    first = 0 if phase == "prefill" else 1
    return (edges[first] - ORIGIN_NS) / 1e9, (edges[first + 1] - ORIGIN_NS) / 1e9


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
def test_stated_intervals_hold_the_truth(sensor: Sensor) -> None:
    """The short version of scripts/bench/coverage_phases.py; powers change within phases and between requests."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(25):
        drawn = train(rng, 0.1)
        for (joules, ci95_j), true_j in zip(measured(sensor, drawn, rng), drawn.true_j(), strict=True):
            covered.append(abs(joules - true_j) <= ci95_j)
            assert ci95_j < 0.1 * joules
    assert np.mean(covered) >= 0.86  # of 50 correlated draws; 95 % in truth


def test_rows_have_a_coverage_and_two_half_widths() -> None:
    row = next(iter(rows(3, 0)))
    assert row.draws == 3
    assert 0.0 < row.oracle_half_width < 0.05
    assert 0.0 < row.half_width < 0.05


def test_pauses_belong_to_neither_phase() -> None:
    load, window = window_of(3, pause_s=0.2)
    _, whole, phases = found(load, window, STAMPED)
    starts, ends = (window.end_ns[:-1] - ORIGIN_NS) / 1e9, (window.start_ns[1:] - ORIGIN_NS) / 1e9
    assert phases.pauses.joules == pytest.approx(load.energy_j(starts, ends).sum(), abs=phases.pauses.ci95_j)
    assert phases.pauses.ci95_j < 0.01 * whole.joules
    assert phases.decode.joules == pytest.approx(load.energy_j(*_s(window, "decode")).sum(), rel=0.005)


def test_a_prefill_of_50_ms_is_resolved_where_readings_determine_it() -> None:
    load, window = window_of(4, prefill_s=0.05, decode_s=0.4)
    _, _, phases = found(load, window, STAMPED)
    assert phases.prefill.joules == pytest.approx(
        load.energy_j(*_s(window, "prefill")).sum(), abs=phases.prefill.ci95_j
    )
    assert phases.prefill.ci95_j < 0.1 * phases.prefill.joules


@pytest.mark.parametrize("sensor", [STAMPED, SLOW], ids=lambda sensor: sensor.name)
@pytest.mark.parametrize("noise", [0.003, 0.02])
def test_requests_in_step_with_the_sensor_are_hardly_told_apart(sensor: Sensor, noise: float) -> None:
    """Every step of the counter holds the same of both phases; those at the window's edges alone tell a little."""
    half_widths, covered = [], []
    for seed in range(20):
        powers = np.tile([300.0, 100.0, 50.0], (60, 1)) * np.random.default_rng(seed).normal(1.0, noise, (60, 3))
        load, window = requests(np.tile([0.03, 0.07, 0.0], (60, 1)), powers)
        _, _, phases = found(load, window, sensor, seed)
        true_j = load.energy_j(*_s(window, "prefill")).sum()
        half_widths.append(phases.prefill.ci95_j / true_j)
        covered.append(abs(phases.prefill.joules - true_j) <= phases.prefill.ci95_j)
    assert np.median(half_widths) > 0.1
    assert np.mean(covered) >= 0.85


@given(
    seed=st.integers(0, 10**6),
    sensor=st.sampled_from(SENSORS),
    prefill_s=st.floats(0.02, 2.0),
    decode_s=st.floats(0.02, 2.0),
    pause_s=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=25)
def test_phases_add_up_to_the_window_and_half_widths_are_never_negative(
    seed: int, sensor: Sensor, prefill_s: float, decode_s: float, pause_s: float
) -> None:
    _, whole, phases = found(*window_of(seed, prefill_s, decode_s, pause_s), sensor, seed)
    parts = (phases.prefill, phases.decode, phases.pauses)
    assert all(each.ci95_j >= 0.0 for each in parts)
    assert abs(sum(each.joules for each in parts) - whole.joules) <= whole.ci95_j * (1 + 1e-9) + 1e-9


@given(scale=st.floats(1e-3, 1e3), kind=st.sampled_from([STAMPED, SLOW, SENSORS[3]]))
@settings(max_examples=15)
def test_twice_the_power_is_twice_the_energy(scale: float, kind: Sensor) -> None:
    trace, whole, phases = found(*(_pair := window_of(1)), replace(kind, resolution=1e-9))
    scaled_trace = replace(trace, values=trace.values * scale, domain=replace(trace.domain, resolution=1e-9 * scale))
    scaled = phase_energies(
        scaled_trace, _pair[1], replace(whole, joules=whole.joules * scale, ci95_j=whole.ci95_j * scale)
    )
    for one, other in zip((phases.prefill, phases.decode), (scaled.prefill, scaled.decode), strict=True):
        assert other.joules == pytest.approx(one.joules * scale, rel=1e-4)
        assert other.ci95_j == pytest.approx(one.ci95_j * scale, rel=0.03)  # rounding may choose another course


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_seen_backwards_prefills_are_decodes(seed: int) -> None:
    load, window = window_of(seed)
    rng = np.random.default_rng(seed)
    times_s = np.arange(-2.0 + rng.uniform(0, 0.1), float(load.times_s[-1]) - 7.0, 0.1)
    domain = STAMPED.domain()
    forward = Trace(domain, ns(times_s), load.energy_j(-2.0, times_s))
    mirrored = 2 * ORIGIN_NS - forward.times_ns[::-1]
    backward = Trace(domain, mirrored, forward.values[-1] - forward.values[::-1])
    turned = Window(*(2 * ORIGIN_NS - each[::-1] for each in (window.end_ns, window.prefill_end_ns, window.start_ns)))
    whole = Energy(float(load.energy_j(0.0, (int(window.end_ns[-1]) - ORIGIN_NS) / 1e9)), 1.0)
    one, other = phase_energies(forward, window, whole), phase_energies(backward, turned, whole)
    assert other.prefill.joules == pytest.approx(one.decode.joules, rel=1e-6)
    assert other.decode.joules == pytest.approx(one.prefill.joules, rel=1e-6)
    assert other.decode.ci95_j == pytest.approx(one.prefill.ci95_j, rel=1e-3)


def test_one_phase_has_all_and_nothing_measured_leaves_none() -> None:
    lengths, powers = np.tile([1.0, 0.0, 0.0], (5, 1)), np.tile([300.0, 100.0, 50.0], (5, 1))
    trace, whole, phases = found(*(pair := requests(lengths, powers)), STAMPED)
    assert phases.prefill == whole
    assert phases.decode == Energy(0.0, 0.0)
    unknown = phase_energies(trace, pair[1], Energy(None, None, "it died"))
    assert unknown.prefill == unknown.decode == Energy(None, None, "it died")


def test_of_a_modelled_rail_that_is_off_each_phase_has_its_share() -> None:
    domain = replace(STAMPED.domain(), method="modelled", resolution=0.001)
    trace = Trace(domain, ns(np.arange(0.0, 6.0, 0.1)), np.full(60, 7.0))
    window = Window(ns(np.array([2.0, 3.0])), ns(np.array([2.5, 3.5])), ns(np.array([3.0, 4.0])))
    whole = window_energy(trace, int(window.start_ns[0]), int(window.end_ns[-1]))
    phases = phase_energies(trace, window, whole)
    assert phases.prefill.joules == phases.decode.joules == 0.0
    assert phases.prefill.ci95_j >= 0.001


def test_too_few_readings_are_no_energy() -> None:
    lengths, powers = np.tile([0.05, 0.05, 0.0], (2, 1)), np.tile([300.0, 100.0, 50.0], (2, 1))
    load, window = requests(lengths, powers)
    trace = Trace(STAMPED.domain(), ns(np.array([-0.1, 0.3])), load.energy_j(-0.1, np.array([-0.1, 0.3])))
    assert phase_energies(trace, window, Energy(40.0, 4.0)).prefill.joules is None


def test_long_windows_of_fast_counters_take_milliseconds() -> None:
    lengths, powers = np.tile([0.002, 0.003, 0.0], (2000, 1)), np.tile([300.0, 100.0, 50.0], (2000, 1))
    load, window = requests(lengths, powers)
    times_s = np.arange(-0.5, 10.5, 0.001)
    trace = Trace(Sensor("fast", True, 0.001, stamped=True).domain(), ns(times_s), load.energy_j(-0.5, times_s))
    whole = window_energy(trace, int(window.start_ns[0]), int(window.end_ns[-1]))
    took_s = []
    for _ in range(3):
        begun = time.process_time()
        phases = phase_energies(trace, window, whole)
        took_s.append(time.process_time() - begun)
    assert phases.prefill.joules == pytest.approx(2000 * 0.6, rel=0.001)
    assert min(took_s) < 0.25
