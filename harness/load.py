"""A square-wave load for checking sensors: ``python -m harness.load SECONDS CYCLE_S``.

Half of each cycle is idle, half busy: every processor hashes and, where torch finds one, a GPU multiplies matrices.
The first line of output is JSON with the start (CLOCK_MONOTONIC, ns) and the devices loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable

_BLOCK = bytes(1 << 20)
_MATRIX = 4096


def main(seconds: float, cycle_s: float) -> None:
    """Run the wave for ``seconds``; the first half of each cycle is idle."""
    gpu, multiply = _gpu()
    processors = os.cpu_count() or 1
    work: list[Callable[[], None]] = [_hash] * processors
    if multiply is not None:
        work = [multiply] + [_hash] * (processors - 1)
    start = time.monotonic()
    print(json.dumps({"start_ns": int(start * 1e9), "device": f"cpu and {gpu}" if gpu else "cpu"}), flush=True)
    for cycle in range(int(seconds / cycle_s)):
        busy_from = start + (cycle + 0.5) * cycle_s
        time.sleep(max(busy_from - time.monotonic(), 0.0))
        until = start + (cycle + 1) * cycle_s
        threads = [threading.Thread(target=_repeat, args=(task, until)) for task in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _repeat(task: Callable[[], None], until: float) -> None:
    while time.monotonic() < until:
        task()


def _hash() -> None:
    """About a millisecond of work outside the interpreter's lock."""
    hashlib.sha256(_BLOCK).digest()


def _gpu() -> tuple[str | None, Callable[[], None] | None]:
    """The GPU that torch finds and one step of work for it; None where there is none."""
    try:
        import torch
    except ImportError:
        return None, None
    if torch.cuda.is_available():
        device, wait = "cuda", torch.cuda.synchronize
    elif torch.backends.mps.is_available():
        device, wait = "mps", torch.mps.synchronize
    else:
        return None, None
    matrix = torch.ones(_MATRIX, _MATRIX, device=device, dtype=torch.float16)

    def multiply() -> None:
        torch.mm(matrix, matrix)
        wait()

    multiply()  # kernels are compiled and memory is claimed before the wave starts
    return device, multiply


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
