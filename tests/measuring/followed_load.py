"""A hwmon tree whose CPU rail shows what the square wave does, as a sensor with a known response would."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.energy.sysfs_tree import write_files

IDLE_W, BUSY_W = 20.0, 80.0
_LOOK_S = 0.002


@contextmanager
def followed(root: Path, period_s: float, averaging_s: float, lag_s: float) -> Iterator[Path]:
    """Power of a rail at the mean of the load over ``averaging_s``, ``lag_s`` ago, every ``period_s``.

    Whether there is a load is told by the threads of the process that makes it: other programs' load doesn't count.
    """
    folder = root / "class" / "hwmon" / "hwmon0"
    write_files(folder, name="ina3221", in1_label="VDD_CPU_CV", in1_input=5000, curr1_input=4000)
    stop = threading.Event()

    def run() -> None:
        seen: list[tuple[float, float]] = [(time.monotonic(), 0.0)]
        due, number = time.monotonic(), 0
        while not stop.wait(_LOOK_S):
            now = time.monotonic()
            seen.append((now, _load()))
            if now >= due:
                due += period_s
                number += 1
                last = now - lag_s
                share = _mean(seen, last - averaging_s, last)
                power_w = IDLE_W + (BUSY_W - IDLE_W) * share + 0.05 * (number % 3)
                write_files(folder, curr1_input=round(power_w / 5.0 * 1000.0))
                seen = [item for item in seen if item[0] > last - averaging_s - 1.0]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield root
    finally:
        stop.set()
        thread.join()


def _load() -> float:
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any("square_wave" in word for word in child.cmdline()):
                return float(child.num_threads() > 1)
    return 0.0


def _mean(seen: list[tuple[float, float]], start: float, end: float) -> float:
    """Of a load that stayed as it was seen until the next look."""
    total, level = 0.0, 0.0
    at = start
    for time_s, value in seen:
        if time_s > end:
            break
        if time_s > at:
            total += (time_s - at) * level
            at = time_s
        level = value
    return (total + (end - at) * level) / (end - start)
