"""Apple Silicon without root: IOReport's energy model, through the package zeus-apple-silicon.

Apple's figures are estimates by a model of the chip, not measurements: method ``modelled``.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

from harness.core.errors import ProbeFailed, ProbeUnavailable, pip_install
from harness.core.quantities import Component
from harness.energy.probes import refuse_option
from harness.energy.probes.base import Probe, ProbeContext, Role, update_periods
from harness.energy.readings import Domain, Reading

_POLL_S = 3.0
"""How long updates are watched at the start: some chips update the counters in batches."""
_RAILS: tuple[tuple[str, Component, str], ...] = (
    ("soc-cpu", "cpu", "cpu_total_mj"),
    ("soc-gpu", "gpu", "gpu_mj"),
    ("soc-ane", "ane", "ane_mj"),
    ("soc-dram", "dram", "dram_mj"),
)
"""Source, component and attribute of the package's metrics."""
_MILLI = 1e-3


class IoReport(Probe):
    """The chip's cumulative rails; those that this chip doesn't have are absent, not zero."""

    role: Role = "meter"
    note = "modelled by the chip: SoC rails, no display; not made for comparing devices"

    def __init__(self, option: str | None = None) -> None:
        """Raises UserError for any option."""
        refuse_option("ioreport", option)
        self._monitor: Any = None
        self._domains: list[Domain] = []

    def open(self, context: ProbeContext) -> None:
        if sys.platform != "darwin" or platform.machine() != "arm64":
            raise ProbeUnavailable("IOReport exists on Apple Silicon only")
        try:
            from zeus_apple_silicon import AppleEnergyMonitor
        except ImportError:
            remedy = pip_install("zeus-apple-silicon>=1.0.4")
            raise ProbeUnavailable("the package zeus-apple-silicon is missing", remedy) from None
        try:
            self._monitor = AppleEnergyMonitor()
            energies = self._monitor.get_cumulative_energy()
        except RuntimeError as error:
            raise ProbeUnavailable(f"IOReport can't be read: {error}") from None
        present = [rail for rail in _RAILS if getattr(energies, rail[2], None) is not None]
        if not present:
            raise ProbeUnavailable("IOReport lists no energy channel that is known for this chip")
        periods, _ = update_periods({source: self._reader(field) for source, _, field in present}, _POLL_S)
        self._domains = [
            Domain(name + "-ioreport", part, "counter", "modelled", "ioreport", _MILLI, periods[name], source=name)
            for name, part, _ in present
        ]

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        fields = {source: field for source, _, field in _RAILS}
        before_ns = time.monotonic_ns()
        try:
            energies = self._monitor.get_cumulative_energy()
        except RuntimeError as error:
            raise ProbeFailed(f"IOReport can't be read any more: {error}") from None
        now_ns = (before_ns + time.monotonic_ns()) // 2
        return [
            Reading(domain.name, now_ns, getattr(energies, fields[domain.source]) * _MILLI) for domain in self._domains
        ]

    def close(self) -> None:
        self._monitor = None

    def _reader(self, field: str) -> Any:
        return lambda: getattr(self._monitor.get_cumulative_energy(), field)


create = IoReport
