"""Runs at several concurrencies, as they would be recorded, whose costs are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness.core.sizes import Point
from harness.energy.attribution import EnergyFigure, EnergyReport
from harness.runs.load_figures import ArrivalFigures, LatencyLimits, LoadFigures, Percentiles
from harness.runs.records import RUN_FILE, TRIALS_FILE
from harness.runs.schema import Trial
from tests.helpers import ROOT

SIZES = ((8, 32), (32, 32), (128, 32), (32, 8), (32, 128))
SCATTER = (0.99, 1.0, 1.01)
"""Trials of each point, relative to its mean."""


def ttft_s(point: Point) -> float:
    return 0.01 + 1e-4 * point.input_tokens * (1 + 0.3 * (point.concurrency - 1))


def tpot_s(point: Point) -> float:
    return 0.005 + 0.0006 * (point.concurrency - 1)


def runtime_s(point: Point) -> float:
    return ttft_s(point) + (point.output_tokens - 1) * tpot_s(point)


def energy_j(point: Point) -> float:
    """Of each request: a machine of 60 W, 10 W more for each request in flight."""
    return (60 + 10 * point.concurrency) * runtime_s(point) / point.concurrency


def write_run(
    directory: Path,
    concurrencies: Sequence[int] = (1, 2, 4, 8),
    *,
    served: bool = True,
    sizes: Sequence[tuple[int, int]] = SIZES,
    method: str | None = "counter",
    warnings: Sequence[str] = (),
) -> Path:
    """A run of every size at every concurrency, by a server or by batches; ``warnings`` mark its first trial each."""
    points = [Point(m, n, c) for m, n in sizes for c in concurrencies]
    trials = [_trial(i, point, scatter, served, method) for i, (point, scatter) in enumerate(_each(points))]
    content = json.loads((ROOT / "tests" / "data" / "run-first" / RUN_FILE).read_text())
    content["schema_version"] = 2
    content["plan"]["points"] = [list(asdict(point).values()) for point in points]
    content["backend"] |= {"concurrency": "closed loop" if served else "static batch"}
    if served:
        content["backend"]["name"] = "openai"
    for session in content["sessions"]:
        session.pop("plan", None)
    directory.mkdir()
    (directory / RUN_FILE).write_text(json.dumps(content))
    lines = [asdict(trial) for trial in trials]
    for line, warning in zip(lines, warnings, strict=False):
        line["warnings"] = [warning]
    (directory / TRIALS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def _each(points: Sequence[Point]) -> list[tuple[Point, float]]:
    return [(point, scatter) for point in points for scatter in SCATTER]


def _trial(number: int, point: Point, scatter: float, served: bool, method: str | None) -> Trial:
    m, n, c = point.input_tokens, point.output_tokens, point.concurrency
    runtime, prefill = scatter * runtime_s(point), scatter * ttft_s(point)
    joules = None if method is None else scatter * energy_j(point)
    decode_j = None if joules is None else joules * (1 - prefill / runtime)
    total = EnergyFigure(
        method,  # type: ignore[arg-type]
        joules,
        None if joules is None else 0.01 * joules,
        None if served or joules is None or decode_j is None else joules - decode_j,
        None if served or joules is None else 0.02 * joules,
        None if served else decode_j,
        None if served or joules is None else 0.02 * joules,
        None if joules is not None else "no power source",
    )
    return Trial(
        id=number,
        session=0,
        worker=0,
        purpose="measure",
        input_tokens=m,
        output_tokens=n,
        status="ok",
        started_at="2026-11-29T00:00:00.000+00:00",
        concurrency=c,
        repeats=4,
        requests=4.0 * c,
        window_s=4 * runtime,
        runtime_s=runtime,
        prefill_s=prefill,
        decode_s=runtime - prefill,
        output_tokens_produced=n,
        energy=EnergyReport({} if joules is None else {"cpu": total}, total),
        load=_load(point, scatter) if served else None,
    )


def _load(point: Point, scatter: float) -> LoadFigures:
    m, n, c = point.input_tokens, point.output_tokens, point.concurrency
    return LoadFigures(
        kind="closed loop",
        concurrency=c,
        window_s=4 * scatter * runtime_s(point),
        ramp_s=0.1,
        drain_s=0.1,
        requests=4.0 * c,
        input_tokens=4.0 * c * m,
        output_tokens=4.0 * c * n,
        whole_requests=3 * c,
        all_requests=5 * c,
        in_flight_mean=float(c),
        in_flight_max=c,
        prefill_mean=c * ttft_s(point) / runtime_s(point),
        prefill_max=c,
        lateness_s=_around(1e-4),
        client_cpu=0.02,
        client_processes=1,
        ttft_s=_around(scatter * ttft_s(point)),
        tpot_s=_around(scatter * tpot_s(point)) if n > 1 else None,
        inter_token_s=_around(scatter * tpot_s(point)) if n > 1 else None,
        e2e_s=_around(scatter * runtime_s(point)),
        coherence=0.2 if c > 1 else None,
        cached_tokens_max=0,
    )


def _around(mean_s: float) -> Percentiles:
    return Percentiles(12, mean_s, 0.2 * mean_s, 0.95 * mean_s, 1.3 * mean_s, 1.6 * mean_s)


def open_loop(number: int, rate_per_s: float, achieved_per_s: float) -> Trial:
    """A trial of an open loop with Poisson arrivals of 32 in, 32 out."""
    point = Point(32, 32)
    arrivals = ArrivalFigures(
        offered_per_s=rate_per_s,
        achieved_per_s=achieved_per_s,
        ttft_from_due_s=_around(2 * ttft_s(point)),
        e2e_from_due_s=_around(2 * runtime_s(point)),
        open_growth=0.1,
        saturated=achieved_per_s < 0.9 * rate_per_s,
        limits=LatencyLimits(ttft_s=0.1),
        goodput=0.75,
        goodput_per_s=0.75 * rate_per_s,
    )
    load = {**vars(_load(point, 1.0)), "kind": "open loop", "in_flight_mean": 2.5, "arrivals": arrivals}
    base = vars(_trial(number, point, 1.0, True, "counter"))
    facts = {"purpose": "open loop", "rate_per_s": rate_per_s, "load": LoadFigures(**load), "requests": 120.0}
    return Trial(**{**base, **facts})
