"""Our part of a GPU that others use too, from NVML's utilization by process: an estimate, not a measurement.

``nvmlDeviceGetProcessUtilization`` tells for each process the percentage of time in which one of its kernels ran, since
a time stamp or in the driver's last sample period (1/6 to 1 s, depending on the board). It says nothing of how many
multiprocessors a kernel filled, so that energy in proportion to it is a stated guess. A process that ran none has no
entry, and values above 100 are known faults of drivers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.core.errors import ProbeFailed
from harness.energy.probes.base import ProbeContext
from harness.energy.readings import LOST, Domain, Reading

PERIOD_S = 1.0
"""The longest sample period of a driver."""
_EVERY_NS = int(0.5e9)
_HOLD_US = 2_000_000
"""A process without a new entry for so long has stopped to compute."""


@dataclass(frozen=True)
class Busy:
    """What NVML says of one process on one GPU."""

    pid: int
    time_us: int
    percent: int


class UtilizationShare:
    """Adds up the part of a board's energy that falls to the worker, interval by interval.

    ``utilization`` takes the time stamp since which to look and gives what is new; it raises ``ProbeFailed`` where NVML
    has no such thing. ``running`` gives the processes that NVML lists on the GPU.
    """

    def __init__(
        self,
        domain: Domain,
        context: ProbeContext,
        utilization: Callable[[int], list[Busy]],
        running: Callable[[], set[int] | None],
    ) -> None:
        self.domain = domain
        self._context = context
        self._utilization = utilization
        self._running = running
        self._latest: dict[int, Busy] = {}
        self._newest_us = 0
        self._last: tuple[int, float] | None = None
        self._board_j = 0.0
        self._share_j = 0.0
        self._due_ns = 0

    def account(self, board: Domain, reading: Reading) -> list[Reading]:
        """Take in a reading of the whole board; gives a reading of the share, in J, where an interval has ended."""
        if self._last is not None:
            before_ns, before = self._last
            if board.kind == "counter":
                self._board_j += reading.value - before
            else:
                self._board_j += (reading.value + before) / 2 * (reading.time_ns - before_ns) / 1e9
        self._last = reading.time_ns, reading.value
        if reading.time_ns < self._due_ns:
            return []
        first, self._due_ns = self._due_ns == 0, reading.time_ns + _EVERY_NS
        share = self._look()
        spent_j, self._board_j = self._board_j, 0.0
        # What the driver told first is of a time before.
        if share is None:
            return [Reading(self.domain.name, reading.time_ns, LOST)]
        self._share_j += 0.0 if first else share * spent_j
        return [Reading(self.domain.name, reading.time_ns, self._share_j)]

    def _look(self) -> float | None:
        """Our part of all utilization now; None where NVML doesn't know our processes by their numbers."""
        for busy in self._utilization(self._newest_us):
            if 0 <= busy.percent <= 100 and busy.pid:
                self._latest[busy.pid] = busy
            self._newest_us = max(self._newest_us, busy.time_us)
        now_us = time.time_ns() // 1000
        self._latest = {pid: busy for pid, busy in self._latest.items() if busy.time_us > now_us - _HOLD_US}
        total = sum(busy.percent for busy in self._latest.values())
        if total == 0:
            return 0.0
        computing = self._running() or set()
        ours = self._context.own_pids({*self._latest, *computing}) | {os.getpid()}
        own = sum(busy.percent for pid, busy in self._latest.items() if pid in ours)
        if own == 0 and ours.isdisjoint(computing):
            return None
        return own / total


def share_of(board: Domain, index: int) -> Domain:
    """The domain of the worker's share of a board."""
    return Domain(
        f"gpu{index}-share",
        board.component,
        "counter",
        "estimated",
        board.probe,
        board.resolution,
        period_s=PERIOD_S,
        source=f"{board.source}:process",
        scope="gpu process",
        lost_means=f"NVML does not list the worker on GPU {index}, as in a container: its share can't be told",
    )


def utilization_reader(nvml: Any, handle: Any, label: str, domain: str) -> Callable[[int], list[Busy]]:
    """Asks NVML for the utilization of a GPU by process."""

    def read(since_us: int) -> list[Busy]:
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, since_us)
        except nvml.NVMLError as error:
            # The package raises success where there is none; a list that grew between two calls is read next time.
            if error.value in (nvml.NVML_SUCCESS, nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INSUFFICIENT_SIZE):
                return []
            raise ProbeFailed(f"NVML has no utilization by process of {label}: {error}", (domain,)) from None
        return [Busy(sample.pid, sample.timeStamp, sample.smUtil) for sample in samples]

    return read
