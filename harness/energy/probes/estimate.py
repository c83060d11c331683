"""CPU time × declared watts: a guess where no meter can be read. Method ``estimated``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from harness.core.errors import ProbeUnavailable
from harness.core.quantities import Facts
from harness.energy.foreign_load import process_cpu_s
from harness.energy.probes import refuse_option
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.readings import Domain, Reading

ASSUMED_WATTS_PER_PROCESSOR = 5.0
"""Assumed power of one busy logical processor, between a laptop's ≈ 4 W (15 W / 4) and a desktop's ≈ 8 W (65 W / 8)."""


class CpuTimeEstimate(Probe):
    """Counts the worker's CPU seconds and prices each at the declared power of one processor."""

    role: Role = "fallback"
    note = "energy is estimated from CPU time, not measured"

    def __init__(self, option: str | None = None) -> None:
        """Raises UserError for any option."""
        refuse_option("estimate", option)
        self._context = ProbeContext()
        self._pid: int | None = None
        self._process: Any = None
        self._earlier_s = 0.0
        self._start_s = 0.0
        self._current_s = 0.0
        self.watts_per_processor = 0.0

    def open(self, context: ProbeContext) -> None:
        watts = context.cpu_watts
        if watts is not None and watts <= 0:
            raise ProbeUnavailable(f"{watts} W is no CPU power", "give --cpu-watts a positive number")
        processors = os.cpu_count() or 1
        self.watts_per_processor = ASSUMED_WATTS_PER_PROCESSOR if watts is None else watts / processors
        self._context = context
        origin = "assumed: set yours with --cpu-watts" if watts is None else f"--cpu-watts {watts:g}"
        price = f"{self.watts_per_processor:g} W per processor ({origin})"
        self.note = f"energy is estimated, not measured: CPU time × {price}"

    def domains(self) -> Sequence[Domain]:
        tick_j = 1.0 / os.sysconf("SC_CLK_TCK") * self.watts_per_processor
        name = "cpu-time"
        return [Domain(name, "cpu", "counter", "estimated", "estimate", tick_j, source=name, scope="process")]

    def read(self) -> Sequence[Reading]:
        self._follow_worker()
        if self._process is None:
            return []
        before_ns = time.monotonic_ns()
        used_s = self._cpu_s()
        now_ns = (before_ns + time.monotonic_ns()) // 2
        if used_s is not None:
            # User and system time are rounded apart, so that their sum may step back by a tick.
            self._current_s = max(self._current_s, used_s)
        seconds = self._earlier_s + (self._current_s - self._start_s)
        return [Reading("cpu-time", now_ns, seconds * self.watts_per_processor)]

    def conditions(self) -> Facts:
        return {"watts_per_processor": self.watts_per_processor, "disturbed": None}

    def close(self) -> None:
        self._process = None

    def _follow_worker(self) -> None:
        """Start counting a new worker from its first reading, on top of what its forerunners used."""
        import psutil

        pid = self._context.worker_pid
        if pid == self._pid:
            return
        self._earlier_s += self._current_s - self._start_s
        self._start_s = self._current_s = 0.0
        self._pid, self._process = pid, None
        if pid is None:
            return
        try:
            self._process = psutil.Process(pid)
        except psutil.Error:
            return
        self._start_s = self._current_s = self._cpu_s() or 0.0

    def _cpu_s(self) -> float | None:
        """CPU time of the worker, its threads and the children it waited for; None once it is gone."""
        import psutil

        try:
            return process_cpu_s(self._process)
        except psutil.Error:
            return None


create = CpuTimeEstimate
