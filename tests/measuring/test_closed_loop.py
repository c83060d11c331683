"""The closed loop: who is busy when, phases that stay spread, what counts, and what becomes of a failed request.

Most of it runs in virtual time against a server of a known model; the rest against the stub, over real sockets.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest

from backends.base import BackendError, Config, ServingBackend
from harness.measuring.client_group import ClientGroup
from harness.measuring.closed_loop import Edges, processes_needed, run_closed_loop
from harness.measuring.load_process import joined
from harness.measuring.loop_message import run_from_message, run_message
from harness.measuring.pacing import MOST_SPREADS, ClosedLoopPlan, Pacer
from harness.measuring.worker_process import TrialFailed, WorkerProcess
from harness.runs.load_figures import LoadFigures, doubts, load_figures
from harness.runs.load_stamps import LoopRun, busy_window
from tests.helpers import ROOT, environment, install_guest
from tests.measuring.simulated_server import Client, Server, VirtualLoop, run_virtually
from tests.measuring.stub_backend import StubBackend

PLAN = ClosedLoopPlan(input_tokens=40, output_tokens=32, concurrency=4, min_window_s=0.0)


def closed_loop(plan: ClosedLoopPlan, groups: int = 1, edges: list[str] | None = None, **server: Any) -> LoopRun:
    """A loop in virtual time, over one group of clients or several."""
    passed = [] if edges is None else edges

    async def main(loop: VirtualLoop) -> LoopRun:
        simulated = Server(loop, **server)
        parts: list[ClientGroup] = []
        pacer = Pacer(plan, parts, lambda: passed.append("all busy"), lambda: passed.append("one idle"))
        for group in range(groups):
            members = range(plan.concurrency)[group::groups]
            parts.append(ClientGroup(Client(simulated), plan, members, pacer, group, loop.clock))
            await parts[-1].open()
        pacer.begin(loop.clock())
        await asyncio.gather(*(part.run() for part in parts))
        stamps = joined([part.read() for part in parts])
        assert len(set(simulated.numbers)) == len(simulated.numbers) == len(stamps)
        return LoopRun("closed loop", plan.concurrency, stamps, busy_window(stamps), 0.0, groups, pacer.spreads)

    return run_virtually(main)


def figures(plan: ClosedLoopPlan, **server: Any) -> LoadFigures:
    return load_figures(closed_loop(plan, **server))


@pytest.mark.parametrize("c", [1, 2, 4])
def test_phases_stay_spread_over_twenty_windows(c: int) -> None:
    found = [figures(replace(PLAN, concurrency=c, trial=trial)) for trial in range(20)]
    runtimes = [one.runtime_s for one in found]
    assert np.std(runtimes, ddof=1) / np.mean(runtimes) < 0.01
    for one in found:
        assert one.in_flight_mean == pytest.approx(c, rel=1e-6)
        assert one.in_flight_max == c
        assert one.spreads == 0
        assert doubts(one) == []
        assert c == 1 or (one.coherence is not None and one.coherence < 0.3), one


def test_a_request_costs_its_share_of_the_steps() -> None:
    """Of c requests spread over each other each takes its steps, and the prefills of the others meanwhile."""
    c, (m, n) = 8, (PLAN.input_tokens, PLAN.output_tokens)
    found = figures(replace(PLAN, concurrency=c, min_window_s=30.0))
    steps = n * 0.010 + c * m * 0.0005 + 0.001 * (n - 1) * (c - 1)
    assert found.runtime_s == pytest.approx(steps, rel=0.05)
    assert found.requests / found.window_s == pytest.approx(c / found.runtime_s)


@pytest.mark.parametrize("c", [2, 3, 7])
def test_first_requests_have_every_share_of_the_output_and_do_not_count(c: int) -> None:
    run = closed_loop(replace(PLAN, concurrency=c))
    first = [run.stamps.output_tokens[run.stamps.client == client][0] for client in range(c)]
    assert sorted(first) == [math.ceil((i + 1) / c * PLAN.output_tokens) for i in range(c)]
    assert run.stamps.counted.sum() == len(run.stamps) - c
    assert (run.stamps.output_tokens[run.stamps.counted] == PLAN.output_tokens).all()
    assert run.window_ns[0] == max(
        run.stamps.start_ns[(run.stamps.client == client) & run.stamps.counted].min() for client in range(c)
    )


def test_short_outputs_have_at_least_one_token_in_the_ramp() -> None:
    run = closed_loop(replace(PLAN, concurrency=6, output_tokens=2))
    assert sorted(run.stamps.output_tokens[~run.stamps.counted]) == [1, 1, 1, 2, 2, 2]


def test_phases_are_drawn_anew_for_each_trial_and_each_seed() -> None:
    plans = [replace(PLAN, concurrency=8, trial=trial, seed=seed) for trial in range(4) for seed in range(2)]
    drawn = [tuple(plan.first_output_tokens(0)) for plan in plans]
    assert len(set(drawn)) == 8
    assert drawn == [tuple(plan.first_output_tokens(0)) for plan in plans], "and the same for the same trial"


@pytest.mark.parametrize(
    ("c", "lengths", "min_window_s"), [(1, 3.0, 0.0), (4, 3.0, 0.0), (4, 1.0, 0.0), (2, 3.0, 20.0)]
)
def test_windows_last_some_lengths_of_a_request_and_as_long_as_asked(
    c: int, lengths: float, min_window_s: float
) -> None:
    found = figures(replace(PLAN, concurrency=c, lengths=lengths, min_window_s=min_window_s))
    assert found.e2e_s is not None
    least_s = max(min_window_s, 0.99 * lengths * found.e2e_s.mean_s)
    assert least_s <= found.window_s <= least_s + 1.2 * found.e2e_s.mean_s


def test_no_request_begins_after_the_last_start_but_each_client_has_one() -> None:
    late = closed_loop(replace(PLAN, min_window_s=100.0, last_start_s=3.0))
    assert 2.0 < (late.stamps.start_ns.max() - late.begun_ns) / 1e9 <= 3.0
    at_once = closed_loop(replace(PLAN, min_window_s=100.0, last_start_s=0.0))
    counted = at_once.stamps.among(at_once.stamps.counted)
    assert set(counted.client) == {0, 1, 2, 3}
    assert counted.start_ns.max() == at_once.window_ns[0], "none once all are busy"
    assert load_figures(at_once).requests > 0.0


def test_edges_are_passed_once_each_in_order() -> None:
    edges: list[str] = []
    closed_loop(PLAN, edges=edges)
    assert edges == ["all busy", "one idle"]


def test_clients_thrown_into_step_are_spread_again() -> None:
    edges: list[str] = []
    run = closed_loop(replace(PLAN, min_window_s=8.0), edges=edges, hiccup_s=6.0)
    found = load_figures(run)
    assert found.spreads == run.spreads == 1
    assert found.coherence is not None
    assert found.coherence < 0.3
    assert edges == ["all busy", "all busy", "one idle"]
    uncounted = run.stamps.output_tokens[~run.stamps.counted]
    assert sorted(uncounted[uncounted < PLAN.output_tokens]) == sorted([8, 16, 24] * 2)
    assert found.ramp_s > 6.0, "what came before is no part of the window"
    assert doubts(found) == []


def test_a_server_that_brings_clients_into_step_is_measured_as_it_is() -> None:
    found = figures(replace(PLAN, min_window_s=5.0), static=True)
    assert found.spreads == MOST_SPREADS
    assert found.coherence is not None
    assert found.coherence > 0.9
    assert found.window_s >= 5.0
    assert any("in step" in doubt for doubt in doubts(found))


@pytest.mark.parametrize("groups", [2, 3])
def test_several_groups_of_clients_act_as_one(groups: int) -> None:
    plan = replace(PLAN, concurrency=7)
    apart, together = closed_loop(plan, groups), closed_loop(plan)
    assert apart.window_ns[1] - apart.window_ns[0] == pytest.approx(
        together.window_ns[1] - together.window_ns[0], rel=0.2
    )
    assert load_figures(apart).runtime_s == pytest.approx(load_figures(together).runtime_s, rel=0.01)
    assert load_figures(apart).whole_requests > 0
    spread = load_figures(closed_loop(replace(plan, min_window_s=12.0), groups, hiccup_s=4.0))
    assert spread.spreads == 1
    assert spread.coherence is not None
    assert spread.coherence < 0.35


def test_a_failed_request_ends_the_loop_with_its_reason_and_how_many_had_succeeded() -> None:
    with pytest.raises(BackendError, match=r"429: too many requests \(request 17 of the loop; 16 had succeeded\)"):
        closed_loop(replace(PLAN, concurrency=1, min_window_s=60.0), fails_at=16)


def test_one_process_has_so_many_clients_and_a_core_is_left_to_others() -> None:
    assert [processes_needed(c, 16) for c in (1, 128, 129, 1000, 10_000)] == [1, 1, 2, 8, 15]
    assert processes_needed(1000, 2) == processes_needed(1000, 1) == 1
    assert processes_needed(64, 16, cpu=0.7, processes=1) == 2
    assert processes_needed(64, 16, cpu=0.7, processes=2) == 2, "it was enough"


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[str]:
    """A stub server; ``request.param`` has its options."""
    options = getattr(request, "param", ["--ttft", "0.02", "--tpot", "0.002"])
    command = [sys.executable, "-m", "tests.stub_server", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        process.kill()


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend ``guest``: the stub's, in this process and in those that it starts."""
    install_guest(
        tmp_path,
        "joulebench.backends",
        "guest_server",
        "from tests.measuring.stub_backend import StubBackend\ncreate = StubBackend\n",
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))


SMALL = ClosedLoopPlan(8, 16, concurrency=4, min_window_s=0.3)


def over_sockets(url: str, plan: ClosedLoopPlan, processes: int = 1, edges: Edges = Edges()) -> LoopRun:
    return run_closed_loop(cast(ServingBackend, StubBackend(url)), "guest", plan, edges, processes)


def test_a_loop_over_sockets_measures_what_the_stub_takes(stub: str) -> None:
    passed: list[str] = []
    names = ("begins", "all_busy", "one_idle", "ended")
    edges = Edges(**{name: lambda name=name: passed.append(name) for name in names})  # type: ignore[misc]
    run = over_sockets(stub, SMALL, edges=edges)
    assert passed == list(names)
    found, stamps = load_figures(run), run.stamps
    # What a busy machine adds is no fault of the loop: the best requests show what it does.
    assert (stamps.first_token_ns - stamps.start_ns).min() == pytest.approx(20e6, abs=2e6)
    assert (stamps.end_ns - stamps.start_ns)[stamps.counted].min() == pytest.approx(50e6, abs=4e6)
    assert found.window_s >= 0.25
    assert found.in_flight_mean > 3.0
    assert set(found.said_s) >= {"prompt_s", "predicted_s"}
    assert 0.0 < found.client_cpu < 1.0
    assert found.server.readings >= 1
    assert found.server.grown("reads_total") == found.server.readings + 1


def test_further_processes_share_the_loop_and_are_gone_after_it(stub: str, guest: None) -> None:
    found = load_figures(over_sockets(stub, replace(SMALL, concurrency=6), processes=2))
    assert found.client_processes == 2
    assert found.in_flight_max == 6
    assert found.in_flight_mean > 4.0
    assert found.client_cpu > 0.0
    assert load_processes() == []


def test_clients_that_something_keeps_from_the_processor_say_so(stub: str, guest: None) -> None:
    run = over_sockets(stub, SMALL, edges=Edges(all_busy=lambda: time.sleep(0.4)))
    assert 0.35 < run.client_stalled_s < (run.ended_ns - run.begun_ns) / 1e9
    assert run_from_message(run_message(run)).client_stalled_s == run.client_stalled_s
    assert any("kept from the processor" in doubt for doubt in doubts(load_figures(run)))
    still = replace(run, client_stalled_s=0.0)
    assert not any("kept from the processor" in doubt for doubt in doubts(load_figures(still)))


def test_stalls_of_a_client_process_are_told(stub: str, guest: None) -> None:
    def stop_and_go_on() -> None:
        (first, *_) = load_processes()
        first.suspend()
        threading.Timer(0.4, first.resume).start()

    run = over_sockets(stub, SMALL, processes=2, edges=Edges(all_busy=stop_and_go_on))
    assert run.client_stalled_s > 0.35


def load_processes() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(True) if "harness.measuring.load_process" in each.cmdline()]


def test_a_client_process_that_is_killed_is_an_error(stub: str, guest: None) -> None:
    def kill() -> None:
        os.kill(load_processes()[0].pid, signal.SIGKILL)

    with pytest.raises(BackendError, match="client process ended by itself"):
        over_sockets(stub, replace(SMALL, min_window_s=30.0), 2, Edges(all_busy=kill))
    assert load_processes() == []


@pytest.mark.parametrize("stub", [["--fault", "429", "--fault-from", "6"]], indirect=True)
def test_an_error_in_a_client_process_comes_back(stub: str, guest: None) -> None:
    with pytest.raises(BackendError, match="answered 429"):
        over_sockets(stub, replace(SMALL, concurrency=2, min_window_s=30.0), 2)


@pytest.mark.parametrize("stub", [["--fault", "short", "--fault-from", "6"]], indirect=True)
def test_an_answer_of_another_size_is_found_after_the_loop(stub: str) -> None:
    with pytest.raises(BackendError, match=r"\(request \d+ of \d+\)"):
        over_sockets(stub, SMALL)


@pytest.fixture
def worker(tmp_path: Path, guest: None) -> Iterator[WorkerProcess]:
    process = WorkerProcess("guest", tmp_path / "log")
    yield process
    process.close()


LOOP = {"input_tokens": 8, "output_tokens": 16, "concurrency": 2, "min_window_s": 0.2, "seed": 0, "trial": 1}


def ask(worker: WorkerProcess, at_edge: Any, **message: Any) -> dict[str, Any]:
    answer: dict[str, Any] = worker.run(20.0, at_edge, **message)["loop"]
    return answer


def test_the_worker_answers_with_a_loop_and_says_its_edges(stub: str, worker: WorkerProcess) -> None:
    worker.load(Config("stub", url=stub), 30.0)
    edges_ns: list[int] = []
    loops = [ask(worker, lambda: edges_ns.append(time.monotonic_ns()), do="closed_loop", **LOOP) for _ in range(2)]
    first, second = map(run_from_message, loops)
    begins, all_busy, one_idle, ended = edges_ns[:4]
    assert begins <= first.begun_ns < all_busy
    assert abs(all_busy - first.window_ns[0]) < 50e6
    assert abs(one_idle - first.window_ns[1]) < 50e6
    assert first.ended_ns <= ended
    assert not set(first.stamps.number) & set(second.stamps.number), "no prompt comes twice"
    assert loops[0]["prepared"]["compile_s"] is None


@pytest.mark.parametrize("stub", [["--fault", "429", "--fault-from", "16"]], indirect=True)
def test_a_server_that_refuses_costs_a_trial_and_no_worker(stub: str, worker: WorkerProcess) -> None:
    worker.load(Config("stub", url=stub), 30.0)
    for _ in range(2):
        with pytest.raises(TrialFailed, match="429") as caught:
            ask(worker, lambda: None, do="closed_loop", **LOOP | {"min_window_s": 20.0})
        assert caught.value.status == "error"
        assert worker.alive


def test_client_processes_end_with_a_worker_that_is_killed(stub: str, worker: WorkerProcess) -> None:
    worker.load(Config("stub", url=stub), 30.0)
    clients: list[psutil.Process] = []

    def kill() -> None:
        if not clients and load_processes():
            clients.extend(load_processes())
            os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(TrialFailed, match="killed by SIGKILL"):
        worker.run(20.0, kill, do="closed_loop", **LOOP | {"min_window_s": 20.0, "processes": 2})
    assert len(clients) == 2
    gone, alive = psutil.wait_procs(clients, timeout=10.0)
    assert (len(gone), alive) == (2, [])


@pytest.mark.parametrize("stub", [["--fault", "hang", "--fault-from", "5"]], indirect=True)
def test_a_server_that_hangs_is_out_of_time(stub: str, worker: WorkerProcess) -> None:
    worker.load(Config("stub", url=stub), 30.0)
    with pytest.raises(TrialFailed, match="no answer within 1 s") as caught:
        worker.run(1.0, do="closed_loop", **LOOP)
    assert caught.value.status == "timeout"
    assert not worker.alive
