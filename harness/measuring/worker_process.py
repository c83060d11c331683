"""The parent's handle on the worker: start it, ask it, notice how it ends, leave no orphan."""

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends.base import MEMORY_WORDS, Config, Loaded, Model
from backends.openai.servers.server_log import LOG_VARIABLE, kernel_oom_kills, signal_name
from backends.openai.servers.supervisor import lives
from harness.core.processes import module_command, module_environment
from harness.runs.schema import Status
from harness.runs.store import SERVER_LOG_FILE

_ENDED_WITHIN_S = 45.0
"""Longer than a server's supervisor takes to end all of it."""
_LAST_WORDS_BYTES = 64 << 10
_ASSERTION = re.compile(r"GGML_ASSERT|GGML_ABORT|\bassert(ion)?\b.*fail|terminate called|what\(\):|: fatal error", re.I)
"""What a library says right before it aborts."""


class TrialFailed(Exception):
    """The worker could not do what it was asked; ``status`` and ``reason`` go into the record."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


Look = Callable[[], float | None]
"""Looks at a window while it runs. Returns in how many seconds to look again, or None once it may end."""


class LoadRefused(Exception):
    """The backend says that the configuration can't work here; the message names the remedy."""


class WorkerProcess:
    """One child process with one backend. Not reusable: after a failure that kills it, start another."""

    def __init__(self, backend: str, log: Path, on_progress: Callable[[str], None] = lambda said: None) -> None:
        self._on_progress = on_progress
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        self._oom_kills = kernel_oom_kills()
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                module_command("harness.measuring.worker", backend),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # Unbuffered: a message to a dead child fails when it is written, not when the pipe is closed.
                bufsize=0,
                env=module_environment() | {LOG_VARIABLE: str(log.with_name(SERVER_LOG_FILE))},
                # Ctrl-C is the parent's business: it decides what becomes of the child.
                start_new_session=True,
            )
        self._buffer = b""
        self._closed = False
        self._helpers: list[Any] = []
        """Processes that it started while it loaded: a server has them, and may outlive it for a moment."""

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child can be asked."""
        return self._process.poll() is None

    def resolve(self, config: Config, timeout_s: float) -> Model:
        """What ``load`` would load. Raises LoadRefused or TrialFailed."""
        return Model(**self._ask({"do": "resolve", "config": asdict(config)}, timeout_s)["model"])

    def load(self, config: Config, timeout_s: float) -> tuple[Loaded, dict[str, str]]:
        """Load the model; returns it and the backend's versions. Raises LoadRefused or TrialFailed."""
        answer = self._ask({"do": "load", "config": asdict(config)}, timeout_s)
        self._helpers = _descendants(self._process.pid)
        loaded = answer["loaded"]
        return Loaded(**{**loaded, "model": Model(**loaded["model"])}), answer["versions"]

    def run(
        self,
        timeout_s: float,
        at_edge: Callable[[], None] = lambda: None,
        look: Look | None = None,
        do: str = "run",
        **request: Any,
    ) -> dict[str, Any]:
        """Run one window or loop, see ``worker``; returns its answer. Raises TrialFailed, with status ``skipped`` where
        the backend refuses its size; after a timeout the child is dead.

        ``at_edge`` is called right before the first request begins and right after the last has ended, and where the
        window of a loop begins and ends. With ``look`` a window goes on until that wants no more, or it
        has as many requests as it may.
        """
        asked = {"do": do, **request} | ({"until_told": True} if look else {})
        try:
            return self._ask(asked, timeout_s, at_edge, look)
        except LoadRefused as refusal:
            raise TrialFailed("skipped", str(refusal)) from None

    def close(self) -> None:
        """End the child and everything it started, and wait for that; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        helpers = [*self._helpers, *_descendants(self._process.pid)]
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        # The next server needs the memory that this one holds.
        _await_end(helpers)

    def _ask(
        self,
        message: dict[str, Any],
        timeout_s: float,
        at_edge: Callable[[], None] = lambda: None,
        look: Look | None = None,
    ) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        self._say(message)
        answer: dict[str, Any] = json.loads(self._read_line(deadline, timeout_s))
        while "edge" in answer or "progress" in answer:
            if "progress" in answer:
                self._on_progress(answer["progress"])
            else:
                at_edge()
            if answer.get("edge") == "begins":
                self._say({"do": "go"})
                self._watch(look, deadline)
            answer = json.loads(self._read_line(deadline, timeout_s))
        if "failed" not in answer:
            return answer
        if answer["failed"] == "invalid":
            raise LoadRefused(answer["reason"])
        raise TrialFailed(answer["failed"], answer["reason"])

    def _watch(self, look: Look | None, deadline: float) -> None:
        """Look at a window until it may end, or the child says something, which is then to be read."""
        while look is not None:
            again_s = look()
            if again_s is None:
                self._say({"do": "end"})
                return
            if self._heard(min(time.monotonic() + again_s, deadline)) or time.monotonic() >= deadline:
                return

    def _heard(self, until: float) -> bool:
        """Wait until the child says something or ends, or it is that time; whether it was not the time."""
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return bool(selector.select(max(0.0, until - time.monotonic())))

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise self._death() from None

    def _read_line(self, deadline: float, timeout_s: float) -> bytes:
        assert self._process.stdout
        chunk = self._buffer
        while b"\n" not in chunk:
            if not self._heard(deadline):
                self.close()
                raise TrialFailed("timeout", f"no answer within {timeout_s:g} s")
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._death()
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _death(self) -> TrialFailed:
        """How the child ended by itself, from its exit code and from what it wrote since it was started."""
        code = self._process.wait()
        self.close()
        how = f"exited with code {code}" if code >= 0 else f"was killed by {signal_name(-code)}"
        if code == -signal.SIGKILL and kernel_oom_kills() != self._oom_kills:
            return TrialFailed("oom", f"the worker process {how} while the kernel was out of memory")
        words = self._words()
        telling = next((line for line in words if MEMORY_WORDS.search(line)), None)
        if telling:
            # Some runtimes abort the process where others raise an error.
            return TrialFailed("oom", f"the worker process {how}: {telling}")
        # A debugger that prints the stack may have had the last word.
        said = next((line for line in words if _ASSERTION.search(line)), words[-1] if words else None)
        return TrialFailed("error", f"the worker process {how}" + (f": {said}" if said else ""))

    def _words(self) -> list[str]:
        """The last lines that this child wrote to its log."""
        with self._log.open("rb") as stream:
            stream.seek(max(self._log_start, self._log.stat().st_size - _LAST_WORDS_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
        return [line.strip()[:300] for line in lines if line.strip()]


def _descendants(pid: int) -> list[Any]:
    """All processes that come of a process, as psutil's."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def _await_end(processes: list[Any]) -> None:
    """Wait until none of these runs; their supervisors end them. Gives up after ``_ENDED_WITHIN_S``."""
    until = time.monotonic() + _ENDED_WITHIN_S
    while any(map(lives, processes)) and time.monotonic() < until:
        time.sleep(0.02)
