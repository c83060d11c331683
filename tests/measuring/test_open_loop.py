"""The open loop: requests leave when they are due, whatever is in flight, and its figures say what became of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest

from backends.base import BackendError, InvalidConfig, ServingBackend
from harness.core.sizes import Arrival, Point
from harness.measuring.closed_loop import Edges
from harness.measuring.open_loop import DueRequests, run_open_loop, usual_duration_s
from harness.measuring.open_plan import OpenLoopPlan
from harness.runs.load_figures import LatencyLimits, load_figures
from harness.runs.load_stamps import LoopRun
from tests.helpers import ROOT, environment
from tests.measuring.stub_backend import StubBackend


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[str]:
    """A stub server; ``request.param`` has its options."""
    options = getattr(request, "param", ["--ttft", "0.02", "--tpot", "0.002"])
    command = [sys.executable, "-m", "tests.stub_server", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        process.kill()


def open_loop(url: str, plan: DueRequests, edges: Edges = Edges()) -> LoopRun:
    return run_open_loop(cast(ServingBackend, StubBackend(url)), plan, edges)


def poisson(rate_per_s: float, duration_s: float, size: Point, seed: int) -> tuple[Arrival, ...]:
    return OpenLoopPlan((rate_per_s,), duration_s, (size,)).arrivals(rate_per_s, seed)


@pytest.mark.parametrize(
    ("offsets", "duration_s", "warm_s"),
    [
        ((), 1.0, 0.0),
        ((1.0, 0.5), 2.0, 0.0),
        ((-1.0,), 2.0, 0.0),
        ((0.0,), 1.0, 1.0),
        ((0.0,), math.inf, 0.0),
        ((math.nan,), 1.0, 0.0),
    ],
)
def test_plans_that_make_no_sense_are_refused(offsets: tuple[float, ...], duration_s: float, warm_s: float) -> None:
    with pytest.raises(InvalidConfig):
        DueRequests(tuple(Arrival(offset, 8, 16) for offset in offsets), duration_s, warm_s)


def test_requests_leave_when_they_are_due(stub: str) -> None:
    plan = DueRequests(poisson(80.0, 1.5, Point(8, 16), 1), duration_s=1.5, warm_s=0.4)
    passed: list[str] = []
    names = ("begins", "all_busy", "one_idle", "ended")
    edges: Any = {name: lambda name=name: passed.append(name) for name in names}
    run = open_loop(stub, plan, Edges(**edges))
    assert passed == list(names)
    assert len(run.stamps) == len(plan.arrivals)
    found = load_figures(run, LatencyLimits(e2e_s=60.0))
    inside = sum(arrival.offset_s >= 0.4 for arrival in plan.arrivals)
    assert found.arrivals is not None
    assert found.whole_requests == inside
    assert found.arrivals.offered_per_s == pytest.approx(inside / 1.1)
    assert found.arrivals.goodput == 1.0
    assert found.lateness_s is not None
    assert found.ttft_s is not None
    # What a busy machine adds is no fault of the loop: the best requests show what it does.
    late_ns = run.stamps.start_ns - run.stamps.due_ns
    assert 0 <= late_ns.min() < 2e6
    assert (run.stamps.first_token_ns - run.stamps.start_ns).min() == pytest.approx(20e6, abs=2e6)
    assert found.arrivals.ttft_from_due_s is not None
    assert found.arrivals.ttft_from_due_s.mean_s == pytest.approx(found.ttft_s.mean_s + found.lateness_s.mean_s)
    assert found.in_flight_mean == pytest.approx(found.requests / 1.1 * found.runtime_s)
    assert found.server.readings >= 1


def test_a_trace_keeps_its_own_times_and_sizes(stub: str) -> None:
    sizes = [(0.0, 4, 3), (0.1, 30, 1), (0.1, 8, 9), (0.35, 5, 2)]
    run = open_loop(stub, DueRequests(tuple(Arrival(*size) for size in sizes), duration_s=0.36))
    stamps = run.stamps
    assert sorted(zip(stamps.input_tokens.tolist(), stamps.output_tokens.tolist(), strict=True)) == sorted(
        (m, n) for _, m, n in sizes
    )
    assert np.diff(stamps.due_ns).tolist() == [100_000_000, 0, 250_000_000]
    found = load_figures(run)
    assert 3.0 < found.requests < 4.0, "the last one is drained after the window"
    assert found.input_tokens + found.output_tokens < sum(m + n for _, m, n in sizes)
    assert found.drain_s > 0.0


def test_more_requests_than_connections_open_more_of_them(stub: str) -> None:
    arrivals = tuple(Arrival(0.1, 4, 8) for _ in range(70))
    run = open_loop(stub, DueRequests((Arrival(0.0, 4, 8), *arrivals), duration_s=0.3))
    assert run.concurrency >= 70
    late = tuple(Arrival(0.01 * k, 4, 200) for k in range(60))
    run = open_loop(stub, DueRequests(late, duration_s=0.6))
    busy: dict[int, list[tuple[int, int]]] = {}
    for client, start, end in zip(
        *(column.tolist() for column in (run.stamps.client, run.stamps.start_ns, run.stamps.end_ns)), strict=True
    ):
        busy.setdefault(client, []).append((start, end))
    assert all(end <= start for spans in busy.values() for (_, end), (start, _) in pairwise(sorted(spans)))
    assert load_figures(run).arrivals is not None


@pytest.mark.parametrize("stub", [["--ttft", "0.1", "--slots", "2"]], indirect=True)
def test_a_server_that_cant_keep_up_is_seen(stub: str) -> None:
    plan = DueRequests(poisson(60.0, 0.8, Point(8, 1), 2), duration_s=0.8)
    found = load_figures(open_loop(stub, plan), LatencyLimits(ttft_s=0.15))
    assert found.arrivals is not None
    assert found.arrivals.saturated
    assert found.arrivals.achieved_per_s < 0.6 * found.arrivals.offered_per_s
    assert found.arrivals.goodput is not None
    assert found.arrivals.goodput < 0.5
    assert found.drain_s > 0.5


@pytest.mark.parametrize("stub", [["--fault", "500", "--fault-from", "10"]], indirect=True)
def test_a_failed_request_ends_the_loop_at_once(stub: str) -> None:
    plan = DueRequests(tuple(Arrival(0.01 * k, 8, 2) for k in range(3000)), duration_s=30.0)
    with pytest.raises(BackendError, match=r"answered 500.*\(request 11 of the loop; 10 had succeeded\)"):
        open_loop(stub, plan)


def test_a_log_goes_on_for_a_mean_gap_after_its_last_request() -> None:
    assert usual_duration_s([Arrival(0.5 * k, 8, 2) for k in range(5)]) == pytest.approx(2.5)
    assert usual_duration_s([Arrival(0.0, 8, 2)]) == 1.0
