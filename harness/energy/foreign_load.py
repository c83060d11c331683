"""How much of the machine's CPU other programs take while we measure, and which they are.

Ours are this process, and the worker and a server that it uses, with all processes that these started. What else this
process started is not: a program that measures and computes in other processes meanwhile disturbs its own measurement.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from harness.core.wording import percent
from harness.energy.process_tree import ProcessTimes, TreeTime, busy_s, descendants, times_of
from harness.energy.readings import AS_IT_STANDS

_SHORTEST_S = 0.25
"""CPU times tick every 10 ms per processor: over less than this, a load can't be told."""
_TOP = 3
_LEAST_SHARE = 0.005
"""A program that takes less of all processors is not worth naming."""
_LONGEST_NAME = 40


@dataclass(frozen=True)
class ProgramLoad:
    """What one process of others took."""

    name: str
    """Free of what a terminal or a page could take for more than text."""
    pid: int
    share: float
    """Of all processors, 0–1."""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


@dataclass(frozen=True)
class CpuLoad:
    """What other programs took of the processors over a while."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    share: float
    """Of all processors, 0–1."""
    programs: tuple[ProgramLoad, ...] = ()
    """At most three, those that took most first; processes that ended meanwhile or that the system hides are absent."""

    def excess(self, limit: float | None) -> str | None:
        """``other programs used 63 % of the CPU (limit 10 %)``; None where the share is within the limit."""
        if limit is None or self.share <= limit:
            return None
        return f"other programs used {percent(self.share, digits=0)} of the CPU (limit {percent(limit, digits=0)})"


@dataclass(frozen=True)
class _Sample:
    time_ns: int
    busy_s: float
    """CPU time spent by everybody since boot, all processors together."""
    ours_s: float
    """CPU time spent by our processes since the first sample."""
    ours: frozenset[int]
    """Process ids."""
    roots: tuple[int, ...]
    processes: dict[int, ProcessTimes]


class ForeignLoad:
    """Compares the CPU time of the whole machine with that of our own processes."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=16)
        self._ours = TreeTime()

    def sample(self, *roots: int) -> None:
        """Note the CPU times now, with the worker and servers as ``roots``; takes some 50 µs a process of the machine.

        Where the system hides the times nothing is noted, and the load is unknown.
        """
        import psutil

        try:
            processes = _processes()
            busy_seconds = busy_s()
        except (psutil.Error, OSError):
            return
        if os.getpid() not in processes:
            return
        living = tuple(pid for pid in roots if pid in processes)
        # What was ours once is ours until it ends, whoever has become its parent.
        known = self._ours.known(processes) - {os.getpid()}
        ours = descendants({*living, *known}, {pid: process.parent for pid, process in processes.items()})
        ours.add(os.getpid())
        ours_s = self._ours.add(living, {pid: processes[pid] for pid in ours})
        self._samples.append(_Sample(time.monotonic_ns(), busy_seconds, ours_s, frozenset(ours), living, processes))

    def over(self, start_ns: int, end_ns: int) -> CpuLoad | None:
        """The load over the samples around a window; None where it can't be told."""
        import psutil

        samples = list(self._samples)
        first = next((sample for sample in reversed(samples) if sample.time_ns <= start_ns), None)
        last = next((sample for sample in samples if sample.time_ns >= end_ns), None)
        if first is None or last is None or first.roots != last.roots:
            return None
        seconds = (last.time_ns - first.time_ns) / 1e9
        if seconds < _SHORTEST_S:
            return None
        available_s = seconds * (psutil.cpu_count() or 1)
        foreign_s = (last.busy_s - first.busy_s) - (last.ours_s - first.ours_s)
        return CpuLoad(min(max(foreign_s / available_s, 0.0), 1.0), _top(first, last, available_s))


class Look:
    """A look at what other programs take of the processors, from now on; ``root`` and what it started are ours."""

    def __init__(self, *root: int) -> None:
        self._root = root
        self._load = ForeignLoad()
        self._load.sample(*root)
        self._start_ns = time.monotonic_ns()

    def load(self, least_s: float = 1.0) -> CpuLoad | None:
        """The load until now, waiting until ``least_s`` have passed; None where it is hidden."""
        time.sleep(max(least_s - (time.monotonic_ns() - self._start_ns) / 1e9, 0.0))
        end_ns = time.monotonic_ns()
        self._load.sample(*self._root)
        return self._load.over(self._start_ns, end_ns)


def clean_name(name: str) -> str:
    """A program's name as text: whoever named it may have meant to draw on our terminal or page."""
    plain = "".join(c if c.isprintable() and c not in "[]<>&\"'`\\" else "?" for c in name)
    return plain.strip()[:_LONGEST_NAME] or "unnamed"


def _processes() -> dict[int, ProcessTimes]:
    """All processes that the system shows."""
    import psutil

    found = {}
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                found[process.pid] = times_of(process, process.name())
        except (psutil.Error, OSError):
            continue
    return found


def _top(first: _Sample, last: _Sample, available_s: float) -> tuple[ProgramLoad, ...]:
    spent: list[ProgramLoad] = []
    for pid, now in last.processes.items():
        if pid in last.ours or pid in first.ours:
            continue
        then = first.processes.get(pid)
        before_s = then.cpu_s if then and then.begun_s == now.begun_s else 0.0
        spent.append(ProgramLoad(clean_name(now.name), pid, (now.cpu_s - before_s) / available_s))
    spent.sort(key=lambda program: -program.share)
    return tuple(program for program in spent[:_TOP] if program.share >= _LEAST_SHARE)


def foreign_pids(listed: set[int], own: frozenset[int]) -> list[int] | None:
    """Of the processes that a driver lists on a device those that are not ours: neither ``own`` nor this one.

    None where none of ours is listed: in a container the driver may list other numbers or none.
    """
    return sorted(listed - own - {os.getpid()}) if listed & own else None


def named_pids(pids: list[int]) -> str:
    if len(pids) == 1:
        return f"another process (pid {pids[0]})"
    return f"other processes (pids {', '.join(map(str, pids[:3]))}{', …' if len(pids) > 3 else ''})"
