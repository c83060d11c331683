"""Which processes are ours, and the CPU time that they spent: some roots with all that they started.

A process that ends hands its CPU time to the parent that waits for it. Where nobody of ours does, because its parent
ended before or takes no notice of its children, what was seen of it still counts: the time never steps back.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SLACK_S = 0.025
"""Times are told in ticks of 10 ms, those of a process and those of its children rounded apart."""
_LOOK_SHARE = 0.02
"""Most of one processor that looking for new processes may take."""
_LOOK_AGAIN_S = 1.0
"""How long a set of processes may be out of date where that costs no energy."""


@dataclass(frozen=True)
class ProcessTimes:
    """What one process spent so far."""

    parent: int
    begun_s: float
    """When it was started: numbers of processes are used again."""
    cpu_s: float
    reaped_s: float
    """CPU time of the children that it waited for, theirs included."""
    name: str = ""


class TreeTime:
    """Adds up what a changing set of processes spends, from one look to the next."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """CPU time since the first look; what the processes spent before does not count."""
        self._roots: tuple[int, ...] = ()
        self._last: Mapping[int, ProcessTimes] = {}

    def add(self, roots: tuple[int, ...], now: Mapping[int, ProcessTimes]) -> float:
        """Take in a look at all processes of the trees of ``roots``, by id; gives the CPU time so far, in s.

        Other roots than before are counted from this look on.
        """
        if roots == self._roots:
            self.seconds += self._growth(now)
        self._roots, self._last = roots, dict(now)
        return self.seconds

    def known(self, processes: Mapping[int, ProcessTimes]) -> set[int]:
        """Those of the last look that still run, whoever has become their parent."""
        return {pid for pid, process in processes.items() if self._was(pid, process)}

    def _was(self, pid: int, process: ProcessTimes) -> ProcessTimes | None:
        before = self._last.get(pid)
        return before if before and before.begun_s == process.begun_s else None

    def _growth(self, now: Mapping[int, ProcessTimes]) -> float:
        grown, joined = 0.0, dict[int, float]()
        for pid, process in now.items():
            before = self._was(pid, process)
            if before is None and not self._was_born(process, now):
                continue  # it ran before without being one of ours: only what comes counts
            # User and system time are rounded apart, so that their sum may step back by a tick.
            grown += max(process.cpu_s - (before.cpu_s if before else 0.0), 0.0)
            joined[pid] = max(process.reaped_s - (before.reaped_s if before else 0.0), 0.0)
        gone = self._gone_by_heir(now)
        for pid, more_s in joined.items():
            for spent_s in sorted(gone.get(pid, ()), reverse=True):
                if spent_s <= more_s + _SLACK_S:
                    more_s = max(more_s - spent_s, 0.0)  # it was waited for: all but its rest was counted before
            grown += more_s
        return grown

    def _was_born(self, process: ProcessTimes, now: Mapping[int, ProcessTimes]) -> bool:
        """Whether a new process was started by one that was ours, or by a new one that was."""
        seen = set[int]()
        while process.parent in now and process.parent not in seen:
            seen.add(process.parent)
            parent = now[process.parent]
            if self._was(process.parent, parent):
                return True
            process = parent
        return process.parent in self._last

    def _gone_by_heir(self, now: Mapping[int, ProcessTimes]) -> dict[int, list[float]]:
        """What was counted of processes that ended, by the nearest of their ancestors that lives."""
        gone: dict[int, list[float]] = {}
        for pid, before in self._last.items():
            if self._lives(pid, now):
                continue
            heir, seen = before.parent, {pid}
            while heir in self._last and heir not in seen and not self._lives(heir, now):
                seen.add(heir)
                heir = self._last[heir].parent
            gone.setdefault(heir, []).append(before.cpu_s + before.reaped_s)
        return gone

    def _lives(self, pid: int, now: Mapping[int, ProcessTimes]) -> bool:
        return pid in now and self._was(pid, now[pid]) is not None


def descendants(roots: Iterable[int], parents: Mapping[int, int]) -> set[int]:
    """The roots that ``parents`` knows, and all whose parents, grandparents, … are among the roots."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found, waiting = set[int](), list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found & parents.keys()


def parents() -> dict[int, int]:
    """The parent of every process that the system shows."""
    import psutil

    return {process.pid: process.info["ppid"] for process in psutil.process_iter(["ppid"])}


def busy_s() -> float:
    """CPU time that all processes have spent since boot, all processors together, in s.

    Raises psutil.Error or OSError.
    """
    import psutil

    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")))


def times_of(process: Any, name: str = "") -> ProcessTimes:
    """The times of a ``psutil.Process``. Raises psutil.Error or OSError."""
    with process.oneshot():
        times = process.cpu_times()
        reaped_s = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return ProcessTimes(process.ppid(), process.create_time(), times.user + times.system, reaped_s, name)


class TreeMembers:
    """Ids of some processes and all that they started, looked up about once a second."""

    def __init__(self) -> None:
        self._roots: tuple[int, ...] = ()
        self._found = frozenset[int]()
        self._others = frozenset[int]()
        self._due = 0.0

    def of(self, roots: tuple[int, ...], asked: Collection[int] = ()) -> frozenset[int]:
        """The roots with what they started; ids in ``asked`` that were not asked for before are looked up at once."""
        unknown = not self._found | self._others >= set(asked)
        if roots != self._roots or unknown or time.monotonic() >= self._due:
            self._found = frozenset({*roots, *descendants(roots, parents())}) if roots else frozenset()
            self._others = frozenset(asked) - self._found
            self._roots, self._due = roots, time.monotonic() + _LOOK_AGAIN_S
        return self._found


class TreeReader:
    """Reads the CPU time of some processes with all that they started, many times a second.

    Those that are known are read at each call; new ones are looked for as often as that takes at most a fiftieth of a
    processor, and what they spent until they are found counts then.
    """

    def __init__(self) -> None:
        self._time = TreeTime()
        self._roots: tuple[int, ...] = ()
        self._met: set[int] = set()
        """The roots that were read."""
        self._members: dict[int, Any] = {}
        self._due = 0.0

    def read(self, roots: tuple[int, ...]) -> tuple[int, float] | None:
        """CLOCK_MONOTONIC ns, and the CPU time in s since the first read, which never steps back.

        A root that ended counts on with what it spent. None where one could not be read yet.
        """
        if roots != self._roots:
            self._roots, self._met, self._members, self._due = roots, set(), {}, 0.0
        if time.monotonic() >= self._due:
            self._look()
        before_ns = time.monotonic_ns()
        now = self._read_all()
        time_ns = (before_ns + time.monotonic_ns()) // 2
        self._met |= now.keys() & set(roots)
        return (time_ns, self._time.add(roots, now)) if self._met.issuperset(roots) else None

    def _look(self) -> None:
        import psutil

        began = time.monotonic()
        # The number of one that ended may be a stranger's now.
        self._members = {pid: process for pid, process in self._members.items() if process.is_running()}
        for pid in descendants({*self._members, *(set(self._roots) - self._met)}, parents()) - self._members.keys():
            try:
                self._members[pid] = psutil.Process(pid)
            except psutil.Error:
                continue
        self._due = time.monotonic() + (time.monotonic() - began) / _LOOK_SHARE

    def _read_all(self) -> dict[int, ProcessTimes]:
        import psutil

        found = {}
        for pid, process in self._members.items():
            try:
                found[pid] = times_of(process)
            except (psutil.Error, OSError):
                continue
        return found
