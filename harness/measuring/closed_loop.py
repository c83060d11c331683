"""A closed loop: c clients, each with one request in flight at a server, in this process or spread over several."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from backends.base import BackendError, ServingBackend
from harness.measuring.client_group import ClientGroup
from harness.measuring.load_process import LoadProcess, joined
from harness.measuring.pacing import ClosedLoopPlan, Pacer
from harness.measuring.server_watch import ServerWatch, figures_now
from harness.measuring.undelayed import collector_off, quick_switches
from harness.runs.load_stamps import LoopRun, LoopStamps, ServerReadings, busy_window

CLIENTS_PER_PROCESS = 128
BUSY_PROCESS = 0.5
"""A client process that takes more than this share of a processor delays stamps: another one helps."""


@dataclass(frozen=True)
class Edges:
    """Who is told when the parts of a loop begin and end."""

    begins: Callable[[], None] = lambda: None
    """Right before the first request; the loop begins when it returns."""
    all_busy: Callable[[], None] = lambda: None
    """The window begins. Called again where it was given up because clients were in step."""
    one_idle: Callable[[], None] = lambda: None
    """The window has ended."""
    ended: Callable[[], None] = lambda: None
    """Right after the end of the last request."""


def processes_needed(concurrency: int, cores: int, cpu: float = 0.0, processes: int = 1) -> int:
    """Client processes for so many clients; one core at least is left to others.

    ``cpu`` is the share of a processor that ``processes`` took in an earlier loop like this: where that was too much
    for their stamps, one is added.
    """
    wanted = max(math.ceil(concurrency / CLIENTS_PER_PROCESS), processes + (cpu / processes > BUSY_PROCESS))
    return max(1, min(wanted, cores - 1, concurrency))


def run_closed_loop(
    backend: ServingBackend, name: str, plan: ClosedLoopPlan, edges: Edges = Edges(), processes: int = 1
) -> LoopRun:
    """Run a closed loop against the loaded server of a backend; ``name`` is what other processes create it by.

    Raises BackendError as soon as one request fails, or where the answers aren't what was asked for.
    """
    with quick_switches():
        return asyncio.run(_Loop(backend, name, plan, edges, processes).run())


class _Loop:
    """One closed loop, from opening its connections to reading its answers."""

    def __init__(self, backend: ServingBackend, name: str, plan: ClosedLoopPlan, edges: Edges, processes: int) -> None:
        self._backend = backend
        self._name = name
        self._plan = plan
        self._edges = edges
        self._processes = processes
        self._groups: list[ClientGroup | LoadProcess] = []
        self._watch = ServerWatch(backend)
        self._pacer = Pacer(plan, self._groups, self._window_begins, self._window_ends)

    async def run(self) -> LoopRun:
        async with AsyncExitStack() as stack:
            await self._make_groups(stack)
            await _all_or_none([group.open() for group in self._groups])
            before = figures_now(self._backend)
            with collector_off():
                self._edges.begins()
                cpu_s = -time.process_time()
                self._pacer.begin(time.monotonic_ns())
                async with self._watch:
                    await _all_or_none([group.run() for group in self._groups])
                    cpu_s += time.process_time()
                    self._edges.ended()
            after = figures_now(self._backend)
            stamps, others_cpu_s, stalled_s = await self._read()
        try:
            window_ns = busy_window(stamps)
        except ValueError as error:
            raise BackendError(str(error)) from None
        return LoopRun(
            kind="closed loop",
            concurrency=self._plan.concurrency,
            stamps=stamps,
            window_ns=window_ns,
            client_cpu_s=cpu_s + others_cpu_s,
            client_processes=len(self._groups),
            client_stalled_s=stalled_s,
            spreads=self._pacer.spreads,
            server=ServerReadings(before, tuple(self._watch.readings), after),
        )

    async def _make_groups(self, stack: AsyncExitStack) -> None:
        description = self._backend.client_description()
        everybody = range(self._plan.concurrency)
        if self._processes == 1:
            client = self._backend.client(description)
            stack.push_async_callback(client.close)
            self._groups.append(ClientGroup(client, self._plan, everybody, self._pacer))
            return
        for group in range(self._processes):
            members = everybody[group :: self._processes]
            process = LoadProcess(self._name, description, self._plan, members, self._pacer, group)
            self._groups.append(await stack.enter_async_context(process))

    def _window_begins(self) -> None:
        self._watch.start()
        self._edges.all_busy()

    def _window_ends(self) -> None:
        self._watch.stop()
        self._edges.one_idle()

    async def _read(self) -> tuple[LoopStamps, float, float]:
        """All stamps, the CPU time of other processes, and the stalls of the one that had most; in s.

        Raises BackendError.
        """
        [first, *_] = self._groups
        if isinstance(first, ClientGroup):
            return first.read(), 0.0, first.stalls.seconds
        parts = [await group.read() for group in self._groups if isinstance(group, LoadProcess)]
        stamps, cpu_s, stalled_s = zip(*parts, strict=True)
        return joined(stamps), sum(cpu_s), max(stalled_s)


async def _all_or_none(parts: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; where one raises the others are cancelled, and what it raised is raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
