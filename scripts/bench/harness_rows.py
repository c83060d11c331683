"""What the harness adds to the windows it measures: the pipe, the meter and the sampler.

Run as a program (``harness_rows.py MODEL THREADS``) it is the bare loop: it answers each line on stdin, a number of
requests, with the seconds that they took.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from comparison import Comparison, Options, rates

import backends
from backends.base import Config, Request
from harness.energy.meter import Meter
from harness.energy.probes.base import ProbeContext
from harness.measuring.worker_process import WorkerProcess

REQUEST = Request(32, 16)
WINDOW_S = 3.0


def against_a_bare_loop(options: Options) -> list[Comparison]:
    """Requests/s of windows measured by the harness against the same requests in a bare loop."""
    with ExitStack() as stack:
        ours, bare = rates(*sides(stack, options.model, options.threads), options.rounds)
    request = f"{REQUEST.input_tokens} + {REQUEST.output_tokens}"
    return [Comparison(f"harness {request}", "req/s", ours, bare, "bare loop", 0.98)]


def sides(stack: ExitStack, model: str, threads: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Two functions that each run one window and return requests/s: through the harness, and in a bare loop.

    Both sides have a process of their own that holds nothing but the same backend, and run the same number of
    requests while the other one waits. Around the harness's windows this process samples power at 20 Hz, as in a
    trial. Its rate is that of the window, from the first start to the last end: what happens outside a window
    enters no result.
    """
    command = [sys.executable, __file__, model, str(threads)]
    bare = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(bare.wait)
    assert bare.stdin
    assert bare.stdout
    asking, answers = bare.stdin, bare.stdout
    stack.callback(asking.close)

    def bare_s(requests: int) -> float:
        print(requests, file=asking, flush=True)
        return float(answers.readline())

    repeats = max(1, round(WINDOW_S / bare_s(1)))
    log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "worker.log"
    worker = WorkerProcess("transformers", log)
    stack.callback(worker.close)
    worker.load(Config(model, device="cpu", threads=threads), timeout_s=600)

    def through_the_harness() -> float:
        with Meter.open(context=ProbeContext(worker_pid=worker.pid, device="cpu")):
            marks = worker.run(
                600,
                input_tokens=REQUEST.input_tokens,
                output_tokens=REQUEST.output_tokens,
                seed=0,
                fewest=repeats,
            )["window"]
        return repeats / (marks["end_ns"][-1] - marks["start_ns"][0]) * 1e9

    def bare_loop() -> float:
        return repeats / bare_s(repeats)

    through_the_harness()
    return through_the_harness, bare_loop


def main() -> None:
    """The bare loop."""
    backend = backends.create("transformers")
    backend.load(Config(sys.argv[1], device="cpu", threads=int(sys.argv[2])))
    backend.prepare(REQUEST)
    backend.run(REQUEST)
    for line in sys.stdin:
        started_ns = time.monotonic_ns()
        for _ in range(int(line)):
            backend.run(REQUEST)
        print((time.monotonic_ns() - started_ns) / 1e9, flush=True)


if __name__ == "__main__":
    main()
