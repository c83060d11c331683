"""The child process that owns the backend, started as ``python -m harness.measuring.worker BACKEND``.

Parent and child exchange one JSON object a line, over the child's stdin and stdout. The parent asks
``{"do": "resolve", "config": {…}}`` and ``{"do": "load", "config": {…}}``, then ``{"do": "run", "input_tokens",
"output_tokens", "seed", "fewest", "min_window_s"}``, also with other fields of ``WindowPlan``, as often as it likes.
Before the first request of a window and after its last the child says ``{"edge": "begins"}`` and ``{"edge": "ended"}``,
so that the parent can read its meters there; it begins when the parent says ``{"do": "go"}``. With ``until_told`` the
window goes on until the parent says ``{"do": "end"}``, which is no message to answer and has no meaning once the window
is over: parent and child needn't agree on which came first. The child answers each with
``{"model": {…}}``, ``{"loaded": {…}, "versions": {…}}``,
``{"window": {"start_ns": […], "prefill_end_ns": […], "end_ns": […], "output_tokens": n, "prepared": {…}}}`` or
``{"failed": "invalid" | "oom" | "error", "reason": …}``; before that, ``{"progress": …}`` says in words how far it is.
Whatever libraries print goes to stderr, never between the messages.

A backend whose requests are served elsewhere is asked for loops instead of ``run``: ``{"do": "closed_loop",
"input_tokens", "output_tokens", "concurrency", "min_window_s", "seed", "trial"}``, also with ``lengths``,
``last_start_s`` and ``processes``. Their first request follows ``begins`` and their last one precedes ``ended`` as
above; in between ``{"edge": "all busy"}`` and ``{"edge": "one idle"}`` say when their window begins and ends, the first
of them again where a window was given up. The answer is ``{"loop": {…}}``, which ``run_from_message`` reads.
``{"do": "open_loop", "arrivals": [[offset_s, m, n], …], "seed"}``, also with ``duration_s`` and ``warm_s``, is answered
in the same way.
"""

import json
import os
import queue
import secrets
import sys
import threading
import traceback
from dataclasses import asdict, fields
from typing import Any, cast

import backends
from backends.base import BackendError, Config, InvalidConfig, OutOfMemory, Prepared, Request, ServingBackend
from harness.core.processes import die_with_parent, private_stdout, read_messages
from harness.core.sizes import Arrival
from harness.measuring.closed_loop import Edges, processes_needed, run_closed_loop
from harness.measuring.loop_message import run_message
from harness.measuring.open_loop import WARM_SHARE, DueRequests, run_open_loop, usual_duration_s
from harness.measuring.pacing import ClosedLoopPlan
from harness.measuring.window import WindowPlan, run_window
from harness.runs.load_stamps import LoopRun


class _Parent:
    """The two pipes to the parent."""

    def __init__(self) -> None:
        self._out = private_stdout()
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._told_to_end = threading.Event()
        threading.Thread(target=read_messages, args=(self._take,), daemon=True).start()

    def _take(self, message: dict[str, Any]) -> None:
        # The pipe keeps the order: what was meant for an earlier window is in before the next is asked for.
        if message["do"] == "end":
            self._told_to_end.set()
        else:
            self._inbox.put(message)

    def hear(self) -> dict[str, Any]:
        """The next message; waits for it."""
        return self._inbox.get()

    def say(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self._out.write(json.dumps(message).encode() + b"\n")

    def begins(self) -> None:
        """Say that a window is about to begin, and wait until it may."""
        self._told_to_end.clear()
        self.say({"edge": "begins"})
        self.hear()

    def wants_no_more(self) -> bool:
        """Whether the present window is to end. Never waits."""
        return self._told_to_end.is_set()

    def pass_edge(self, edge: str) -> None:
        """Say that an edge is passed, without waiting."""
        self.say({"edge": edge})

    def ended(self) -> None:
        """Say that a window's last request has ended."""
        self.pass_edge("ended")


class _Worker:
    """Answers requests with one backend."""

    def __init__(self, name: str, parent: _Parent) -> None:
        self._name = name
        self._backend = backends.create(name)
        self._parent = parent
        self._prepared: Request | None = None
        # A server that runs on between workers may keep the prompts of earlier ones.
        self._next_number = secrets.randbelow(2**40)
        self._last_loop: dict[int, LoopRun] = {}
        self._answers = {
            "resolve": self._resolve,
            "load": self._load,
            "run": self._run,
            "closed_loop": self._closed_loop,
            "open_loop": self._open_loop,
        }

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
            return self._blamed(error)
        except Exception as error:
            # A fault in a backend or in a library under it is a result, not the end of the sweep.
            traceback.print_exc()
            self._prepared = None
            return {"failed": "error", "reason": f"{type(error).__name__}: {error}"}

    def _blamed(self, error: BackendError) -> dict[str, Any]:
        """The failure, or what lies behind it where a server of ours has ended."""
        behind = self._backend.blame(error) if hasattr(self._backend, "blame") else error
        return {"failed": "oom" if isinstance(behind, OutOfMemory) else "error", "reason": str(behind)}

    def _resolve(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"model": asdict(self._backend.resolve(_config(message)))}

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        if hasattr(self._backend, "on_progress"):
            self._backend.on_progress = lambda said: self._parent.say({"progress": said})
        loaded = self._backend.load(_config(message))
        return {"loaded": asdict(loaded), "versions": self._backend.versions()}

    def _run(self, message: dict[str, Any]) -> dict[str, Any]:
        request = Request(
            message["input_tokens"], message["output_tokens"], message["seed"], message.get("concurrency", 1)
        )
        prepared = self._prepare(request)
        plan = WindowPlan(**{field.name: message[field.name] for field in fields(WindowPlan) if field.name in message})
        told = [self._parent.wants_no_more] if message.get("until_told") else []
        completions = run_window(self._backend, request, plan, self._parent.begins, self._parent.ended, *told)
        return {
            "window": {
                "start_ns": [completion.start_ns for completion in completions],
                "prefill_end_ns": [completion.prefill_end_ns for completion in completions],
                "end_ns": [completion.end_ns for completion in completions],
                "output_tokens": completions[-1].output_tokens,
                "prepared": asdict(prepared),
            }
        }

    def _prepare(self, request: Request) -> Prepared:
        if request == self._prepared:
            return Prepared()
        self._prepared = None
        prepared = self._backend.prepare(request)
        self._prepared = request
        return prepared

    def _closed_loop(self, message: dict[str, Any]) -> dict[str, Any]:
        asked = {name: value for name, value in message.items() if name not in ("do", "processes")}
        plan = ClosedLoopPlan(**asked, first_number=self._new_numbers())
        c = plan.concurrency
        prepared = self._prepare(Request(plan.input_tokens, plan.output_tokens, plan.seed, c))
        processes = message.get("processes") or self._processes(c)
        backend = cast(ServingBackend, self._backend)
        run = run_closed_loop(backend, self._name, plan, self._edges(), processes)
        self._last_loop[c] = run
        return {"loop": run_message(run) | {"prepared": asdict(prepared)}}

    def _open_loop(self, message: dict[str, Any]) -> dict[str, Any]:
        arrivals = tuple(Arrival(*arrival) for arrival in message["arrivals"])
        duration_s = message.get("duration_s") or usual_duration_s(arrivals)
        warm_s = message.get("warm_s", WARM_SHARE * duration_s)
        due = DueRequests(arrivals, duration_s, warm_s, message["seed"], self._new_numbers())
        longest = max(arrivals, key=lambda arrival: arrival.input_tokens + arrival.output_tokens)
        prepared = self._prepare(Request(longest.input_tokens, longest.output_tokens, due.seed))
        run = run_open_loop(cast(ServingBackend, self._backend), due, self._edges())
        return {"loop": run_message(run) | {"prepared": asdict(prepared)}}

    def _edges(self) -> Edges:
        parent = self._parent
        return Edges(
            begins=parent.begins,
            all_busy=lambda: parent.pass_edge("all busy"),
            one_idle=lambda: parent.pass_edge("one idle"),
            ended=parent.ended,
        )

    def _new_numbers(self) -> int:
        """The first of numbers that no request of this worker had."""
        first = self._next_number
        self._next_number += 2**32
        return first

    def _processes(self, concurrency: int) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        earlier = self._last_loop.get(concurrency)
        if earlier is None:
            return processes_needed(concurrency, cores)
        loop_s = (earlier.ended_ns - earlier.begun_ns) / 1e9
        return processes_needed(concurrency, cores, earlier.client_cpu_s / loop_s, earlier.client_processes)


def _config(message: dict[str, Any]) -> Config:
    fields = message["config"]
    # JSON has lists only.
    return Config(**{**fields, "server_flags": tuple(fields["server_flags"])})


def main() -> None:
    """Serve one parent until its end of the pipe closes."""
    die_with_parent()
    parent = _Parent()
    worker = _Worker(sys.argv[1], parent)
    while True:
        parent.say(worker.answer(parent.hear()))


if __name__ == "__main__":
    main()
