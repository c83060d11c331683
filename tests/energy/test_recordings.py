"""Logs of real GPU sensors (JimZeyuYang/GPU_Power_Benchmark, MIT) through our integration; skipped without them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from harness.energy.gains import gain_of
from harness.energy.integrate import window_energy
from harness.energy.readings import Domain, Trace
from tests.helpers import ROOT

LOGS = ROOT.parent / "shared" / "data" / "gpu-power"
AVERAGING_S = {"a100": 0.025, "3090": 0.1, "4090": 0.1}
ORIGIN_NS = 10**12

pytestmark = pytest.mark.skipif(not LOGS.is_dir(), reason="needs the recorded logs")


def columns(path: Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("name", ["step-a100", "step-3090", "step-4090", "square-a100"])
def test_integral_of_a_log_is_that_of_its_rows(name: str) -> None:
    """From idle to idle around the load, so that no edge has power that the trapezoids and we date differently."""
    log = columns(LOGS / f"{name}-sensor.csv")
    times_s = log.pop("time_s")
    for column, watts in log.items():
        averaging_s = 1.0 if "average" in column else AVERAGING_S[name.partition("-")[2]]
        domain = Domain("gpu0-power", "gpu", "power", "integrated", "nvml", 0.01, 0.1, averaging_s)
        trace = Trace(domain, ORIGIN_NS + np.round(times_s * 1e9).astype(np.int64), watts)
        start_s, end_s = times_s[0] + 0.1, times_s[-1] - 1.5
        energy = window_energy(trace, ORIGIN_NS + int(start_s * 1e9), ORIGIN_NS + int(end_s * 1e9))
        inside = (times_s >= start_s) & (times_s <= end_s)
        plain_j = np.trapezoid(watts[inside], times_s[inside])
        assert energy.joules == pytest.approx(plain_j, rel=0.002), column
        assert energy.ci95_j < 0.1 * plain_j


def metered(name: str, column: str, averaging_s: float) -> tuple[Trace, np.ndarray, np.ndarray]:
    """A log as a trace; the meter's times, and what it counted until each."""
    log, meter = columns(LOGS / f"{name}-sensor.csv"), columns(LOGS / f"{name}-meter.csv")
    domain = Domain("gpu0-power", "gpu", "power", "integrated", "nvml", 0.01, 0.1, averaging_s)
    trace = Trace(domain, ORIGIN_NS + np.round(log["time_s"] * 1e9).astype(np.int64), log[column])
    times_s, watts = meter["time_s"], meter["power_w"]
    counted = np.concatenate(([0.0], np.cumsum(np.diff(times_s) * (watts[1:] + watts[:-1]) / 2.0)))
    return trace, times_s, counted


def within(trace: Trace, times_s: np.ndarray, counted: np.ndarray, start_s: float, end_s: float) -> None:
    energy = window_energy(trace, ORIGIN_NS + int(start_s * 1e9), ORIGIN_NS + int(end_s * 1e9))
    assert energy.joules is not None
    assert energy.ci95_j is not None
    half = np.hypot(energy.ci95_j, gain_of(trace.domain).ci95 * energy.joules)
    true_j = np.interp(end_s, times_s, counted) - np.interp(start_s, times_s, counted)
    assert abs(energy.joules - true_j) <= half, (start_s, end_s)
    assert half <= 0.08 * energy.joules, (start_s, end_s)


STEPS = [
    ("step-a100", "power_draw_w"),
    ("step-a100", "power_draw_instant_w"),
    ("step-3090", "power_draw_instant_w"),
    ("step-4090", "power_draw_w"),
]


@pytest.mark.parametrize(("name", "column"), STEPS)
def test_an_external_meter_reads_within_the_total_interval(name: str, column: str) -> None:
    """The load, from 1.05 to 7 s, whole and in parts, and with some rest; the gain is that of the kind of sensor."""
    trace, times_s, counted = metered(name, column, AVERAGING_S[name.partition("-")[2]])
    for start_s in (1.05, 1.3, 1.6, 2.0, 3.0):
        for end_s in (start_s + 2.0, start_s + 3.5, 7.0):
            within(trace, times_s, counted, start_s, end_s)
    within(trace, times_s, counted, 0.8, 7.3)


@pytest.mark.parametrize("column", ["power_draw_w", "power_draw_average_w"])
def test_so_it_does_where_readings_are_averages_over_a_second(column: str) -> None:
    within(*metered("step-3090", column, 1.0), 1.05, 7.0)


@pytest.mark.parametrize("column", ["power_draw_w", "power_draw_instant_w"])
@pytest.mark.parametrize("start_s", [0.9, 1.0, 1.05])
def test_so_it_does_for_a_square_wave_in_step_with_the_sensor(column: str, start_s: float) -> None:
    """Over three of its beats with the sensor, of 2.6 s each: in parts of one, readings show what phase they are at."""
    within(*metered("square-a100", column, 0.025), start_s, 8.92)
