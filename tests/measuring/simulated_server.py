"""A server of a known model, its clients and a clock, all in memory: seconds of load pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backends.base import BackendError, Reply, Request

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in which time passes only when everybody waits, and then at once."""

    def __init__(self) -> None:
        super().__init__(_NeverWaits(self))
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def clock(self) -> int:
        return round(self.now_s * 1e9)


class _NeverWaits(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for something that never comes"
        self._loop.now_s += max(timeout, 0.0)
        return super().select(0)


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine that is made for a loop in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))


@dataclass
class _Flight:
    request: Request
    number: int
    start_ns: int
    done: asyncio.Future[None]
    token_ns: list[int] = field(default_factory=list)


@dataclass
class Server:
    """Steps like those of servers that batch continuously: each takes all requests that wait through their prefill and
    all others one token further. A step takes ``step_s``, ``row_s`` a request that decodes and ``input_s`` an input
    token.

    ``static``: it takes what waits only once everything it took has ended, so that requests are always in step.
    ``hiccup_s``: that long after its first request it does so once.
    """

    loop: VirtualLoop
    step_s: float = 0.010
    row_s: float = 0.001
    input_s: float = 0.0005
    static: bool = False
    hiccup_s: float | None = None
    fails_at: int | None = None
    """Number of the first request that is answered by an error."""
    waiting: list[_Flight] = field(default_factory=list)
    running: list[_Flight] = field(default_factory=list)
    engine: asyncio.Task[None] | None = None
    numbers: list[int] = field(default_factory=list)
    began_s: float = 0.0

    async def serve(self, request: Request, number: int) -> _Flight:
        self.began_s = self.began_s or self.loop.now_s
        flight = _Flight(request, number, self.loop.clock(), self.loop.create_future())
        self.numbers.append(number)
        if self.fails_at is not None and number >= self.fails_at:
            raise BackendError("the server answered 429: too many requests")
        self.waiting.append(flight)
        if self.engine is None or self.engine.done():
            self.engine = asyncio.ensure_future(self._steps())
        await flight.done
        return flight

    async def _steps(self) -> None:
        while self.waiting or self.running:
            started, self.waiting = ([], self.waiting) if self._holds() else (self.waiting, [])
            inputs = sum(flight.request.input_tokens for flight in started)
            await asyncio.sleep(self.step_s + self.row_s * len(self.running) + self.input_s * inputs)
            self.running += started
            for flight in self.running:
                flight.token_ns.append(self.loop.clock())
                if len(flight.token_ns) == flight.request.output_tokens:
                    flight.done.set_result(None)
            self.running = [flight for flight in self.running if not flight.done.done()]
            # Clients send their next requests before the next step begins.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _holds(self) -> bool:
        """Whether what waits must wait on."""
        began = self.hiccup_s is not None and self.loop.now_s >= self.began_s + self.hiccup_s
        if began and not self.running:
            self.hiccup_s = None
        return bool(self.running) and (self.static or began)


class Client:
    """A ``backends.base.Client`` of a ``Server``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.opened = 0
        self.busy: set[int] = set()
        self.ready: list[int] = []
        self.closed = False

    async def open(self, connections: int) -> None:
        self.opened = connections

    async def send(self, connection: int, request: Request, number: int) -> _Flight:
        assert connection < self.opened
        assert connection not in self.busy, "one request at a time on a connection"
        self.busy.add(connection)
        try:
            return await self._server.serve(request, number)
        finally:
            self.busy.discard(connection)

    def get_ready(self, request: Request, numbers: Sequence[int]) -> None:
        self.ready += numbers

    def read(self, answer: Any) -> Reply:
        flight: _Flight = answer
        stamps = tuple(flight.token_ns)
        said: Mapping[str, float] = {"prompt_s": (stamps[0] - flight.start_ns) / 1e9}
        size = (flight.request.input_tokens, len(stamps))
        return Reply(flight.start_ns, stamps, (1,) * len(stamps), stamps[-1], *size, cached_tokens=0, said=said)

    async def close(self) -> None:
        self.closed = True
