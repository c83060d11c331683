"""The closed loop: who is busy when, phases that stay spread, what counts, and what becomes of a failed request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.measuring.client_group import ClientGroup
from harness.measuring.pacing import ClosedLoopPlan, Pacer
from harness.runs.load_figures import LoadFigures, load_figures
from harness.runs.load_stamps import LoopRun, busy_window
from tests.measuring.simulated_server import Client, Server, VirtualLoop, run_virtually

PLAN = ClosedLoopPlan(input_tokens=40, output_tokens=32, concurrency=4, min_window_s=0.0)


def closed_loop(plan: ClosedLoopPlan, groups: int = 1, **server: object) -> LoopRun:
    """A loop in virtual time, over one group of clients or several."""

    async def main(loop: VirtualLoop) -> LoopRun:
        simulated = Server(loop, **server)  # type: ignore[arg-type]
        parts: list[ClientGroup] = []
        pacer = Pacer(plan, parts)
        for group in range(groups):
            members = range(plan.concurrency)[group::groups]
            parts.append(ClientGroup(Client(simulated), plan, members, pacer, group, loop.clock))
            await parts[-1].open()
        pacer.begin(loop.clock())
        tasks = [loop.create_task(part.run()) for part in parts]
        for task in tasks:
            await task
        assert len(parts) == 1, "several are joined elsewhere"
        stamps = parts[0].read()
        return LoopRun("closed loop", plan.concurrency, stamps, busy_window(stamps), 0.0, 1, pacer.spreads)

    return run_virtually(main)


def figures(plan: ClosedLoopPlan, **server: object) -> LoadFigures:
    return load_figures(closed_loop(plan, **server))


@pytest.mark.parametrize("c", [1, 2, 3, 4, 16])
def test_phases_stay_spread_over_twenty_windows(c: int) -> None:
    found = [figures(replace(PLAN, concurrency=c, trial=trial)) for trial in range(20)]
    runtimes = [one.runtime_s for one in found]
    assert np.std(runtimes, ddof=1) / np.mean(runtimes) < 0.01
    for one in found:
        assert one.in_flight_mean == pytest.approx(c, rel=1e-6)
        assert one.in_flight_max == c
        assert c == 1 or (one.coherence is not None and one.coherence < 0.3), one
