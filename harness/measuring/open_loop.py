"""An open loop: requests are sent when they are due, however many are in flight; for checking models under real load.

Requests before the window warm the server up and are not counted, those in flight at its end run to theirs. Each is
sent on a free connection. Where none is free more are opened, and the request is late: lateness is in the figures, as
are latencies from when requests were due.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import BackendError, Client, InvalidConfig, Request, ServingBackend
from harness.core.sizes import Arrival
from harness.measuring.client_group import after, stamps_of, told
from harness.measuring.closed_loop import Edges
from harness.measuring.server_watch import ServerWatch, figures_now
from harness.measuring.stalls import Stalls
from harness.measuring.undelayed import collector_off, quick_switches
from harness.runs.load_figures import most_open
from harness.runs.load_stamps import LoopRun, LoopStamps, ServerReadings

MOST_CONNECTIONS = 900
"""``select`` takes 1,024 files; its timers are exact to microseconds, those of ``epoll`` are rounded up to 1 ms."""
WARM_SHARE = 0.1
"""Part of a loop in which the server comes to its load, where nothing else is said."""
_FEWEST_CONNECTIONS = 32
_MOST_AT_FIRST = 256
_WRITTEN_FIRST_TOKENS = 2_000_000
"""Input tokens of the requests that are written before the loop begins; others when they are sent."""


@dataclass(frozen=True)
class DueRequests:
    """What an open loop is to do."""

    arrivals: tuple[Arrival, ...]
    """In the order of their times, which count from the start of the loop."""
    duration_s: float
    """The window ends so long after the loop began."""
    warm_s: float = 0.0
    """The window begins so long after the loop began."""
    seed: int = 0
    """Of the input tokens."""
    first_number: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidConfig for arrivals that nobody can keep, or a window without time."""
        offsets = [arrival.offset_s for arrival in self.arrivals]
        if not offsets or offsets != sorted(offsets) or offsets[0] < 0 or not all(map(math.isfinite, offsets)):
            raise InvalidConfig("an open loop needs at least one request, and their times in order from 0 s on")
        if not 0 <= self.warm_s < self.duration_s < math.inf:
            raise InvalidConfig(
                f"{self.duration_s:g} s of load leave no window after {self.warm_s:g} s of warming up; load it longer"
            )


def usual_duration_s(arrivals: Sequence[Arrival]) -> float:
    """How long a log of arrivals goes on: a mean gap beyond the last, so that this one counts like the others."""
    count, last_s = len(arrivals), arrivals[-1].offset_s if arrivals else 0.0
    return last_s * count / (count - 1) if count > 1 and last_s > 0 else last_s + 1.0


def run_open_loop(backend: ServingBackend, plan: DueRequests, edges: Edges = Edges()) -> LoopRun:
    """Run an open loop against the loaded server of a backend.

    Raises BackendError as soon as one request fails, or where the answers aren't what was asked for.
    """
    with quick_switches(), asyncio.Runner(loop_factory=_exact_loop) as runner:
        return runner.run(_OpenLoop(backend, plan, edges).run())


def _exact_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


@dataclass(frozen=True)
class _Place:
    """A connection, and its number among all of the loop."""

    client: Client
    connection: int
    number: int


class _OpenLoop:
    """One open loop, from opening its connections to reading its answers."""

    def __init__(self, backend: ServingBackend, plan: DueRequests, edges: Edges) -> None:
        self._backend = backend
        self._plan = plan
        self._edges = edges
        self._description = backend.client_description()
        self._clients = AsyncExitStack()
        self._watch = ServerWatch(backend)
        self._stalls = Stalls()
        self._requests = [Request(each.input_tokens, each.output_tokens, plan.seed) for each in plan.arrivals]
        self._free: asyncio.Queue[_Place] = asyncio.Queue()
        self._places = 0
        self._opening = False
        self._answered: list[tuple[int, _Place, Any]] = []

    async def run(self) -> LoopRun:
        async with self._clients:
            await self._open(_connections_at_first(self._plan))
            before = figures_now(self._backend)
            with collector_off():
                self._edges.begins()
                cpu_s, begun_ns = -time.process_time(), time.monotonic_ns()
                async with self._watch:
                    await self._send_all(begun_ns)
                    cpu_s += time.process_time()
                    self._edges.ended()
            server = ServerReadings(before, tuple(self._watch.readings), figures_now(self._backend))
            stamps = self._read(begun_ns)
        start_ns, end_ns = (begun_ns + round(s * 1e9) for s in (self._plan.warm_s, self._plan.duration_s))
        if stamps.shares(start_ns, end_ns).sum() <= 0.0:
            raise BackendError("no request was in flight while the window lasted; load it longer or at a higher rate")
        in_flight = most_open(stamps.start_ns, stamps.end_ns, begun_ns, int(stamps.end_ns.max()))
        return LoopRun(
            "open loop",
            in_flight,
            stamps,
            (start_ns, end_ns),
            cpu_s,
            client_processes=1,
            client_stalled_s=self._stalls.seconds,
            server=server,
        )

    async def _open(self, connections: int) -> None:
        """Open further connections, of a client of their own. Raises BackendError."""
        client = self._backend.client(self._description)
        self._clients.push_async_callback(client.close)
        await client.open(connections)
        if not self._places:
            tokens = 0
            for row, request in enumerate(self._requests):
                tokens += request.input_tokens
                if tokens > _WRITTEN_FIRST_TOKENS:
                    break
                client.get_ready(request, [self._plan.first_number + row])
        for place in range(connections):
            self._free.put_nowait(_Place(client, place, self._places + place))
        self._places += connections

    async def _send_all(self, begun_ns: int) -> None:
        """Send every request when it is due, and wait for all answers and for the window's end."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time() - (time.monotonic_ns() - begun_ns) / 1e9
        stalls = asyncio.ensure_future(self._stalls.watch())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass_edges(begun_s))
                for row, arrival in enumerate(self._plan.arrivals):
                    await asyncio.sleep(max(0.0, begun_s + arrival.offset_s - loop.time()))
                    tasks.create_task(self._exchange(row, tasks))
        except BaseExceptionGroup as failures:
            failed = failures.subgroup(BackendError)
            if failed is None:
                raise
            error = failed.exceptions[0]
            assert isinstance(error, BackendError)
            raise after(len(self._answered), error) from error
        finally:
            stalls.cancel()

    async def _pass_edges(self, begun_s: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(begun_s + self._plan.warm_s - loop.time())
        self._watch.start()
        self._edges.all_busy()
        await asyncio.sleep(begun_s + self._plan.duration_s - loop.time())
        self._watch.stop()
        self._edges.one_idle()

    async def _exchange(self, row: int, tasks: asyncio.TaskGroup) -> None:
        if self._free.empty() and not self._opening and self._places < MOST_CONNECTIONS:
            tasks.create_task(self._open_more())
        place = await self._free.get()
        answer = await place.client.send(place.connection, self._requests[row], self._plan.first_number + row)
        self._answered.append((row, place, answer))
        self._free.put_nowait(place)

    async def _open_more(self) -> None:
        self._opening = True
        await self._open(min(_FEWEST_CONNECTIONS, MOST_CONNECTIONS - self._places))
        self._opening = False

    def _read(self, begun_ns: int) -> LoopStamps:
        """The stamps of all requests, in the order of their starts. Raises BackendError."""
        replies = []
        for row, place, answer in self._answered:
            try:
                replies.append((place.client.read(answer), row, place))
            except BackendError as error:
                raise told(error, f"request {row + 1} of {len(self._requests)}") from error
        replies.sort(key=lambda each: each[0].start_ns)
        return stamps_of(
            [reply for reply, _, _ in replies],
            [begun_ns + round(self._plan.arrivals[row].offset_s * 1e9) for _, row, _ in replies],
            client=[place.number for _, _, place in replies],
            number=[self._plan.first_number + row for _, row, _ in replies],
            counted=[True] * len(replies),
        )


def _connections_at_first(plan: DueRequests) -> int:
    """As many as requests are due within any second, twice: requests that take up to 2 s find one open."""
    offsets = np.array([arrival.offset_s for arrival in plan.arrivals])
    busiest = int((np.searchsorted(offsets, offsets + 1.0) - np.arange(len(offsets))).max())
    return max(_FEWEST_CONNECTIONS, min(2 * busiest, _MOST_AT_FIRST))
