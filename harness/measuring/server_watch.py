"""What a server says of itself while a loop's window lasts, read now and then beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from backends.base import BackendError, ServingBackend

_FIRST_AFTER_S = 0.05
_EVERY_S = 1.0


def figures_now(backend: ServingBackend) -> Mapping[str, float]:
    """What the server says now; empty where it can't be asked: requests tell whether it is there."""
    try:
        return backend.server_figures()
    except BackendError:
        return {}


class ServerWatch:
    """Reads the server's figures from ``start`` to ``stop``, inside ``async with``."""

    def __init__(self, backend: ServingBackend) -> None:
        self._backend = backend
        self._wake = asyncio.Event()
        self._reading = self._over = False
        self._task: asyncio.Task[None] | None = None
        self.readings: list[Mapping[str, float]] = []

    async def __aenter__(self) -> ServerWatch:
        self._task = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not cancelled: a thread that asks the server can't be, and another one must not ask meanwhile.
        self.stop()
        self._over = True
        assert self._task is not None
        await self._task

    def start(self) -> None:
        """Begin to read; what was read before is forgotten."""
        self.readings = []
        self._reading = True
        self._wake.set()

    def stop(self) -> None:
        """Read no more."""
        self._reading = False
        self._wake.set()

    async def _watch(self) -> None:
        pause_s = _FIRST_AFTER_S
        while not self._over:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s if self._reading else None)
                pause_s = _FIRST_AFTER_S
                continue
            readings = self.readings
            # In a thread: the server may be slow to answer, and the stamps of requests must not wait for it.
            said = await asyncio.to_thread(figures_now, self._backend)
            if said and self._reading:
                readings.append(said)
            pause_s = _EVERY_S
