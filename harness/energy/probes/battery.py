"""A laptop's battery: what the whole machine draws while it runs on it, display included.

The option is where sysfs is mounted: ``battery:/host/sys``. Readings come from the battery's own controller, seconds
apart, and only while it discharges and no charger is plugged in: otherwise they tell nothing about what the machine
draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import ProbeFailed, ProbeUnavailable
from harness.core.quantities import Facts
from harness.core.wording import number
from harness.energy.probes.base import Probe, ProbeContext, Role, update_periods
from harness.energy.readings import LOST, Domain, Reading
from harness.energy.sysfs import read_number, read_text

_WATCH_S = (2.0, 6.0, 18.0)
"""How long the reading is watched at the start: longer where it hardly changed before."""
_NAME = "battery"
_CHARGERS = ("Mains", "USB", "Wireless", "BrickID")
_MICRO, _PICO = 1e-6, 1e-12
_RESOLUTION_W = 1e-3
_REMEDY = "unplug the charger, or choose another power source"


class Battery(Probe):
    """All batteries of the machine together: they take turns."""

    role: Role = "machine"
    note = ""

    def __init__(self, option: str | None = None) -> None:
        """``option`` is where sysfs is mounted."""
        self._supplies = Path(option or "/sys") / "class" / "power_supply"
        self._batteries: list[Path] = []
        self._domains: list[Domain] = []

    def open(self, context: ProbeContext) -> None:
        self._batteries = [folder for folder in sorted(self._supplies.glob("*")) if _powers_machine(folder)]
        if not self._batteries:
            raise ProbeUnavailable(f"{self._supplies} has no battery that powers the machine")
        if reason := self._plugged_in():
            raise ProbeUnavailable(reason, _REMEDY)
        try:
            self._power_w()
        except ValueError as error:
            raise ProbeUnavailable(str(error)) from None
        period_s = self._period_s()
        self._domains = [
            Domain(
                _NAME,
                "system",
                "power",
                "integrated",
                "battery",
                _RESOLUTION_W,
                period_s,
                averaging_s=period_s,
                source=_NAME,
                lost_means="the battery said that it discharges and delivers 0 W",
            )
        ]
        self.note = f"the machine's draw, display included, as its battery tells it every {number(period_s, 2)} s"

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        before_ns = time.monotonic_ns()
        if reason := self._plugged_in():
            raise ProbeFailed(f"{reason} in the midst of measuring: {_REMEDY}")
        try:
            power_w = self._power_w()
        except ValueError as error:
            raise ProbeFailed(str(error)) from None
        # Controllers show 0 until their first reading after the charger was unplugged.
        return [Reading(_NAME, (before_ns + time.monotonic_ns()) // 2, power_w or LOST)]

    def conditions(self) -> Facts:
        charges = [charge for each in self._batteries if (charge := read_number(each / "capacity")) is not None]
        return {"charge_percent": min(charges, default=None)}

    def close(self) -> None:
        self._batteries = []

    def _plugged_in(self) -> str | None:
        """Why the battery's power isn't the machine's now; None while the machine runs on it alone."""
        for supply in sorted(self._supplies.glob("*")):
            kind = read_text(supply / "type") or ""
            # 1 is a charger of fixed voltage, 2 one whose voltage is set (sysfs-class-power).
            if kind.startswith(_CHARGERS) and (read_number(supply / "online") or 0) > 0:
                return f"the charger is plugged in ({supply.name})"
        states = {each.name: read_text(each / "status") for each in self._batteries}
        if "Charging" in states.values() or "Discharging" not in states.values():
            told = ", ".join(f"{name} is {(state or 'unreadable').lower()}" for name, state in states.items())
            return f"the machine doesn't run on its battery ({told})"
        return None

    def _power_w(self) -> float:
        """What all batteries deliver, in W. Raises ValueError when it can't be told."""
        return sum(_delivered_w(each) for each in self._batteries)

    def _period_s(self) -> float:
        """Time between updates. Raises ProbeUnavailable where the reading changes too rarely to measure by."""
        for watch_s in _WATCH_S:
            periods, still = update_periods({_NAME: self._last_known_w}, watch_s)
            if not still:
                return periods[_NAME]
        raise ProbeUnavailable(f"the battery's power changed less than three times in {number(_WATCH_S[-1])} s")

    def _last_known_w(self) -> float:
        try:
            return self._power_w()
        except ValueError:
            return -1.0


def _powers_machine(folder: Path) -> bool:
    """Whether a power supply is a battery of the machine, and not that of a mouse or headset."""
    return read_text(folder / "type") == "Battery" and read_text(folder / "scope") != "Device"


def _delivered_w(battery: Path) -> float:
    """What one battery delivers now, in W; drivers differ in the sign. Raises ValueError."""
    if read_text(battery / "status") != "Discharging":
        return 0.0
    microwatts = read_number(battery / "power_now")
    if microwatts is not None:
        return abs(microwatts) * _MICRO
    microamperes, microvolts = read_number(battery / "current_now"), read_number(battery / "voltage_now")
    if microamperes is None or microvolts is None:
        raise ValueError(f"{battery} tells neither its power nor its current and voltage")
    return abs(microamperes * microvolts) * _PICO


create = Battery
