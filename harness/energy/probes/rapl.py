"""CPU packages, DRAM and platform through Linux's powercap tree (Intel RAPL and AMD's equivalent).

The option is where sysfs is mounted, for containers that see the host's elsewhere: ``rapl:/host/sys``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import ProbeFailed, ProbeUnavailable
from harness.core.quantities import Component, Facts
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.readings import Domain, Reading
from harness.energy.sysfs import read_number, read_quickly, read_text

_UPDATE_S = 0.001
"""The registers are updated about every millisecond (Intel SDM, volume 3, "RAPL interfaces")."""
_WATCH_S = 0.05
_RESOLUTION_J = 2.0**-14
"""The usual energy unit, 61 µJ; some parts and the DRAM domain count finer."""
_MICRO = 1e-6
_SLOW_READ_NS, _TRIES = 200_000, 4
"""A read takes about 20 µs; one that took ten times as long is tried again."""


class Rapl(Probe):
    """Packages, their DRAM, and psys. Core and uncore lie inside the package and are left out."""

    role: Role = "meter"
    note = "CPU package counters; cores, uncore and mmio twins are inside the packages"

    def __init__(self, option: str | None = None) -> None:
        """``option`` is where sysfs is mounted."""
        self._sysfs = Path(option or "/sys")
        self._files: dict[str, Path] = {}
        self._domains: list[Domain] = []
        self._throttle_counts: list[Path] = []
        self._throttled: int | None = None
        self._temperatures: list[Path] = []

    def open(self, context: ProbeContext) -> None:
        zones = list(_zones(self._sysfs / "class" / "powercap").items())
        if not zones:
            raise ProbeUnavailable(
                f"{self._sysfs}/class/powercap has no RAPL zones: this kernel, virtual machine or container has none",
                "run on the machine itself with the kernel module intel_rapl_msr loaded, or give a container the "
                "host's sysfs and name it: --probes rapl:/host/sys",
            )
        unreadable = [file for _, file in zones if not os.access(file, os.R_OK)]
        if unreadable:
            raise ProbeUnavailable(f"{unreadable[0]} may be read by root only", _udev_remedy())
        dead = [source for source, file in zones if _is_dead(file)]
        zones = [(source, file) for source, file in zones if source not in dead]
        if not zones:
            names = ", ".join(dead)
            raise ProbeUnavailable(f"{names} count nothing: a virtual machine shows counters that it does not have")
        if dead:
            self.note += f"; {', '.join(dead)} left out: counts nothing on this machine"
        for source, file in zones:
            domain = _domain(source, file)
            self._domains.append(domain)
            self._files[domain.name] = file
        self._find_thermal()

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        readings = []
        for name, file in list(self._files.items()):
            try:
                time_ns, microjoules = _dated(file)
            except (OSError, ValueError) as error:
                del self._files[name]
                raise ProbeFailed(f"{file} can't be read any more: {error}", (name,)) from None
            readings.append(Reading(name, time_ns, microjoules * _MICRO))
        return readings

    def conditions(self) -> Facts:
        counts = [count for file in self._throttle_counts if (count := read_number(file)) is not None]
        throttled = sum(counts) if counts else None
        before, self._throttled = self._throttled, throttled
        slowed = before is not None and throttled is not None and throttled > before
        degrees = [value / 1000 for file in self._temperatures if (value := read_number(file)) is not None]
        return {
            "temperature_c": max(degrees, default=None),
            "thermal_throttle_count": throttled,
            "disturbed": "the CPU was thermally throttled" if slowed else None,
        }

    def close(self) -> None:
        self._files = {}

    def _find_thermal(self) -> None:
        """The throttle counter of one CPU per package, and the packages' temperatures."""
        cpus = self._sysfs / "devices" / "system" / "cpu"
        packages: dict[int | None, Path] = {}
        for file in sorted(cpus.glob("cpu[0-9]*/thermal_throttle/package_throttle_count")):
            packages.setdefault(read_number(file.parents[1] / "topology" / "physical_package_id"), file)
        self._throttle_counts = list(packages.values())
        for kind in sorted((self._sysfs / "class" / "thermal").glob("thermal_zone*/type")):
            if read_text(kind) == "x86_pkg_temp":
                self._temperatures.append(kind.with_name("temp"))


def _zones(root: Path) -> dict[str, Path]:
    """Energy file of every zone that counts, by source: ``package-0``, ``package-0-die-1``, ``dram-0``, ``psys-1``.

    The mmio zones read the same packages through other registers: they count where the package has no zone of its own.
    """
    found: dict[str, Path] = {}
    for kind in ("intel-rapl", "intel-rapl-mmio"):
        for zone in sorted(root.glob(f"{kind}:*")):
            name, file = read_text(zone / "name"), zone / "energy_uj"
            if name is None or not file.exists():
                continue
            if name == "dram":
                parent = read_text(root / zone.name.rpartition(":")[0] / "name") or zone.name
                name = parent.replace("package", "dram")
            elif not re.fullmatch(r"psys(-\d+)?|package-\d+(-die-\d+)?", name):
                continue  # cores and uncore lie inside their package
            found.setdefault(name, file)
    return found


def _is_dead(file: Path) -> bool:
    """Whether a counter has stood at 0 since the machine was started, as that of DRAM does on many desktop parts."""
    if read_number(file) != 0:
        return False
    time.sleep(_WATCH_S)
    return read_number(file) == 0


def _domain(source: str, file: Path) -> Domain:
    components: dict[str, Component] = {"psys": "system", "dram": "dram"}
    wrap = read_number(file.with_name("max_energy_range_uj"))
    wrap_j = wrap * _MICRO if wrap is not None and wrap > 0 else None
    name = f"cpu-{source}" if source.startswith("package") else source
    component = components.get(source.partition("-")[0], "cpu")
    return Domain(name, component, "counter", "counter", "rapl", _RESOLUTION_J, _UPDATE_S, wrap_j=wrap_j, source=source)


def _udev_remedy() -> str:
    """How an administrator lets this user's group read the counters."""
    import grp

    try:
        group = grp.getgrgid(os.getgid()).gr_name
    except KeyError:
        group = str(os.getgid())  # containers give numbers that have no name
    rule = (
        f'SUBSYSTEM=="powercap", KERNEL=="intel-rapl:*", RUN+="/bin/chgrp {group} /sys%p/energy_uj", '
        'RUN+="/bin/chmod 0440 /sys%p/energy_uj"'
    )
    return (
        f"an administrator can let the group {group} read it: write the line {rule} to "
        "/etc/udev/rules.d/70-rapl.rules, then run: udevadm control --reload && "
        "udevadm trigger --subsystem-match=powercap --action=add"
    )


def _dated(file: Path) -> tuple[int, int]:
    """A counter in µJ and when it was read, in ns. Raises OSError or ValueError.

    A process that is put aside in the midst of a read can't tell when it was: it reads again.
    """
    found: list[tuple[int, int, int]] = []
    while len(found) < _TRIES and (not found or found[-1][0] > _SLOW_READ_NS):
        before_ns = time.monotonic_ns()
        microjoules = int(read_quickly(file))
        took_ns = time.monotonic_ns() - before_ns
        found.append((took_ns, before_ns + took_ns // 2, microjoules))
    _, time_ns, microjoules = min(found)
    return time_ns, microjoules


create = Rapl
