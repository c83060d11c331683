"""The child process that owns the backend, started as ``python -m harness.measuring.worker BACKEND``.

Parent and child exchange one JSON object a line, over the child's stdin and stdout. The parent asks
``{"do": "resolve", "config": {…}}`` and ``{"do": "load", "config": {…}}``, then ``{"do": "run", "input_tokens",
"output_tokens", "seed", "repeats", "min_window_s"}``, also with ``last_start_s``, as often as it likes. Before the
first request of a window and after its last the child says ``{"edge": "begins"}`` and ``{"edge": "ended"}``, so that
the parent can read its meters there; it begins when the parent says ``{"do": "go"}``. The child answers each with
``{"model": {…}}``, ``{"loaded": {…}, "versions": {…}}``,
``{"window": {"start_ns": […], "prefill_end_ns": […], "end_ns": […], "output_tokens": n, "prepared": {…}}}`` or
``{"failed": "invalid" | "oom" | "error", "reason": …}``. Whatever libraries print goes to stderr, never between the
messages.
"""

import ctypes
import json
import math
import os
import queue
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from typing import Any, BinaryIO

import backends
from backends.base import Backend, BackendError, Config, InvalidConfig, OutOfMemory, Prepared, Request
from harness.measuring.window import run_window


class _Parent:
    """The two pipes to the parent."""

    def __init__(self) -> None:
        self._out = _private_stdout()
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=_read_messages, args=(self._inbox,), daemon=True).start()

    def hear(self) -> dict[str, Any]:
        """The next message; waits for it."""
        return self._inbox.get()

    def say(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self._out.write(json.dumps(message).encode() + b"\n")

    def begins(self) -> None:
        """Say that a window is about to begin, and wait until it may."""
        self.say({"edge": "begins"})
        self.hear()

    def ended(self) -> None:
        """Say that a window's last request has ended."""
        self.say({"edge": "ended"})


class _Worker:
    """Answers requests with one backend."""

    def __init__(self, backend: Backend, parent: _Parent) -> None:
        self._backend = backend
        self._parent = parent
        self._prepared: Request | None = None
        self._answers = {"resolve": self._resolve, "load": self._load, "run": self._run}

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to one message; failures are answers too."""
        try:
            return self._answers[message["do"]](message)
        except InvalidConfig as error:
            return {"failed": "invalid", "reason": str(error)}
        except (OutOfMemory, MemoryError) as error:
            self._prepared = None
            return {"failed": "oom", "reason": str(error) or "out of memory"}
        except BackendError as error:
            self._prepared = None
            return {"failed": "error", "reason": str(error)}
        except Exception as error:
            # A fault in a backend or in a library under it is a result, not the end of the sweep.
            traceback.print_exc()
            self._prepared = None
            return {"failed": "error", "reason": f"{type(error).__name__}: {error}"}

    def _resolve(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"model": asdict(self._backend.resolve(Config(**message["config"])))}

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        loaded = self._backend.load(Config(**message["config"]))
        return {"loaded": asdict(loaded), "versions": self._backend.versions()}

    def _run(self, message: dict[str, Any]) -> dict[str, Any]:
        request = Request(message["input_tokens"], message["output_tokens"], message["seed"])
        prepared = Prepared()
        if request != self._prepared:
            self._prepared = None
            prepared = self._backend.prepare(request)
            self._prepared = request
        completions = run_window(
            self._backend,
            request,
            message["repeats"],
            message["min_window_s"],
            self._parent.begins,
            self._parent.ended,
            last_start_s=message.get("last_start_s", math.inf),
        )
        return {
            "window": {
                "start_ns": [completion.start_ns for completion in completions],
                "prefill_end_ns": [completion.prefill_end_ns for completion in completions],
                "end_ns": [completion.end_ns for completion in completions],
                "output_tokens": completions[-1].output_tokens,
                "prepared": asdict(prepared),
            }
        }


def _private_stdout() -> BinaryIO:
    """The stream to the parent; file descriptor 1 becomes stderr, so that prints can't break the protocol."""
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return stream


def _die_with_parent() -> None:
    """On Linux, have the kernel kill this process when the parent dies, whatever it is computing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _read_messages(inbox: queue.SimpleQueue[dict[str, Any]]) -> None:
    try:
        for line in sys.stdin:
            inbox.put(json.loads(line))
    finally:
        # The parent is gone or has closed this worker. Inference in progress is of no use to anybody.
        os._exit(0)


def main() -> None:
    """Serve one parent until its end of the pipe closes."""
    _die_with_parent()
    parent = _Parent()
    worker = _Worker(backends.create(sys.argv[1]), parent)
    while True:
        parent.say(worker.answer(parent.hear()))


if __name__ == "__main__":
    main()
