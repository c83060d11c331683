"""A square-wave load for checking sensors: ``python -m harness.measuring.square_wave SECONDS CYCLE_S``.

Half of each cycle is idle, half busy: every processor hashes and every GPU that torch finds multiplies matrices. The
first line of output is JSON with the start (CLOCK_MONOTONIC, ns), the devices loaded, in words, and the ``source`` of
the power domains of the GPUs among them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

_BLOCK = bytes(1 << 20)
_MATRIX = 4096


def main(seconds: float, cycle_s: float) -> None:
    """Run the wave for ``seconds``; the first half of each cycle is idle."""
    gpus = _gpus()
    work = [*gpus.values(), *[_hash] * max((os.cpu_count() or 1) - len(gpus), 1)]
    device = "cpu" if not gpus else f"cpu and {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}"
    start, parent = time.monotonic(), os.getppid()
    print(json.dumps({"start_ns": int(start * 1e9), "device": device, "gpus": list(gpus)}), flush=True)
    for cycle in range(int(seconds / cycle_s)):
        busy_from = start + (cycle + 0.5) * cycle_s
        time.sleep(max(busy_from - time.monotonic(), 0.0))
        until = start + (cycle + 1) * cycle_s
        threads = [threading.Thread(target=_repeat, args=(task, until, parent)) for task in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if os.getppid() != parent:
            return


def _repeat(task: Callable[[], None], until: float, parent: int) -> None:
    # Whoever started this may be killed; nobody would read the sensors then.
    while time.monotonic() < until and os.getppid() == parent:
        task()


def _hash() -> None:
    """About a millisecond of work outside the interpreter's lock."""
    hashlib.sha256(_BLOCK).digest()


def _gpus() -> dict[str, Callable[[], None]]:
    """One step of work for every GPU that torch finds, by the source of its power domains."""
    try:
        import torch
    except ImportError:
        return {}
    found: dict[str, Callable[[], None]] = {}
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        uuid = torch.cuda.get_device_properties(device).uuid
        found[f"gpu:GPU-{uuid}"] = _multiplier(torch, device, partial(torch.cuda.synchronize, device))
    if torch.backends.mps.is_available():
        with suppress(RuntimeError):  # hosted virtual machines list the GPU and give it no memory
            found["soc-gpu"] = _multiplier(torch, torch.device("mps"), torch.mps.synchronize)
    return found


def _multiplier(torch: Any, device: Any, wait: Callable[[], None]) -> Callable[[], None]:
    matrix = torch.ones(_MATRIX, _MATRIX, device=device, dtype=torch.float16)

    def multiply() -> None:
        torch.mm(matrix, matrix)
        wait()

    multiply()  # kernels are compiled and memory is claimed before the wave starts
    return multiply


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
