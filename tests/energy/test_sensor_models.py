"""Energies of random loads of known integral, seen through models of real sensors."""

from __future__ import annotations

import coverage_energy
import numpy as np
import pytest
from coverage_row import Row
from energy_rows import LONG, SHORT, coverage
from synthetic import ORIGIN_NS, SENSORS, Load, Sensor, random_load

from harness.energy.integrate import margin_s, window_energy
from harness.energy.phases import phase_energies
from harness.energy.readings import Window

COVERED = 0.93
"""Least share of intervals that hold the truth, as in scripts/bench/coverage.py."""
PART_TIME = {"V100 power", "A100 power", "H100 instant"}
"""Sensors that see a quarter to a half of the time: what they miss of a fluctuating load can't be known."""


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
def test_long_windows_are_true_and_the_interval_covers(sensor: Sensor) -> None:
    found = coverage(sensor, LONG, shapes=300)
    assert abs(found.mean_error) < 0.005
    assert found.covered >= COVERED
    assert found.unknown == 0
    assert found.lowest_j > 0
    assert found.mean_absolute_error < (0.015 if sensor.name in PART_TIME else 0.005)


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
def test_short_windows_say_how_little_they_know(sensor: Sensor) -> None:
    found = coverage(sensor, SHORT, shapes=500, seed=1)
    assert found.covered >= COVERED
    assert found.mean_ci95 > 1.5 * found.mean_absolute_error
    assert found.lowest_j > 0


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
def test_windows_between_others_are_covered_too(sensor: Sensor) -> None:
    """Work goes on before and after, so that no step marks the edges."""
    rng = np.random.default_rng([2, *sensor.name.encode()])
    covered = []
    for _ in range(200):
        window_s = rng.uniform(10, 60) * max(sensor.period_s, 0.05)
        margin = margin_s(sensor.domain(), 0.05) + 0.3
        wider = random_load(rng, window_s + 2 * margin + 2, 1.0)
        load = Load(wider.times_s - margin - 1, wider.power_w)
        trace = sensor.observe(load, -margin, window_s + margin, rng)
        energy = window_energy(trace, ORIGIN_NS, ORIGIN_NS + int(window_s * 1e9))
        assert energy.joules is not None
        assert energy.ci95_j is not None
        covered.append(abs(energy.joules - load.energy_j(0.0, window_s)) <= energy.ci95_j)
    assert np.mean(covered) >= COVERED


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
def test_phases_are_covered(sensor: Sensor) -> None:
    """Repeated requests whose prefill and decode draw different powers, from 0.1 s to 3 s long."""
    rng = np.random.default_rng([3, *sensor.name.encode()])
    covered = []
    for _ in range(60):
        requests = int(rng.integers(1, 8))
        lengths = 10 ** rng.uniform(-1, 0.5, 2)
        durations = np.tile([*lengths, 0.001], requests) * rng.uniform(0.98, 1.02, 3 * requests)
        powers = np.tile([*rng.uniform(80, 400, 2), 50.0], requests)
        marks = np.concatenate(([0.0], np.cumsum(durations)))
        margin = margin_s(sensor.domain(), 0.05) + 0.3
        times = np.concatenate(([-margin - 5], marks, [marks[-1] + margin + 5]))
        load = Load(times, np.concatenate(([50.0], powers, [60.0])))
        trace = sensor.observe(load, -margin, marks[-1] + margin, rng)
        window = Window(*(nanoseconds(marks[mark:-1:3] if mark < 2 else marks[2::3]) for mark in (0, 1, 2)))
        whole = window_energy(trace, int(window.start_ns[0]), int(window.end_ns[-1]))
        phases = phase_energies(trace, window, whole)
        for phase, energy in enumerate((phases.prefill, phases.decode)):
            starts, ends = marks[phase:-1:3], marks[phase + 1 :: 3]
            if energy.joules is not None and energy.ci95_j is not None:
                true_j = float(np.sum(load.energy_j(starts, ends)))
                covered.append(abs(energy.joules - true_j) <= energy.ci95_j)
    assert len(covered) > 75
    assert np.mean(covered) >= COVERED


def nanoseconds(times_s: np.ndarray) -> np.ndarray:
    return ORIGIN_NS + np.round(times_s * 1e9).astype(np.int64)


def test_a_load_knows_its_integral() -> None:
    load = Load(np.array([0.0, 1.0, 3.0]), np.array([100.0, 200.0]))
    assert load.energy_j(0.0, 3.0) == pytest.approx(500.0)
    assert load.energy_j(0.5, 2.0) == pytest.approx(250.0)
    assert load.energy_j(-1.0, 4.0) == pytest.approx(800.0)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(coverage_energy.rows(100, 1))


def test_every_kind_of_sensor_covers_every_kind_of_load_and_is_no_wider_than_need_be(rows: list[Row]) -> None:
    """The short version of scripts/bench/coverage.py: bounds are those of 1,000 draws, less three standard errors."""
    assert len({row.name for row in rows}) == 32
    assert {row.name: row.coverage for row in rows if row.coverage < 0.85} == {}
    assert np.mean([row.coverage for row in rows]) >= 0.95
    assert {row.name: row.half_width for row in rows if row.half_width > 2.8 * row.oracle_half_width} == {}
    assert np.median([row.half_width / row.oracle_half_width for row in rows]) < 1.7
