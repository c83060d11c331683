"""Power and energy inputs of Linux's hwmon: Jetson boards, ACPI power meters, AMD GPUs and others whose place is known.

The option is where sysfs is mounted (``hwmon:/host/sys``) or one device's folder (``hwmon:/sys/class/hwmon/hwmon3``).
Jetson rails: NVIDIA's Jetson Linux Developer Guide, "Power monitor", and the boards' device trees. A rail whose place
is not known is named in the note and never added to anything.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import ProbeFailed, ProbeUnavailable
from harness.core.quantities import Component
from harness.core.wording import number
from harness.energy.gpu_ids import amd_gpu_id
from harness.energy.probes.base import Probe, ProbeContext, Role, update_periods
from harness.energy.readings import Domain, Reading, Scope
from harness.energy.sysfs import read_number, read_quickly, read_text

_WATCH_S, _WATCH_ON_S = 1.0, 5.0
"""How long updates are watched at the start, and how much longer those that hardly changed meanwhile."""
_SLOW_S = 0.5
"""A meter of the whole machine with longer between its updates is read where there is nothing else, or by name."""
_MILLI, _MICRO = 1e-3, 1e-6
_SHUNT_STEP_V, _USUAL_SHUNT_OHM = 40e-6, 5e-3
"""An INA3221 counts in steps of 40 µV over its shunt (data sheet), 5 mΩ on Jetson boards."""
_AMDGPU_STEP_W = 1.0
_AMD_ENERGY_STEP_J = 2.0**-16


class _Part(NamedTuple):
    """What an input measures."""

    component: Component
    scope: Scope | None = None


_RAILS: dict[str, _Part] = {
    **dict.fromkeys(("VDD_GPU_SOC", "VDD_GPU", "POM_5V_GPU", "VDD_SYS_GPU", "GPU"), _Part("gpu")),
    **dict.fromkeys(("VDD_CPU_CV", "VDD_CPU", "POM_5V_CPU", "VDD_SYS_CPU", "CPU", "VDD_CPU_SOC_MSS"), _Part("cpu")),
    **dict.fromkeys(("VDDRQ", "VDD_SYS_DDR", "VDDQ_VDD2_1V8AO"), _Part("dram")),
    # One rail for CPU and GPU together: it counts as a whole that holds both.
    **dict.fromkeys(("VDD_CPU_GPU_CV", "VDD_CPU_GPU"), _Part("system", "module")),
    **dict.fromkeys(("VDD_IN", "POM_5V_IN", "5V_IN", "VIN"), _Part("system")),
}
"""Rails of Jetson boards by their labels: TX1, TX2, Nano, Xavier, Orin, Thor."""

_METERS: tuple[tuple[str, str, _Part], ...] = (
    # NVIDIA Grace has a meter for each of several things, told apart by their texts.
    ("power_meter", r"Module Power Socket \d+", _Part("system", "module")),
    ("power_meter", r"Grace Power Socket \d+", _Part("cpu")),
    ("power_meter", r"power\d+", _Part("system")),
    ("amdgpu", r".*", _Part("gpu")),
    ("amd_energy", r"Esocket\d+", _Part("cpu")),
    ("ibmpowernv", r"System", _Part("system")),
    ("corsairpsu", r"power total", _Part("system")),
)
"""By chip and label, what is measured."""


@dataclass(frozen=True)
class _Input:
    domain: Domain
    read: Callable[[], float]
    """In J or W. Raises OSError or ValueError."""


class Hwmon(Probe):
    """Every input whose place in the machine is known."""

    role: Role = "meter"
    note = ""

    def __init__(self, option: str | None = None) -> None:
        """``option`` is where sysfs is mounted, or the folder of one device."""
        self._root = Path(option or "/sys")
        self._one = _exists(self._root / "name")
        self._inputs: list[_Input] = []
        self._domains: list[Domain] = []

    def open(self, context: ProbeContext) -> None:
        inputs: list[_Input] = []
        unknown: list[str] = []
        refused: list[str] = []
        for folder in _devices(self._root):
            for found in _inputs(folder):
                what = f"{found.chip} {found.label}"
                part = _part(found, context)
                if part is None:
                    unknown.append(what)
                    continue
                try:
                    found.read()
                except (OSError, ValueError) as error:
                    refused.append(f"{what} ({getattr(error, 'strerror', None) or error})")
                    continue
                inputs.append(_Input(_domain(found, part, [i.domain.name for i in inputs]), found.read))
        if not inputs:
            raise self._unavailable(unknown, refused)
        notes = [f"{name} is left out" for name in refused] + self._time(inputs)
        if unknown:
            notes.append(f"not added to anything, because what they hold is not known here: {', '.join(unknown)}")
        self.note = "; ".join(("power inputs of the kernel's hwmon, accuracy as their makers say", *notes))

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        readings = []
        for each in list(self._inputs):
            before_ns = time.monotonic_ns()
            try:
                value = each.read()
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno == errno.EAGAIN:
                    continue  # nothing new yet
                self._inputs.remove(each)
                raise ProbeFailed(f"{each.domain.name} can't be read any more: {error}", (each.domain.name,)) from None
            readings.append(Reading(each.domain.name, (before_ns + time.monotonic_ns()) // 2, value))
        return readings

    def close(self) -> None:
        self._inputs = []

    def _unavailable(self, unknown: Sequence[str], refused: Sequence[str]) -> ProbeUnavailable:
        if refused:
            remedy = "an administrator can allow it" if os.strerror(errno.EACCES) in "".join(refused) else None
            return ProbeUnavailable(f"can't be read: {', '.join(refused)}", remedy)
        if unknown:
            return ProbeUnavailable(
                f"what {', '.join(unknown)} holds is not known here, or it is not part of what computes",
                "a program of yours can read it: --probes command:FILE.toml",
            )
        return ProbeUnavailable(
            f"{self._root} has no power or energy inputs",
            "run on the machine itself, or give a container the host's sysfs and name it: --probes hwmon:/host/sys",
        )

    def _time(self, inputs: Sequence[_Input]) -> list[str]:
        """Find out how often each input is updated, and keep those worth waiting for. Returns notes on the others."""
        readers = {each.domain.name: _tolerant(each.read) for each in inputs}
        periods, still = update_periods(readers, _WATCH_S)
        if still:
            slow, _ = update_periods({name: readers[name] for name in still}, _WATCH_ON_S)
            periods |= slow
        for each in inputs:
            domain = replace(each.domain, period_s=periods[each.domain.name])
            if domain.kind == "power" and domain.averaging_s is None:
                # What is averaged over is not told; no longer than an update for chips that show their latest sample.
                domain = replace(domain, averaging_s=domain.period_s)
            self._inputs.append(replace(each, domain=domain))
        late = [each for each in self._inputs if _is_slow_machine(each.domain)]
        if len(late) == len(self._inputs) or self._one:
            late = []
        self._inputs = [each for each in self._inputs if each not in late]
        self._domains = [each.domain for each in self._inputs]
        remedy = "is left out because windows would wait for it (name its folder to use it: --probes hwmon:FOLDER)"
        return [f"{each.domain.name} (every {number(each.domain.period_s or 0.0, 2)} s) {remedy}" for each in late]


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:
        return False  # nobody may look there, or no file can have that name


def _tolerant(read: Callable[[], float]) -> Callable[[], float]:
    """A reader that gives -1 where there is nothing to read just now."""

    def tolerant() -> float:
        try:
            return read()
        except (OSError, ValueError):
            return -1.0

    return tolerant


def _is_slow_machine(domain: Domain) -> bool:
    return domain.component == "system" and domain.scope is None and (domain.period_s or 0.0) > _SLOW_S


class _Found(NamedTuple):
    """An input as its chip and label name it."""

    folder: Path
    chip: str
    label: str
    kind: str
    """``power`` or ``energy``."""
    read: Callable[[], float]
    averaging_s: float | None
    resolution: float


def _devices(root: Path) -> Iterator[Path]:
    """Folders that hold inputs: hwmon's, and those of Jetson's older driver, which is an iio device."""
    if _exists(root / "name"):
        yield root
        return
    for device in sorted((root / "class" / "hwmon").glob("hwmon*")):
        # Older drivers have their files one floor below.
        yield device if (device / "name").exists() else device / "device"
    yield from sorted((root / "bus" / "i2c" / "drivers" / "ina3221x").glob("*/iio:device*"))


def _inputs(folder: Path) -> Iterator[_Found]:
    chip = read_text(folder / "name") or "unnamed"
    if chip.startswith("ina3221"):
        yield from _rails(folder, chip)
        return
    seen = set()
    # A momentary value says more than an average, and stands first.
    for file in sorted(folder.glob("power*_input")) + sorted(folder.glob("power*_average")):
        number = file.name.partition("_")[0]
        if re.fullmatch(r"power\d+", number) and number not in seen:
            seen.add(number)
            interval_ms = read_number(folder / f"{number}_average_interval")
            averaging_s = interval_ms * _MILLI if interval_ms and file.name.endswith("_average") else None
            step_w = _AMDGPU_STEP_W if chip == "amdgpu" else _MILLI
            yield _Found(folder, chip, _label(folder, number), "power", _scaled(file, _MICRO), averaging_s, step_w)
    for file in sorted(folder.glob("energy*_input")):
        number = file.name.partition("_")[0]
        yield _Found(folder, chip, _label(folder, number), "energy", _scaled(file, _MICRO), None, _AMD_ENERGY_STEP_J)


def _rails(folder: Path, chip: str) -> Iterator[_Found]:
    """The three channels of an INA3221: volts × amperes, or the power that Jetson's older driver tells."""
    for channel in (1, 2, 3):
        volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
        if volts.exists() and amperes.exists():
            label = read_text(folder / f"in{channel}_label") or f"in{channel}"
            if label == "NC":
                continue  # not connected
            shunt_ohm = (read_number(folder / f"shunt{channel}_resistor") or 0) * _MICRO or _USUAL_SHUNT_OHM
            step_w = _SHUNT_STEP_V / shunt_ohm * (read_number(volts) or 0) * _MILLI or _MILLI
            yield _Found(folder, chip, label, "power", _product(volts, amperes), None, step_w)
    for channel in (0, 1, 2):
        power = folder / f"in_power{channel}_input"
        if power.exists():
            label = read_text(folder / f"rail_name_{channel}") or f"in_power{channel}"
            yield _Found(folder, chip, label, "power", _scaled(power, _MILLI), None, _MILLI)


def _scaled(file: Path, unit: float) -> Callable[[], float]:
    return lambda: int(read_quickly(file)) * unit


def _product(volts: Path, amperes: Path) -> Callable[[], float]:
    """Millivolts × milliamperes, in W."""
    return lambda: int(read_quickly(volts)) * int(read_quickly(amperes)) * _MICRO


def _label(folder: Path, number: str) -> str:
    return read_text(folder / f"{number}_label") or read_text(folder / f"{number}_oem_info") or number


def _part(found: _Found, context: ProbeContext) -> _Part | None:
    """What an input measures; None where that isn't known or, for a GPU, where another one computes."""
    if found.chip.startswith("ina3221"):
        part = _RAILS.get(found.label)
    else:
        matches = (p for chip, label, p in _METERS if chip == found.chip and re.fullmatch(label, found.label))
        part = next(matches, None)
    if part is not None and part.component == "gpu":
        on_gpu = context.device != "cpu" or context.gpu_uuids
        if not on_gpu or (found.chip == "amdgpu" and not _computes(found.folder, context.gpu_uuids)):
            return None
    return part


def _computes(folder: Path, uuids: Sequence[str]) -> bool:
    """Whether an amdgpu device is a card of its own and one of those named, or any where none is named.

    A processor's own graphics show the power of the whole chip, and have no cap of their own (amdgpu_pm.c).
    """
    if not (folder / "power1_cap").exists():
        return False
    unique = read_text(folder / "device" / "unique_id")
    return not uuids or (unique is not None and amd_gpu_id(unique) in {amd_gpu_id(uuid) for uuid in uuids})


def _domain(found: _Found, part: _Part, taken: Sequence[str]) -> Domain:
    """An input as a domain, whose period is still to be found, under a name that is not taken."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{found.chip}-{found.label}".lower()).strip("-")
    if name in taken:
        name += f"-{found.folder.name.removeprefix('hwmon')}"
    source = f"hwmon:{name}"
    if found.chip == "amdgpu":
        source = f"gpu:{(found.folder / 'device').resolve().name.rpartition('.')[0]}"  # as amd names a socket
    counter = found.kind == "energy"
    return Domain(
        name,
        part.component,
        "counter" if counter else "power",
        "counter" if counter else "integrated",
        "hwmon",
        found.resolution,
        averaging_s=found.averaging_s,
        source=source,
        scope=part.scope,
    )


create = Hwmon
