"""CPU time × declared watts: a guess where no meter can be read. Method ``estimated``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from harness.core.errors import ProbeUnavailable
from harness.core.quantities import Facts
from harness.energy.probes import refuse_option
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.process_tree import TreeReader, busy_s
from harness.energy.readings import LOST, Domain, Reading, Scope

ASSUMED_WATTS_PER_PROCESSOR = 5.0
"""Assumed power of one busy logical processor, between a laptop's ≈ 4 W (15 W / 4) and a desktop's ≈ 8 W (65 W / 8)."""


class CpuTimeEstimate(Probe):
    """Counts the CPU seconds of the worker and its servers, with all that they started and that is still running.

    Each is priced at the declared power of one processor. Where the whole machine is metered all processes count.
    """

    role: Role = "fallback"
    note = "energy is estimated from CPU time, not measured"

    def __init__(self, option: str | None = None) -> None:
        """Raises UserError for any option."""
        refuse_option("estimate", option)
        self._context = ProbeContext()
        self._tree = TreeReader()
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
        scope: Scope | None = None if self._context.whole_machine else "process"
        lost = "the CPU time of a process that computes can't be read"
        return [
            Domain(name, "cpu", "counter", "estimated", "estimate", tick_j, source=name, scope=scope, lost_means=lost)
        ]

    def read(self) -> Sequence[Reading]:
        if self._context.whole_machine:
            return [Reading("cpu-time", time.monotonic_ns(), busy_s() * self.watts_per_processor)]
        if not self._context.roots:
            return []
        read = self._tree.read(self._context.roots)
        if read is None:
            return [Reading("cpu-time", time.monotonic_ns(), LOST)]
        time_ns, seconds = read
        return [Reading("cpu-time", time_ns, seconds * self.watts_per_processor)]

    def conditions(self) -> Facts:
        return {"watts_per_processor": self.watts_per_processor, "disturbed": None}


create = CpuTimeEstimate
