"""A synthetic power source with a known integral, read on the real clock. Method as its sensor says.

Options, separated by colons: ``kind=counter|power``, ``period_s``, ``averaging_s``, ``idle_w``,
``busy_w``, ``cycle_s`` (half of it idle, half busy), ``fail_after_s`` (the sensor dies that long after it was
opened), ``unavailable`` (it can't be opened). Example: ``fake:kind=power:period_s=0.1:fail_after_s=2``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from harness.core.errors import ProbeFailed, ProbeUnavailable, UserError
from harness.core.quantities import Facts
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.readings import Domain, Reading

_DEFAULTS = {
    "kind": "counter",
    "period_s": "0.02",
    "averaging_s": "0.02",
    "idle_w": "50",
    "busy_w": "250",
    "cycle_s": "0.5",
    "fail_after_s": "inf",
    "unavailable": "",
}
_NS = 1e9


class Fake(Probe):
    """A square wave between ``idle_w`` and ``busy_w``, anchored at CLOCK_MONOTONIC 0."""

    role: Role = "synthetic"
    note = "synthetic square wave: no measurement"

    def __init__(self, option: str | None = None) -> None:
        """``option`` as described above. Raises UserError for a wrong one."""
        settings = _parse(option)
        self._kind = settings.pop("kind")
        self._unavailable = settings.pop("unavailable") != ""
        try:
            numbers = {name: float(text) for name, text in settings.items()}
        except ValueError as error:
            raise UserError(f"probe fake: {error}") from None
        self._period_s, self._averaging_s = numbers["period_s"], numbers["averaging_s"]
        self._idle_w, self._busy_w, self._cycle_s = numbers["idle_w"], numbers["busy_w"], numbers["cycle_s"]
        self._fail_after_s = numbers["fail_after_s"]
        self._opened_s = 0.0

    def open(self, context: ProbeContext) -> None:
        if self._unavailable:
            raise ProbeUnavailable("the synthetic sensor was told not to work", "leave out the word unavailable")
        self._opened_s = time.monotonic()

    def domains(self) -> Sequence[Domain]:
        counter = Domain("fake", "gpu", "counter", "counter", "fake", 0.001, self._period_s, source="fake")
        if self._kind == "counter":
            return [counter]
        return [replace(counter, kind="power", method="integrated", averaging_s=self._averaging_s)]

    def read(self) -> Sequence[Reading]:
        now_ns = time.monotonic_ns()
        now_s = now_ns / _NS
        if now_s - self._opened_s > self._fail_after_s:
            raise ProbeFailed("the synthetic sensor was told to die")
        update_s = math.floor(now_s / self._period_s) * self._period_s
        if self._kind == "counter":
            value = self.energy_j(self._opened_s, update_s) if update_s > self._opened_s else 0.0
        else:
            value = self.energy_j(update_s - self._averaging_s, update_s) / self._averaging_s
        return [Reading("fake", now_ns, value)]

    def energy_j(self, start_s: float, end_s: float) -> float:
        """True energy between two CLOCK_MONOTONIC times in seconds."""
        return self._cumulative_j(end_s) - self._cumulative_j(start_s)

    def conditions(self) -> Facts:
        return {"temperature_c": 40.0, "disturbed": None}

    def _cumulative_j(self, time_s: float) -> float:
        cycles, rest = divmod(time_s, self._cycle_s)
        half = self._cycle_s / 2.0
        busy_s = cycles * half + max(rest - half, 0.0)
        return self._idle_w * time_s + (self._busy_w - self._idle_w) * busy_s


def _parse(option: str | None) -> dict[str, str]:
    settings = dict(_DEFAULTS)
    for part in (option or "").split(":"):
        name, _, text = part.strip().partition("=")
        if name and name not in _DEFAULTS:
            raise UserError(f"probe fake has no option {name!r}: choose from {', '.join(_DEFAULTS)}")
        if name:
            settings[name] = text or "yes"
    if settings["kind"] not in ("counter", "power"):
        raise UserError("probe fake: kind is counter or power")
    return settings


create = Fake
