"""Further processes of clients: ``python -m harness.measuring.load_process BACKEND``, and the parent's handle on one.

Parent and child exchange one JSON object a line. The parent begins with ``{"description", "plan", "members",
"group"}``, then says ``{"do": "run"}``, as often as needed ``{"do": "stop_at", "at": ns}`` or ``{"do":
"spread_again", "at": spread}``, and ``{"do": "read"}``. The child says ``{"ready": true}`` once its connections are
open, calls the pacer by ``{"hears": "busy" | "round" | "idle", "with": […]}``, says ``{"drained": true}`` after its
last request, answers ``read`` with ``{"stamps", "cpu_s", "stalled_s"}``, and says ``{"failed": reason}`` where
something goes wrong. It dies with its parent.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO, cast

import numpy as np

import backends
from backends.base import BackendError, ServingBackend
from harness.core.processes import (
    die_with_parent,
    module_command,
    module_environment,
    private_stdout,
    read_messages,
)
from harness.measuring.client_group import ClientGroup, HearsClients
from harness.measuring.loop_message import stamps_from_message, stamps_message
from harness.measuring.pacing import ClosedLoopPlan
from harness.measuring.undelayed import collector_off
from harness.runs.load_stamps import PER_REQUEST, LoopStamps

_LONGEST_LINE = 1 << 30


class LoadProcess:
    """Clients of a closed loop in a process of their own; an async context manager, at whose end it is gone."""

    def __init__(
        self,
        backend: str,
        description: Mapping[str, Any],
        plan: ClosedLoopPlan,
        members: Sequence[int],
        pacer: HearsClients,
        group: int,
    ) -> None:
        self._command = module_command("harness.measuring.load_process", backend)
        # JSON has no infinity, and the limit is the pacer's business.
        told = asdict(plan) | {"last_start_s": 0.0}
        self._job = {"description": description, "plan": told, "members": list(members), "group": group}
        self._pacer = pacer
        self._process: Process | None = None

    async def __aenter__(self) -> LoadProcess:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, limit=_LONGEST_LINE, env=module_environment()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._started()
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def open(self) -> None:
        """Have it open its connections. Raises BackendError."""
        self._tell(self._job)
        await self._answer("ready")

    async def run(self) -> None:
        """Have it send requests, and pass on to the pacer what it says, until it has ended. Raises BackendError."""
        self._tell({"do": "run"})
        await self._answer("drained")

    async def read(self) -> tuple[LoopStamps, float, float]:
        """The stamps of its requests, the CPU time that they took there and its stalls, in s. Raises BackendError."""
        self._tell({"do": "read"})
        answer = await self._answer("stamps")
        return stamps_from_message(answer["stamps"]), answer["cpu_s"], answer["stalled_s"]

    def stop_at(self, deadline_ns: int) -> None:
        """See ``PacedClients``."""
        self._tell({"do": "stop_at", "at": deadline_ns})

    def spread_again(self, spread: int) -> None:
        """See ``PacedClients``."""
        self._tell({"do": "spread_again", "at": spread})

    def _started(self) -> Process:
        assert self._process is not None
        return self._process

    def _tell(self, message: dict[str, Any]) -> None:
        stdin = self._started().stdin
        assert stdin is not None
        stdin.write(json.dumps(message).encode() + b"\n")

    async def _answer(self, key: str) -> dict[str, Any]:
        stdout = self._started().stdout
        assert stdout is not None
        while line := await stdout.readline():
            message: dict[str, Any] = json.loads(line)
            if key in message:
                return message
            if "failed" in message:
                raise BackendError(message["failed"])
            getattr(self._pacer, message["hears"])(*message["with"])
        raise BackendError(f"a client process ended by itself, with code {await self._started().wait()}")


def joined(parts: Sequence[LoopStamps]) -> LoopStamps:
    """The stamps of several processes as one, in the order of their starts."""
    names = dict.fromkeys(name for part in parts for name in part.said)
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in PER_REQUEST}
    order = np.argsort(columns["start_ns"], kind="stable")
    pieces = columns["pieces"]
    first = np.cumsum(pieces) - pieces
    rows = [np.arange(first[row], first[row] + pieces[row]) for row in order]
    piece = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    absent = {id(part): np.full(len(part), math.nan) for part in parts}
    return LoopStamps(
        **{name: values[order] for name, values in columns.items()},
        piece_ns=np.concatenate([part.piece_ns for part in parts])[piece],
        piece_tokens=np.concatenate([part.piece_tokens for part in parts])[piece],
        said={name: np.concatenate([part.said.get(name, absent[id(part)]) for part in parts])[order] for name in names},
    )


class _Parent:
    """The child's two pipes; passes on what the pacer is to hear."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def say(self, message: dict[str, Any]) -> None:
        self._stream.write(json.dumps(message).encode() + b"\n")

    def busy(self, group: int, spread: int, since_ns: int) -> None:
        self.say({"hears": "busy", "with": [group, spread, since_ns]})

    def round(self, group: int, spread: int, now_ns: int, starts_ns: Sequence[int], length_s: float) -> None:
        self.say({"hears": "round", "with": [group, spread, now_ns, list(starts_ns), length_s]})

    def idle(self) -> None:
        self.say({"hears": "idle", "with": []})


async def _serve(backend: ServingBackend, parent: _Parent) -> None:
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(message: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(inbox.put_nowait, message)

    threading.Thread(target=read_messages, args=(put,), daemon=True).start()
    job = await inbox.get()
    client = backend.client(job["description"])
    group = ClientGroup(client, ClosedLoopPlan(**job["plan"]), job["members"], parent, job["group"])
    try:
        await group.open()
        parent.say({"ready": True})
        await inbox.get()
        told = asyncio.ensure_future(_obey(group, inbox))
        with collector_off():
            cpu_s = -time.process_time()
            await group.run()
            cpu_s += time.process_time()
        parent.say({"drained": True})
        await told
        parent.say({"stamps": stamps_message(group.read()), "cpu_s": cpu_s, "stalled_s": group.stalls.seconds})
    except BackendError as error:
        parent.say({"failed": str(error)})
    finally:
        await client.close()
    await asyncio.Event().wait()


async def _obey(group: ClientGroup, inbox: asyncio.Queue[dict[str, Any]]) -> None:
    """Do what the pacer says, until the answers are to be read."""
    orders: dict[str, Callable[[int], None]] = {"stop_at": group.stop_at, "spread_again": group.spread_again}
    while (message := await inbox.get())["do"] != "read":
        orders[message["do"]](message["at"])


def main() -> None:
    """Run the clients that the parent names, and wait for its end of the pipe to close."""
    die_with_parent()
    parent = _Parent(private_stdout())
    asyncio.run(_serve(cast(ServingBackend, backends.create(sys.argv[1])), parent))


if __name__ == "__main__":
    main()
