"""How many threads llama.cpp computes with unless told: the performance cores, as its own llama-bench does.

Efficiency cores hold the others up at every step: with all cores a decode step takes 1.5 to 2 times as long on Apple
Silicon and on hybrid Intel processors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def default_threads(sysfs: Path = Path("/sys")) -> int:
    """Physical performance cores that this process may use; at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_performance_cores(sysfs), usable))


def _performance_cores(sysfs: Path) -> int:
    import psutil

    fast = _apple_performance_cores() if sys.platform == "darwin" else _intel_performance_cores(sysfs)
    return fast or psutil.cpu_count(logical=False) or 1


def _apple_performance_cores() -> int | None:
    """Cores of the fastest kind on Apple Silicon; None elsewhere."""
    command = ["/usr/sbin/sysctl", "-n", "hw.perflevel0.physicalcpu"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    text = done.stdout.strip()
    return int(text) if text.isdigit() else None


def _intel_performance_cores(sysfs: Path) -> int | None:
    """Physical cores among the processors that Linux lists as ``cpu_core`` on a hybrid Intel; None elsewhere.

    Two processors of one core name each other as siblings, and count once.
    """
    try:
        listed = (sysfs / "devices" / "cpu_core" / "cpus").read_text().strip()
        processors = _parse_list(listed)
    except (OSError, ValueError):
        return None
    siblings = set()
    for processor in processors:
        topology = sysfs / "devices" / "system" / "cpu" / f"cpu{processor}" / "topology"
        try:
            siblings.add((topology / "thread_siblings_list").read_text().strip())
        except OSError:
            siblings.add(str(processor))
    return len(siblings) or None


def _parse_list(text: str) -> list[int]:
    """``0-3,8`` as [0, 1, 2, 3, 8]. Raises ValueError."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
