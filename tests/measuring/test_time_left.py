"""The time left that a running sweep shows, against how long simulated runs then take."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from backends.base import Model
from harness.core.sizes import Point
from harness.energy.meter import SETTLE_S
from harness.measuring.plan import WARMUP_REQUESTS, WARMUP_S, PlanOptions, make_plan
from harness.measuring.schedule import Schedule
from harness.measuring.time_guess import RequestGuess, spell
from harness.measuring.time_left import TimeLeft, repeats
from harness.runs.records import load_run
from harness.runs.schema import Trial
from tests.helpers import ROOT


@dataclass(frozen=True)
class Shape:
    """What requests cost on a machine, and what its trials take beside their windows, in s."""

    prefill_s: Callable[[float], float]
    step_s: Callable[[float], float]
    spread: float = 0.02
    around_s: float = 0.05
    compile_s: float = 0.0
    sensor_window_s: float = 0.0
    """Window that its power meter needs."""
    idle_s: float = 0.0


SHAPES = {
    "flat": Shape(lambda m: 0.02, lambda length: 0.004),
    "prefill-heavy": Shape(lambda m: 0.01 + 0.004 * m, lambda length: 0.002),
    "decode-heavy": Shape(lambda m: 0.03 + 1e-5 * m, lambda length: 0.15),
    "long context": Shape(lambda m: 0.02 + 1e-3 * m + 1e-6 * m * m, lambda length: 0.01 + 1e-4 * length),
    "slow CPU": Shape(lambda m: 0.04 + 9e-4 * m, lambda length: 0.027),
    "compiled": Shape(lambda m: 1e-4 * m, lambda length: 0.02, compile_s=20.0),
    "noisy": Shape(lambda m: 0.04 + 9e-4 * m, lambda length: 0.027, spread=0.06),
}
METER = {"around_s": 0.4, "sensor_window_s": 10.0, "idle_s": 15.0}
MODEL = Model(
    name="small",
    architecture="llama",
    source="preset",
    random_weights=True,
    parameters=134_515_008,
    weight_bytes=538_060_032,
    context_length=8192,
    vocabulary_size=49152,
    dtype="float32",
)


def simulated(shape: Shape, options: PlanOptions, seed: int) -> Iterator[tuple[int, float, float]]:
    """A run, trial by trial: points begun, seconds left as foretold, seconds left in truth."""
    chance = random.Random(seed)
    plan, kv_cache = make_plan(options, seed)
    window_s = min(max(plan.min_window_s, shape.sensor_window_s), plan.max_window_s, plan.timeout_s / 2)
    schedule = Schedule(plan, kv_cache=kv_cache, context_length=MODEL.context_length)
    left = TimeLeft(plan, RequestGuess(MODEL, "cpu", kv_cache, 1), window_s)
    said: list[tuple[int, float, float]] = []
    points: set[Point] = set()
    now_s = 0.0
    while spec := schedule.next(0, 0):
        m, n = spec.point.input_tokens, spec.point.output_tokens
        scale = chance.gauss(1, shape.spread)
        prefill_s = shape.prefill_s(m) * scale
        decode_s = (n - 1) * shape.step_s(m + (n - 1) / 2) * scale
        request_s = prefill_s + decode_s
        warmup = spec.purpose == "warmup"
        count = repeats(min(WARMUP_S, window_s) if warmup else window_s, request_s, plan.max_window_s)
        count = max(count, WARMUP_REQUESTS) if warmup and request_s <= plan.timeout_s / 2 else count
        trial = Trial(
            id=len(said),
            session=0,
            worker=0,
            purpose=spec.purpose,
            input_tokens=m,
            output_tokens=n,
            status="ok",
            started_at="",
            repeats=count,
            window_s=count * request_s,
            runtime_s=request_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
        )
        spent_s = count * request_s + shape.around_s * chance.uniform(0.8, 1.2) + (shape.compile_s if warmup else 0)
        now_s += spent_s
        schedule.add(trial)
        left.add(trial, spent_s)
        points.add(spec.point)
        said.append((len(points), left.left_s(schedule.remaining(), shape.idle_s), now_s))
    end_s = now_s + shape.idle_s
    return iter([(begun, foretold_s, end_s - at_s) for begun, foretold_s, at_s in said])


def median_error(lines: Iterator[tuple[int, float, float]]) -> float:
    """Of what the lines from the third point on foretell; the last line, with nothing left, says nothing."""
    return statistics.median(abs(said_s / true_s - 1) for begun, said_s, true_s in lines if begun >= 3 and true_s > 0)


@pytest.mark.parametrize("metered", [False, True], ids=["no meter", "metered"])
@pytest.mark.parametrize("shape", SHAPES)
def test_time_left_is_true_within_30_percent_from_the_third_point_on(shape: str, metered: bool) -> None:
    machine = replace(SHAPES[shape], **METER) if metered else SHAPES[shape]
    errors = [median_error(simulated(machine, PlanOptions(), seed)) for seed in range(4)]
    assert max(errors) <= 0.3, errors


@pytest.mark.parametrize(
    ("protocol", "shape"), [("precise", "slow CPU"), ("precise", "flat"), ("paper", "decode-heavy")]
)
def test_time_left_of_long_protocols_is_true_within_30_percent(protocol: str, shape: str) -> None:
    """How often the few longest points are repeated is chance: single runs may miss by more."""
    machine = replace(SHAPES[shape], **METER)
    errors = [median_error(simulated(machine, PlanOptions(protocol=protocol), seed)) for seed in range(3)]
    assert statistics.median(errors) <= 0.3, errors


def test_time_left_of_a_recorded_run_is_true_within_30_percent() -> None:
    """A run of a real model on a CPU, by when its trials began."""
    run = load_run(ROOT / "tests" / "data" / "run-first")
    plan, kv_cache = make_plan()
    plan = replace(plan, points=tuple(Point(*size) for size in run.facts.plan.points))
    model = replace(MODEL, parameters=run.facts.model.parameters or 0)
    left = TimeLeft(plan, RequestGuess(model, "cpu", kv_cache, 1), plan.min_window_s)
    schedule = Schedule(plan, kv_cache=kv_cache, context_length=MODEL.context_length)
    session = run.facts.sessions[0]
    assert session.ended_at
    begun = [datetime.fromisoformat(trial.started_at) for trial in run.trials]
    end = datetime.fromisoformat(session.ended_at)
    idle_s = SETTLE_S + (session.idle["after"].duration_s or 0.0)
    ends = [*begun[1:], end - timedelta(seconds=idle_s)]
    lines = []
    points = set()
    for trial, start, ended in zip(run.trials, begun, ends, strict=True):
        schedule.add(trial)
        left.add(trial, (ended - start).total_seconds())
        points.add(trial.point)
        lines.append((len(points), left.left_s(schedule.remaining(), idle_s), (end - ended).total_seconds()))
    assert len(points) == 11
    assert median_error(iter(lines)) <= 0.3


def test_nothing_is_left_after_the_last_trial() -> None:
    *_, (_, foretold_s, true_s) = simulated(SHAPES["flat"], PlanOptions(), 0)
    assert (foretold_s, true_s) == (0, 0)


def test_requests_fill_a_window_and_fit_into_the_longest() -> None:
    assert repeats(10.0, 3.0) == 4
    assert repeats(10.0, 3.0, max_window_s=11.0) == 3
    assert repeats(0.0, 3.0) == 1
    assert repeats(1.0, 3.0, max_window_s=2.0) == 1


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (40, "40 s"), (200, "3 min"), (9000, "2.5 h")])
def test_durations_are_spelled(seconds: float, text: str) -> None:
    assert spell(seconds) == text
