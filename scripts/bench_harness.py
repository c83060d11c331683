"""What the harness adds to the windows it measures: the worker process, the pipe and the sampler."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import backends
from backends.base import Config, Request
from harness.meter import Meter
from harness.probes.base import ProbeContext
from harness.worker_process import WorkerProcess

REQUEST = Request(32, 16)
WINDOW_S = 3.0


def sides(stack: ExitStack, model: str, threads: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Two functions that each run one window and return requests/s: through the harness, and in a bare loop.

    Both sides run the same number of requests with the same backend; the first in the worker process, with power
    sampled at 20 Hz by this one, as a trial does. Its rate is that of the window, from the first start to the last
    end: what happens outside a window enters no result.
    """
    config = Config(model, device="cpu", threads=threads)
    bare = backends.create("transformers")
    stack.callback(bare.close)
    bare.load(config)
    bare.prepare(REQUEST)
    bare.run(REQUEST)
    started = time.monotonic()
    bare.run(REQUEST)
    repeats = max(1, round(WINDOW_S / (time.monotonic() - started)))

    log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "worker.log"
    worker = WorkerProcess("transformers", log)
    stack.callback(worker.close)
    worker.load(config, timeout_s=600)

    def through_the_harness() -> float:
        with Meter.open("auto", ProbeContext(worker_pid=worker.pid, device="cpu"), foreign_load_limit=None):
            marks = worker.run(
                600,
                input_tokens=REQUEST.input_tokens,
                output_tokens=REQUEST.output_tokens,
                seed=0,
                repeats=repeats,
                min_window_s=0.0,
            )
        return repeats / (marks["end_ns"][-1] - marks["start_ns"][0]) * 1e9

    def bare_loop() -> float:
        started_ns = time.monotonic_ns()
        for _ in range(repeats):
            bare.run(REQUEST)
        return repeats / (time.monotonic_ns() - started_ns) * 1e9

    through_the_harness()
    return through_the_harness, bare_loop
