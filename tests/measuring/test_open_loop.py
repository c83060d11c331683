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

from backends.base import BackendError, ServingBackend
from harness.core.errors import UserError
from harness.core.sizes import Arrival, Point
from harness.measuring.closed_loop import Edges
from harness.measuring.open_loop import OpenLoopPlan, run_open_loop
from harness.measuring.open_plan import poisson_arrivals
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


def open_loop(url: str, plan: OpenLoopPlan, edges: Edges = Edges()) -> LoopRun:
    return run_open_loop(cast(ServingBackend, StubBackend(url)), plan, edges)


def test_poisson_arrivals_have_their_rate_and_no_memory() -> None:
    arrivals = poisson_arrivals(50.0, 200.0, [Point(8, 16)], seed=3)
    offsets = np.array([arrival.offset_s for arrival in arrivals])
    gaps = np.diff(offsets)
    assert len(arrivals) == pytest.approx(10_000, abs=4 * math.sqrt(10_000))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(gaps[1:], gaps[:-1])[0, 1] == pytest.approx(0.0, abs=0.05)
    assert 0.0 < offsets[0] < offsets[-1] < 200.0
    assert {(arrival.input_tokens, arrival.output_tokens) for arrival in arrivals} == {(8, 16)}
    assert arrivals == poisson_arrivals(50.0, 200.0, [Point(8, 16)], seed=3)
    assert arrivals != poisson_arrivals(50.0, 200.0, [Point(8, 16)], seed=4)


@pytest.mark.parametrize(("rate", "duration"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.inf), (1e9, 1e9)])
def test_rates_that_nobody_can_send_are_refused(rate: float, duration: float) -> None:
    with pytest.raises(UserError):
        poisson_arrivals(rate, duration, [Point(8, 16)])


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
    with pytest.raises(UserError):
        OpenLoopPlan(tuple(Arrival(offset, 8, 16) for offset in offsets), duration_s, warm_s)


def test_requests_leave_when_they_are_due(stub: str) -> None:
    plan = OpenLoopPlan(poisson_arrivals(80.0, 1.5, [Point(8, 16)], seed=1), duration_s=1.5, warm_s=0.4)
    passed: list[str] = []
    names = ("begins", "all_busy", "one_idle", "ended")
    edges: Any = {name: lambda name=name: passed.append(name) for name in names}
    run = open_loop(stub, plan, Edges(**edges))
    assert passed == list(names)
    assert len(run.stamps) == len(plan.arrivals)
    found = load_figures(run, LatencyLimits(e2e_s=1.0))
    inside = sum(arrival.offset_s >= 0.4 for arrival in plan.arrivals)
    assert found.arrivals is not None
    assert found.whole_requests == inside
    assert found.arrivals.offered_per_s == pytest.approx(inside / 1.1)
    assert found.arrivals.goodput == 1.0
    assert found.lateness_s is not None
    assert found.lateness_s.p50_s < 0.003
    assert found.ttft_s is not None
    assert found.ttft_s.p50_s == pytest.approx(0.020, abs=0.005)
    assert found.arrivals.ttft_from_due_s is not None
    assert found.arrivals.ttft_from_due_s.mean_s == pytest.approx(found.ttft_s.mean_s + found.lateness_s.mean_s)
    assert found.in_flight_mean == pytest.approx(80 * 0.05, rel=0.5)
    assert (run.stamps.start_ns >= run.stamps.due_ns).all()
    assert found.server.readings >= 1


def test_a_trace_keeps_its_own_times_and_sizes(stub: str) -> None:
    sizes = [(0.0, 4, 3), (0.1, 30, 1), (0.1, 8, 9), (0.35, 5, 2)]
    run = open_loop(stub, OpenLoopPlan(tuple(Arrival(*size) for size in sizes), duration_s=0.36))
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
    run = open_loop(stub, OpenLoopPlan((Arrival(0.0, 4, 8), *arrivals), duration_s=0.3))
    assert run.concurrency >= 70
    late = tuple(Arrival(0.01 * k, 4, 200) for k in range(60))
    run = open_loop(stub, OpenLoopPlan(late, duration_s=0.6))
    busy: dict[int, list[tuple[int, int]]] = {}
    for client, start, end in zip(
        *(column.tolist() for column in (run.stamps.client, run.stamps.start_ns, run.stamps.end_ns)), strict=True
    ):
        busy.setdefault(client, []).append((start, end))
    assert all(end <= start for spans in busy.values() for (_, end), (start, _) in pairwise(sorted(spans)))
    assert load_figures(run).arrivals is not None


@pytest.mark.parametrize("stub", [["--ttft", "0.1", "--slots", "2"]], indirect=True)
def test_a_server_that_cant_keep_up_is_seen(stub: str) -> None:
    plan = OpenLoopPlan(poisson_arrivals(60.0, 0.8, [Point(8, 1)], seed=2), duration_s=0.8)
    found = load_figures(open_loop(stub, plan), LatencyLimits(ttft_s=0.15))
    assert found.arrivals is not None
    assert found.arrivals.saturated
    assert found.arrivals.achieved_per_s < 0.6 * found.arrivals.offered_per_s
    assert found.arrivals.goodput is not None
    assert found.arrivals.goodput < 0.5
    assert found.drain_s > 0.5


@pytest.mark.parametrize("stub", [["--fault", "500", "--fault-from", "10"]], indirect=True)
def test_a_failed_request_ends_the_loop_at_once(stub: str) -> None:
    plan = OpenLoopPlan(tuple(Arrival(0.01 * k, 8, 2) for k in range(3000)), duration_s=30.0)
    with pytest.raises(BackendError, match=r"answered 500.*\(request 11 of the loop; 10 had succeeded\)"):
        open_loop(stub, plan)
