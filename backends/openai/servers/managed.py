"""A server that is started for a measurement and ended with it.

It runs under a supervisor (``supervisor.py``), which ends it and all that it started however this process ends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from backends.base import BackendError, InvalidConfig
from backends.openai import port_owner
from backends.openai.devices import tree_of
from backends.openai.servers import launcher, server_log, supervisor
from backends.openai.servers.base import CHECKOUT, HOST, Launcher, find_program, refuse_flags

READY_WITHIN_S = 1800.0
"""Until a server must be ready: large models are read from slow disks."""
_LOOK_S = 0.2
_PROGRESS_S = 2.0
_PORT_TRIES = 3

Progress = Callable[[float, str], None]
"""Told now and then how many seconds a server has been starting, and the last line it wrote."""


@dataclass(frozen=True)
class ServerPlan:
    """What to start."""

    server: str
    """``llama-server`` or ``vllm``."""
    model: str
    flags: tuple[str, ...] = ()
    """The user's, after those that joulebench gives."""
    threads: int | None = None
    """CPU threads; None for one less than there are cores. The server's own flags overrule it."""
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    """Of the random weights of a preset."""
    api_key: str | None = field(default=None, repr=False)
    """A key that the server shall want; it is handed over in the environment."""


class ManagedServer:
    """One running server. A context manager that ends it."""

    def __init__(self, kind: Launcher, command: list[str], environment: dict[str, str], port: int, log: Path) -> None:
        self._kind = kind
        self.command = command
        """Its command line; no key is in it."""
        self.port = port
        self.log = log
        """The file with its output; others may have written to it before."""
        self.pid = 0
        self._log_start = log.stat().st_size if log.exists() else 0
        self._told = b""
        self._ended: int | None = None
        self._oom_kills = server_log.kernel_oom_kills()
        with log.open("ab") as output:
            output.write(f"$ {shlex.join(command)}\n".encode())
            output.flush()
            self._supervisor = subprocess.Popen(
                [sys.executable, "-P", supervisor.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                start_new_session=True,
                bufsize=0,
            )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def await_ready(self, timeout_s: float, progress: Progress | None) -> None:
        """Return when the server answers. Raises BackendError, OutOfMemory or InvalidConfig with its last words."""
        begun = said = time.monotonic()
        while True:
            now = time.monotonic()
            if self._look(_LOOK_S if now - begun > _LOOK_S else 0.02):
                raise self.death()
            if self.pid and _is_healthy(self.port):
                break
            if progress is not None and now - said >= _PROGRESS_S:
                said = now
                progress(now - begun, server_log.last_line(self.log, self._log_start))
            if now - begun > timeout_s:
                last = server_log.last_line(self.log, self._log_start)
                raise BackendError(f"{self._kind.name} was not ready within {timeout_s:g} s: {last} (log: {self.log})")
        owner = port_owner.listening_pid(HOST, self.port)
        if owner is not None and owner not in tree_of([self._supervisor.pid]):
            raise BackendError(f"another process ({owner}) took port {self.port}; try again")

    def alive(self, news_within_s: float = 0.0) -> bool:
        """Whether the server still runs. Its end is known a moment after its connections break; that may be awaited."""
        return not self._look(news_within_s)

    def death(self) -> BackendError:
        """How the server ended, by its exit code and its last words; call when it isn't ``alive``."""
        lines = server_log.lines(self.log, self._log_start)
        oom = server_log.kernel_oom_kills() != self._oom_kills
        return server_log.death(self._kind.name, self._ended, lines, self.log, oom)

    def _look(self, wait_s: float) -> bool:
        """Read what the supervisor says within ``wait_s``; whether the server has ended."""
        stdout = self._supervisor.stdout
        assert stdout is not None
        if stdout.closed:
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while selector.select(wait_s):
                wait_s = 0
                read = os.read(stdout.fileno(), 4096)
                if not read:  # the supervisor is gone; a server without one is gone too
                    self._end_rest()
                    return True
                self._told += read
                while b"\n" in self._told:
                    line, self._told = self._told.split(b"\n", 1)
                    self._note(json.loads(line))
        return self._ended is not None

    def _note(self, message: dict[str, object]) -> None:
        if "failed" in message:
            raise InvalidConfig(str(message["failed"]))
        self.pid = int(str(message.get("pid", self.pid)))
        if "ended" in message:
            self._ended = int(str(message["ended"]))

    def close(self) -> None:
        """End the server and all that it started, and wait for that. Safe to call twice."""
        if self._supervisor.stdin is None or self._supervisor.stdin.closed:
            return
        self._supervisor.stdin.close()
        longest_s = supervisor.GRACE_S + supervisor.REST_GRACE_S + supervisor.KILLED_WITHIN_S + 5
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._supervisor.wait(longest_s)
        self._supervisor.kill()
        self._supervisor.wait()
        self._end_rest()
        assert self._supervisor.stdout is not None
        self._supervisor.stdout.close()

    def _end_rest(self) -> None:
        """Kill what is left of the server's session: nothing, unless both supervisors were killed at once."""
        import psutil

        if not self.pid:
            return
        until = time.monotonic() + supervisor.KILLED_WITHIN_S
        while time.monotonic() < until:
            left = [process for process in psutil.process_iter() if _session(process.pid) == self.pid]
            left = [process for process in left if supervisor.lives(process)]
            if not left:
                return
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.05)

    def __enter__(self) -> ManagedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def start(
    plan: ServerPlan, log: Path | None = None, progress: Progress | None = None, timeout_s: float = READY_WITHIN_S
) -> ManagedServer:
    """Start a server on a free port of the loopback interface and wait until it is ready.

    Without ``log`` its output goes to the file that ``$JOULEBENCH_SERVER_LOG`` names, else to a new file in the
    directory for temporary files; it is kept. Raises InvalidConfig, NotInstalled, OutOfMemory or BackendError.
    """
    kind = launcher(plan.server)
    refuse_flags(plan.flags, kind)
    program = find_program(kind.name)
    threads = plan.threads or default_threads()
    model = kind.find_model(plan.model, plan.dtype, plan.seed)
    environment = _environment() | kind.environment(threads)
    if plan.api_key is not None:
        environment[kind.key_variable] = plan.api_key
    log = log or _default_log(kind.name)
    for tried in range(1, _PORT_TRIES + 1):
        port = _free_port()
        command = kind.command(program, model, port, threads, plan.device, plan.dtype, plan.flags)
        server = ManagedServer(kind, command, environment, port, log)
        try:
            server.await_ready(timeout_s, progress)
        except BaseException as error:
            server.close()
            if isinstance(error, BackendError) and server_log.PORT_TAKEN.search(str(error)) and tried < _PORT_TRIES:
                continue
            raise
        return server
    raise AssertionError("the last try returns or raises")


def default_threads() -> int:
    """One less than there are cores, which the client has for itself; at least 1."""
    from backends.llama_cpp.threads import default_threads as cores

    return max(1, cores() - 1)


def _environment() -> dict[str, str]:
    """This process's environment without our packages: the server has an environment of its own."""
    environment = dict(os.environ)
    paths = [path for path in environment.pop("PYTHONPATH", "").split(os.pathsep) if path]
    if kept := [path for path in paths if Path(path).resolve() != CHECKOUT]:
        environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment


def _default_log(name: str) -> Path:
    if named := os.environ.get(server_log.LOG_VARIABLE):
        return Path(named)
    descriptor, path = tempfile.mkstemp(prefix=f"joulebench-{name}-", suffix=".log")
    os.close(descriptor)
    return Path(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
