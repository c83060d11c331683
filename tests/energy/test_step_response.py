"""What is told of sensors from steps of a load, against sensors of known response and recordings of real ones."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.energy.readings import Domain, Trace
from harness.energy.step_model import LoadSteps
from harness.energy.step_response import StepResponse, Timing, step_response, with_measured
from tests.energy.stepped_sensor import SteppedSensor, nanoseconds, random_sensor
from tests.helpers import ROOT

LOGS = ROOT.parent / "shared" / "data" / "gpu-power"
DRAWS = 12


def told(sensor: SteppedSensor, seed: int = 0) -> StepResponse:
    return step_response(*sensor.observe(np.random.default_rng(seed)))


def holds(found: Timing | None, truth_s: float) -> bool:
    assert found is not None
    return abs(found.value_s - truth_s) <= found.ci95_s


def test_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(18)
    held: list[bool] = []
    widths_s = []
    for _ in range(DRAWS):
        sensor = random_sensor(rng)
        found = step_response(*sensor.observe(rng))
        assert found.reason is None
        held += [
            holds(found.period, sensor.period_s),
            holds(found.delay, sensor.delay_s),
            holds(found.lag, sensor.lag_s),
            holds(found.averaging, sensor.averaging_s),
            holds(found.filter, sensor.filter_s),
        ]
        assert found.delay
        widths_s.append(found.delay.ci95_s)
    assert np.mean(held) >= 0.93
    assert np.median(widths_s) < 0.012


@pytest.mark.parametrize(("seen_s", "counter"), [(0.025, True), (0.1, True), (0.025, False)])
def test_a_counter_that_looks_a_quarter_of_the_time_is_told_from_one_that_always_looks(
    seen_s: float, counter: bool
) -> None:
    sensor = SteppedSensor(counter=counter, averaging_s=seen_s, resolution=0.001)
    for seed in range(2):
        found = told(sensor, seed)
        assert found.averaging
        # Whether 95 % intervals hold the truth is tested above: any two of them need not.
        assert abs(found.averaging.value_s - seen_s) <= 2.0 * found.averaging.ci95_s < 0.05
        assert (found.seen is not None) == (counter and seen_s < 0.1)
        assert found.seen is None or found.seen.value_s + found.seen.ci95_s < 0.06


def test_a_filter_is_told_from_an_average() -> None:
    filtered = told(SteppedSensor(averaging_s=0.025, filter_s=0.2, noise=0.005))
    averaged = told(SteppedSensor(averaging_s=1.0, noise=0.005))
    assert filtered.filter
    assert filtered.averaging
    assert averaged.averaging
    assert averaged.filter
    assert filtered.filter.value_s - filtered.filter.ci95_s > 0.1
    assert filtered.averaging.value_s + filtered.averaging.ci95_s < 0.15
    assert averaged.averaging.value_s - averaged.averaging.ci95_s > 0.9
    assert averaged.filter.value_s + averaged.filter.ci95_s < 0.1


def test_what_does_not_follow_the_load_has_a_period_and_no_lag() -> None:
    trace, load = SteppedSensor().observe(np.random.default_rng(1))
    noise = np.random.default_rng(2).normal(60.0, 3.0, 200)
    deaf = replace(trace, values=noise[(trace.times_ns - trace.times_ns[0]) // 100_000_000])
    found = step_response(deaf, load)
    assert found.delay is None
    assert found.reason == "its power did not follow the load by more than its noise"
    assert holds(found.period, 0.1)
    still = step_response(replace(trace, values=np.full(trace.times_ns.size, 60.0)), load)
    assert still.period is None
    assert still.reason == "its readings hardly changed under the load"


def test_too_few_updates_say_so() -> None:
    found = told(SteppedSensor(period_s=0.8, averaging_s=0.8))
    assert found.delay is None
    assert "too few" in str(found.reason)


def test_a_load_without_steps_tells_nothing() -> None:
    trace, _ = SteppedSensor().observe(np.random.default_rng(1))
    found = step_response(trace, LoadSteps(trace.times_ns[:1], np.array([1.0])))
    assert found.reason == "the load had no steps"


@settings(max_examples=2)
@given(st.integers(0, 2**32 - 1))
def test_the_clocks_origin_and_the_scale_of_power_say_nothing(seed: int) -> None:
    trace, load = SteppedSensor(noise=0.02).observe(np.random.default_rng(seed))
    found = step_response(trace, load)
    later = step_response(
        replace(trace, times_ns=trace.times_ns + 10**15, values=trace.values * 8.0),
        LoadSteps(load.times_ns + 10**15, load.levels),
    )
    assert found.delay
    assert later.delay
    assert later.delay.value_s == pytest.approx(found.delay.value_s, abs=0.2 * found.delay.ci95_s)
    assert holds(found.delay, 0.07) or abs(found.delay.value_s - 0.07) < 2 * found.delay.ci95_s


STATED = Domain("it", "gpu", "power", "integrated", "nvml", 0.001, 0.1, averaging_s=1.0, source="gpu:GPU-1")


def timings(delay: tuple[float, float], averaging: tuple[float, float], filtered: tuple[float, float]) -> StepResponse:
    return StepResponse(
        period=Timing(0.101, 0.001),
        delay=Timing(*delay),
        lag=Timing(0.0, 0.01),
        averaging=Timing(*averaging),
        filter=Timing(*filtered),
    )


def test_what_is_surer_than_stated_is_taken_over() -> None:
    better = with_measured(STATED, timings((0.08, 0.004), (0.1, 0.01), (0.001, 0.01)))
    assert better.period_s == 0.101
    assert better.averaging_s == 0.1
    assert better.filter_s == 0.0
    assert better.lag_s == pytest.approx(0.03)
    # A half-width of 1.96 standard deviations, as the half-width of something uniform.
    assert better.clock_s == pytest.approx(0.004 / 1.96 * 3**0.5, rel=1e-3)


def test_what_is_no_surer_stays_as_stated() -> None:
    kept = with_measured(STATED, timings((0.08, 0.06), (0.1, 0.1), (0.001, 0.01)))
    assert replace(kept, period_s=0.1) == STATED
    agrees = with_measured(STATED, timings((0.52, 0.01), (0.98, 0.05), (0.0, 0.01)))
    assert agrees.averaging_s == 1.0
    assert agrees.lag_s == pytest.approx(0.02)
    assert with_measured(STATED, StepResponse(reason="it was asleep")) == STATED


def columns(path: Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def steps_of_power(meter: dict[str, np.ndarray]) -> LoadSteps:
    """When a board's true power began to rise and to fall."""
    low, high = np.quantile(meter["power_w"], (0.02, 0.98))
    smooth = np.convolve((meter["power_w"] - low) / (high - low), np.ones(5) / 5, mode="same")
    rise = meter["time_s"][np.flatnonzero(smooth > 0.3)[0]]
    fall = meter["time_s"][np.flatnonzero(smooth > 0.85)[-1]]
    return LoadSteps(nanoseconds(np.array([-1.0, rise, fall])), np.array([0.0, 1.0, 0.0]))


@pytest.mark.skipif(not LOGS.is_dir(), reason="needs the recorded logs")
@pytest.mark.parametrize(
    ("name", "column", "averaging_s"),
    [
        ("step-a100", "power_draw_w", 0.025),
        ("step-3090", "power_draw_instant_w", 0.1),
        ("step-3090", "power_draw_average_w", 1.0),
        ("step-4090", "power_draw_w", 0.1),
    ],
)
def test_real_boards_are_as_they_are_known(name: str, column: str, averaging_s: float) -> None:
    """Periods and averaging of Part-time Power Measurements (arXiv 2312.02741), from one rise and one fall each."""
    log = columns(LOGS / f"{name}-sensor.csv")
    meter = columns(LOGS / f"{name}-meter.csv")
    domain = Domain("gpu0-power", "gpu", "power", "integrated", "nvml", 0.01)
    inside = log["time_s"] < meter["time_s"][-1]
    found = step_response(Trace(domain, nanoseconds(log["time_s"][inside]), log[column][inside]), steps_of_power(meter))
    assert found.period
    assert found.period.value_s == pytest.approx(0.1, rel=0.02)
    assert found.period.ci95_s < 0.001
    assert holds(found.averaging, averaging_s)
    assert found.averaging
    assert found.averaging.ci95_s < 0.4  # of one rise and one fall
    assert (found.averaging.value_s > 0.5) == (averaging_s > 0.5)
    assert found.lag
    assert found.lag.value_s < 0.05
