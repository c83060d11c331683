"""How much of the machine's CPU other programs take while we measure."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

_SHORTEST_S = 0.25
"""CPU times tick every 10 ms per processor: over less than this, a load can't be told."""


@dataclass(frozen=True)
class _Sample:
    time_ns: int
    busy_s: float
    """CPU time spent by everybody since boot, all processors together."""
    ours_s: float
    """CPU time spent by this process and the worker since their starts."""
    worker: int | None


class ForeignLoad:
    """Compares the CPU time of the whole machine with that of this process and the worker."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=100_000)

    def sample(self, worker_pid: int | None) -> None:
        """Note the CPU times now. Where the system hides them nothing is noted, and the share is unknown."""
        import psutil

        try:
            times = psutil.cpu_times()
            ours = process_cpu_s(psutil.Process())
        except (psutil.Error, OSError):
            return
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        try:
            ours += 0.0 if worker_pid in (None, os.getpid()) else process_cpu_s(psutil.Process(worker_pid))
        except (psutil.Error, OSError):
            worker_pid = None
        self._samples.append(_Sample(time.monotonic_ns(), busy, ours, worker_pid))

    def share(self, start_ns: int, end_ns: int) -> float | None:
        """Foreign share of all processors over the samples around a window, 0–1; None where it can't be told."""
        import psutil

        samples = list(self._samples)
        first = next((sample for sample in reversed(samples) if sample.time_ns <= start_ns), None)
        last = next((sample for sample in samples if sample.time_ns >= end_ns), None)
        if first is None or last is None or first.worker != last.worker:
            return None
        seconds = (last.time_ns - first.time_ns) / 1e9
        if seconds < _SHORTEST_S:
            return None
        foreign_s = (last.busy_s - first.busy_s) - (last.ours_s - first.ours_s)
        return min(max(foreign_s / (seconds * (psutil.cpu_count() or 1)), 0.0), 1.0)


def process_cpu_s(process: Any) -> float:
    """CPU time of a ``psutil.Process``, its threads and the children it waited for, in s. Raises psutil.Error."""
    times = process.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "system", "children_user", "children_system")))
