"""The parent's handle on the worker: start it, ask it, notice how it ends, leave no orphan."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends.base import Config
from harness.types import Status


class TrialFailed(Exception):
    """The worker could not do what it was asked; ``status`` and ``reason`` go into the record."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class LoadRefused(Exception):
    """The backend says that the configuration can't work here; the message names the remedy."""


class WorkerProcess:
    """One child process with one backend. Not reusable: after a failure that kills it, start another."""

    def __init__(self, backend: str, log: Path) -> None:
        self._log = log
        self._oom_kills = _kernel_oom_kills()
        # Absolute paths, so that the child finds this very package whatever the current directory is.
        packages = str(Path(__file__).resolve().parents[1])
        search_path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.worker", backend],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": search_path},
                # Ctrl-C is the parent's business: it decides what becomes of the child.
                start_new_session=True,
            )
        self._buffer = b""

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child can be asked."""
        return self._process.poll() is None

    def resolve(self, config: Config, timeout_s: float) -> dict[str, Any]:
        """What ``load`` would load, as the fields of ``backends.base.Model``. Raises LoadRefused or TrialFailed."""
        model: dict[str, Any] = self._ask({"do": "resolve", "config": asdict(config)}, timeout_s)["model"]
        return model

    def load(self, config: Config, timeout_s: float) -> dict[str, Any]:
        """Load the model; returns ``{"loaded": …, "versions": …}``. Raises LoadRefused or TrialFailed."""
        return self._ask({"do": "load", "config": asdict(config)}, timeout_s)

    def run(self, timeout_s: float, **request: Any) -> dict[str, Any]:
        """Run one window; returns its marks. Raises TrialFailed; after a timeout the child is dead."""
        try:
            window: dict[str, Any] = self._ask({"do": "run", **request}, timeout_s)["window"]
        except LoadRefused as refusal:
            raise TrialFailed("error", str(refusal)) from None
        return window

    def close(self) -> None:
        """End the child and everything it started; safe to call twice."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        answer: dict[str, Any] = json.loads(self._read_line(timeout_s))
        if "failed" not in answer:
            return answer
        if answer["failed"] == "invalid":
            raise LoadRefused(answer["reason"])
        raise TrialFailed(answer["failed"], answer["reason"])

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._process.stdout
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise TrialFailed("timeout", f"no answer within {timeout_s:g} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._death()
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _death(self) -> TrialFailed:
        code = self._process.wait()
        self.close()
        how = f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        if code == -signal.SIGKILL and _kernel_oom_kills() != self._oom_kills:
            return TrialFailed("oom", f"the worker process {how} while the kernel was out of memory")
        last_words = _last_line(self._log)
        return TrialFailed("error", f"the worker process {how}" + (f": {last_words}" if last_words else ""))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _kernel_oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory; None where it does not say."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def _last_line(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""
