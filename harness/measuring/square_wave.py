"""A square-wave load for checking sensors: ``python -m harness.measuring.square_wave cpu|gpu|all``.

Every processor hashes and every GPU that torch finds multiplies matrices. The first line of output is JSON with the
devices loaded, in words, and the ``source`` of the power domains of the GPUs among them; the wave is then a line of
JSON on standard input, the lengths in s of its halves, idle first. A line tells when it starts (CLOCK_MONOTONIC, ns)
and, at its end, another when work went on, by source: all begin and end of each thread's stretches.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

CPU = "cpu"
"""The source of the work that processors did."""
_BLOCK = bytes(1 << 18)
_MATRIX = 4096

_Work = dict[str, list[tuple[int, int]]]


def main(where: str) -> None:
    """Run the wave that standard input asks for."""
    # An interrupt is for who started this, and ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    gpus, why_not = ({}, None) if where == "cpu" else _gpus()
    hashing = 0 if where == "gpu" else max((os.cpu_count() or 1) - len(gpus), 1)
    work: list[tuple[str, Callable[[], None]]] = [*gpus.items(), *[(CPU, _hash)] * hashing]
    named = [*(["cpu"] if hashing else []), *([f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}"] if gpus else [])]
    _say(device=" and ".join(named) or None, gpus=list(gpus), gpus_reason=why_not)
    halves = json.loads(sys.stdin.readline() or "[]")
    with suppress(OSError):
        os.nice(5)  # whoever reads the sensors comes first
    start = time.monotonic()
    _say(start_ns=int(start * 1e9))
    _say(work=_run(work, halves, start, parent))


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def _run(work: Sequence[tuple[str, Callable[[], None]]], halves_s: Sequence[float], start: float, parent: int) -> _Work:
    """Rest and work in turn; returns when each thread worked, by source."""
    done: _Work = defaultdict(list)
    until = start
    for number, half_s in enumerate(halves_s):
        until += half_s
        if os.getppid() != parent:
            break
        if number % 2 == 0:
            time.sleep(max(until - time.monotonic(), 0.0))
            continue
        threads = [threading.Thread(target=_repeat, args=(task, until, parent, done[source])) for source, task in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return done


def _repeat(task: Callable[[], None], until: float, parent: int, done: list[tuple[int, int]]) -> None:
    begin_ns = time.monotonic_ns()
    with suppress(RuntimeError):  # a GPU that fails has worked until then
        # Whoever started this may be killed; nobody would read the sensors then.
        while time.monotonic() < until and os.getppid() == parent:
            task()
    done.append((begin_ns, time.monotonic_ns()))


def _hash() -> None:
    """About a quarter of a millisecond of work outside the interpreter's lock."""
    hashlib.sha256(_BLOCK).digest()


def _gpus() -> tuple[dict[str, Callable[[], None]], str | None]:
    """One step of work for every GPU that torch finds, by the source of its power domains; else why there is none."""
    try:
        import torch
    except ImportError:
        return {}, "a GPU is stepped by torch, which is not installed"
    found: dict[str, Callable[[], None]] = {}
    reasons = []
    for index in range(torch.cuda.device_count()):
        try:
            device = torch.device("cuda", index)
            found[_source(torch, device)] = _multiplier(torch, device, partial(torch.cuda.synchronize, device))
        except (RuntimeError, AttributeError) as error:  # its memory is full, or another process has it alone
            reasons.append(f"torch can't use GPU {index}: {str(error).partition(chr(10))[0]}")
    if torch.backends.mps.is_available():
        with suppress(RuntimeError):  # hosted virtual machines list the GPU and give it no memory
            found["soc-gpu"] = _multiplier(torch, torch.device("mps"), torch.mps.synchronize)
    return found, None if found else "; ".join(reasons) or "torch finds no GPU"


def _source(torch: Any, device: Any) -> str:
    """The source of a GPU's power domains: an NVIDIA board's UUID, an AMD board's place on the bus."""
    its = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return f"gpu:{its.pci_domain_id:04x}:{its.pci_bus_id:02x}:{its.pci_device_id:02x}"
    return f"gpu:GPU-{its.uuid}"


def _multiplier(torch: Any, device: Any, wait: Callable[[], None]) -> Callable[[], None]:
    matrix = torch.ones(_MATRIX, _MATRIX, device=device, dtype=torch.float16)

    def multiply() -> None:
        torch.mm(matrix, matrix)
        wait()

    multiply()  # kernels are compiled and memory is claimed before the wave starts
    return multiply


if __name__ == "__main__":
    main(sys.argv[1])
