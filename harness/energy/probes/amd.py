"""AMD GPUs through the package ``amdsmi``: a socket's energy accumulator and its power, side by side.

An accumulator counts in steps of about 15 µJ, since the driver was loaded. Partitions (CPX, NPS) and the functions of
one board share that of their socket, so that a socket is one source. On some boards it was seen to stand still until a
restart (ROCm/amdsmi, issues 22 and 38): such a one is refused and power is integrated.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import ProbeFailed, ProbeUnavailable, pip_install
from harness.core.quantities import Facts
from harness.core.wording import number
from harness.energy.document_stream import IntervalEnds
from harness.energy.foreign_load import foreign_pids, named_pids
from harness.energy.gpu_ids import amd_gpu_id
from harness.energy.probes import refuse_option
from harness.energy.probes.base import Probe, ProbeContext, Role, update_periods
from harness.energy.readings import Domain, Reading

_POLL_S = 1.0
_MICRO = 1e-6
_STEP_W = 1.0
_STEP_J = 15.3 * _MICRO
_POWERS = ("current_socket_power", "average_socket_power", "socket_power")
"""Newer boards have the first, older ones the second; the others then hold "N/A"."""
_TICKS_NS = (1.0, 10.0)
"""Lengths of a tick of the accumulator's time stamp."""
_EVEN = 0.02
_FAR = 2.0
"""Power that is so many times what the accumulator counts, or less than one such part, is not power."""
_LIBRARY = {7: (26,), 6: (23, 24, 25)}
"""By ROCm's major version, that of the library; the package from PyPI is named after the former."""
_FITTING = "install the package that came with the driver: pip install /opt/rocm/share/amd_smi"


@dataclass
class _Stamps:
    """An accumulator's own time stamps on this process's clock, where they prove to be true."""

    tick_ns: float | None = None
    ends: IntervalEnds | None = None
    last: int | None = None

    def date(self, stamp: int, now_ns: int) -> int | None:
        """When what is read now was counted; None where it was read before."""
        if self.tick_ns is None or self.ends is None:
            return now_ns
        if stamp == self.last:
            return None
        since_ns = 0 if self.last is None else int((stamp - self.last) * self.tick_ns)
        self.last = stamp
        return self.ends.add(now_ns, since_ns)


@dataclass
class _Socket:
    handles: list[Any]
    """Of its functions or partitions; the first tells energy and power of all."""
    bdf: str
    label: str
    counter: Domain | None
    power: Domain | None
    stamps: _Stamps

    @property
    def handle(self) -> Any:
        return self.handles[0]


class Amd(Probe):
    """Every socket whose GPU the backend computes on, found by its unique id, UUID or PCI address."""

    role: Role = "meter"
    note = ""

    def __init__(self, option: str | None = None) -> None:
        """Raises UserError for any option."""
        refuse_option("amd", option)
        self._smi: Any = None
        self._context = ProbeContext()
        self._sockets: list[_Socket] = []
        self._domains: list[Domain] = []

    def open(self, context: ProbeContext) -> None:
        if context.device == "cpu" and not context.gpu_uuids:
            raise ProbeUnavailable("the backend computes on the CPU, not on an AMD GPU")
        self._context = context
        self._smi = _load()
        notes: list[str] = []
        try:
            handles = self._computing(self._smi.amdsmi_get_processor_handles())
            self._sockets = [self._socket(at, bdf, its, notes) for at, (bdf, its) in enumerate(handles.items())]
        except self._smi.AmdSmiException as error:
            raise ProbeUnavailable(f"the AMD driver refused: {_said(error)}", "check that amd-smi works") from None
        self._sockets = [socket for socket in self._sockets if socket.counter or socket.power]
        if not self._sockets:
            raise ProbeUnavailable("; ".join(notes) or "the AMD driver sees no GPU")
        self._watch(notes)
        self._domains = self._readable()
        self.note = "; ".join(("socket energy and power as the GPU's firmware tells them", *dict.fromkeys(notes)))

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        readings: list[Reading] = []
        for socket in self._sockets:
            try:
                readings += self._read(socket)
            except (self._smi.AmdSmiException, _NoPower) as error:
                self._sockets = [other for other in self._sockets if other is not socket]
                names = tuple(domain.name for domain in (socket.counter, socket.power) if domain)
                raise ProbeFailed(f"{socket.label}: {_said(error)}", names) from None
        return readings

    def conditions(self) -> Facts:
        gpus = {socket.bdf: self._conditions(socket) for socket in self._sockets}
        sharers = [
            f"{named_pids(pids)} used {socket.label}"
            for socket in self._sockets
            if (pids := gpus[socket.bdf]["foreign_processes"])
        ]
        return {"gpus": gpus, "energy_of_others": "; ".join(sharers) or None}

    def close(self) -> None:
        if self._smi is not None:
            smi, self._smi = self._smi, None
            self._sockets = []
            try:
                smi.amdsmi_shut_down()
            except smi.AmdSmiException:
                return  # a driver that is gone has nothing left to shut down

    def _readable(self) -> list[Domain]:
        return [domain for socket in self._sockets for domain in (socket.counter, socket.power) if domain]

    def _computing(self, handles: Sequence[Any]) -> dict[str, list[Any]]:
        """Handles by their socket, its first function first; only sockets on which the backend computes."""
        sockets: dict[str, list[Any]] = {}
        addressed = [(self._smi.amdsmi_get_gpu_device_bdf(handle), handle) for handle in handles]
        for bdf, handle in sorted(addressed, key=lambda pair: pair[0]):
            sockets.setdefault(bdf.rpartition(".")[0], []).append(handle)
        wanted = {amd_gpu_id(uuid) for uuid in self._context.gpu_uuids}
        if not wanted:
            return sockets
        names = {bdf: {name for handle in its for name in self._names(handle)} for bdf, its in sockets.items()}
        found = {bdf: its for bdf, its in sockets.items() if wanted & names[bdf]}
        if not found:
            raise ProbeUnavailable("none of the GPUs that compute is an AMD GPU that amdsmi lists")
        if missing := wanted.difference(*names.values()):
            reason = f"amdsmi lists no GPU {', '.join(sorted(missing))}, which computes too"
            raise ProbeUnavailable(reason, "compare with the output of amd-smi list")
        return found

    def _names(self, handle: Any) -> set[str]:
        """All that a GPU may be called, in one spelling."""
        smi = self._smi
        enumerated = self._try(smi.amdsmi_get_gpu_enumeration_info, handle) or {}
        asic = self._try(smi.amdsmi_get_gpu_asic_info, handle) or {}
        names = (
            self._try(smi.amdsmi_get_gpu_device_uuid, handle),
            self._try(smi.amdsmi_get_gpu_device_bdf, handle),
            enumerated.get("hip_uuid"),
            asic.get("asic_serial"),
        )
        return {amd_gpu_id(str(name)) for name in names if name and name != "N/A"}

    def _socket(self, at: int, bdf: str, handles: list[Any], notes: list[str]) -> _Socket:
        """Find out what one socket can read: by its first function, which holds it for all."""
        name = f"amd{at}"
        asic = self._try(self._smi.amdsmi_get_gpu_asic_info, handles[0]) or {}
        socket = _Socket(handles, bdf, f"GPU {bdf} ({asic.get('market_name', 'AMD')})", None, None, _Stamps())
        if len(handles) > 1:
            notes.append(f"{bdf} is in {len(handles)} partitions: the whole socket's energy is read")
        counter = Domain(f"{name}-counter", "gpu", "counter", "counter", "amd", _STEP_J, source=f"gpu:{bdf}")
        power = replace(counter, name=f"{name}-power", kind="power", method="integrated", resolution=_STEP_W)
        if self._try(self._energy, socket) is not None:
            socket.counter = counter
        else:
            notes.append(f"{name} has no energy counter (a guest has none, nor the second die of a board)")
        if self._try(self._power_w, socket) is not None:
            socket.power = power
        elif socket.counter is None:
            notes.append(f"{socket.label} tells no power either")
        return socket

    def _watch(self, notes: list[str]) -> None:
        """Find update periods; refuse accumulators that stand still and power that is none. Raises ProbeUnavailable."""
        seen: dict[str, list[tuple[int, int, float]]] = {s.counter.name: [] for s in self._sockets if s.counter}
        readers: dict[str, Callable[[], float]] = {}
        for socket in self._sockets:
            if socket.counter:
                readers[socket.counter.name] = self._watched(socket, seen[socket.counter.name])
            if socket.power:
                readers[socket.power.name] = lambda socket=socket: self._power_w(socket)  # type: ignore[misc]
        try:
            periods, still = update_periods(readers, _POLL_S)
            for socket in self._sockets:
                self._judge(socket, seen, notes)
        except (self._smi.AmdSmiException, _NoPower) as error:
            raise ProbeUnavailable(f"the AMD driver refused: {_said(error)}") from None
        for socket in self._sockets:
            if socket.counter:
                socket.counter = replace(socket.counter, period_s=periods[socket.counter.name])
            if socket.power:
                period_s = periods[socket.power.name]
                socket.power = replace(socket.power, period_s=period_s, averaging_s=period_s)
        kept = [domain.name for domain in self._readable()]
        if not kept:
            raise ProbeUnavailable("; ".join(notes))
        assumed = [name for name in still if name in kept]
        if assumed:
            notes.append(f"update period of {', '.join(assumed)} is assumed: it hardly changed while watched")

    def _watched(self, socket: _Socket, seen: list[tuple[int, int, float]]) -> Callable[[], float]:
        """A reader of an accumulator that also notes when it was read and its time stamp."""

        def read() -> float:
            joules, stamp = self._energy(socket)
            seen.append((time.monotonic_ns(), stamp, joules))
            return joules

        return read

    def _judge(self, socket: _Socket, seen: dict[str, list[tuple[int, int, float]]], notes: list[str]) -> None:
        """What a second of watching says of one socket's accumulator, its time stamps and its power."""
        power_w = None if socket.power is None else self._power_w(socket)
        counted_w = None
        if socket.counter is not None:
            looks = seen[socket.counter.name]
            counted_w = (looks[-1][2] - looks[0][2]) / (looks[-1][0] - looks[0][0]) * 1e9
            if counted_w <= 0.0 and power_w != 0.0:
                drawn = "" if power_w is None else f" while it draws {number(power_w)} W"
                then = "" if socket.power is None else ": power is integrated"
                notes.append(f"the energy counter of {socket.label} stands still{drawn}{then}; a restart may mend it")
                socket.counter = None
            else:
                socket.stamps = _proven(looks)
                socket.counter = replace(socket.counter, stamped=socket.stamps.tick_ns is not None)
        if socket.power is None or power_w is None:
            return
        confirmed = socket.counter and counted_w and 1.0 / _FAR < power_w / counted_w < _FAR
        if not confirmed and not self._fits():
            notes.append(f"power of {socket.label} is left out: package and library are of different ROCm versions")
            notes.append(_FITTING)
            socket.power = None

    def _fits(self) -> bool:
        """Whether package and library are of one ROCm version: if not, a structure's fields may be read as others."""
        library = self._try(self._smi.amdsmi_get_lib_version)
        try:
            major = int(str(self._smi.__version__).partition(".")[0])
        except ValueError:
            return False
        return library is not None and library["major"] in _LIBRARY.get(major, (major,))

    def _read(self, socket: _Socket) -> list[Reading]:
        readings = []
        if socket.counter:
            before_ns = time.monotonic_ns()
            joules, stamp = self._energy(socket)
            time_ns = socket.stamps.date(stamp, (before_ns + time.monotonic_ns()) // 2)
            if time_ns is not None:
                readings.append(Reading(socket.counter.name, time_ns, joules))
        if socket.power:
            before_ns = time.monotonic_ns()
            power_w = self._power_w(socket)
            readings.append(Reading(socket.power.name, (before_ns + time.monotonic_ns()) // 2, power_w))
        return readings

    def _energy(self, socket: _Socket) -> tuple[float, int]:
        """A socket's accumulator in J, and its time stamp. Older packages call the count ``power``."""
        found = self._smi.amdsmi_get_energy_count(socket.handle)
        count = found["energy_accumulator"] if "energy_accumulator" in found else found["power"]
        return count * found["counter_resolution"] * _MICRO, int(found["timestamp"])

    def _power_w(self, socket: _Socket) -> float:
        """A socket's power in W. Raises _NoPower."""
        found = self._smi.amdsmi_get_power_info(socket.handle)
        for key in _POWERS:
            if isinstance(found.get(key), int | float):
                return float(found[key])
        raise _NoPower("no power is told")

    def _conditions(self, socket: _Socket) -> dict[str, Any]:
        smi, handle = self._smi, socket.handle
        spot, now = smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
        clock = self._try(smi.amdsmi_get_clock_info, handle, smi.AmdSmiClkType.GFX) or {}
        cap = (self._try(smi.amdsmi_get_power_cap_info, handle) or {}).get("power_cap")
        return {
            "temperature_c": self._try(smi.amdsmi_get_temp_metric, handle, spot, now),
            "sm_clock_mhz": clock.get("clk", clock.get("cur_clk")),
            # Watts in some versions, microwatts in others.
            "power_limit_w": None if not cap else cap * _MICRO if cap > 1e5 else float(cap),
            "foreign_processes": self._foreign_processes(socket.handles),
        }

    def _foreign_processes(self, handles: Sequence[Any]) -> list[int] | None:
        """Ids of other processes on a socket; None where none of ours is listed, as in some containers."""
        listed = [self._try(self._smi.amdsmi_get_gpu_process_list, handle) for handle in handles]
        pids = {process["pid"] for running in listed for process in running or ()}
        return foreign_pids(pids, self._context.own_pids(pids))

    def _try(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What ``call`` returns, or None where the board, driver or package has no such thing."""
        try:
            return call(*arguments)
        except (self._smi.AmdSmiException, _NoPower, AttributeError, KeyError, TypeError, ValueError):
            return None


class _NoPower(Exception):
    """The driver answers and tells no power."""


def _proven(looks: Sequence[tuple[int, int, float]]) -> _Stamps:
    """Time stamps that keep pace with the clock and change when the count does; else none are used."""
    elapsed_ns, ticks = looks[-1][0] - looks[0][0], looks[-1][1] - looks[0][1]
    stamps, counts = len({stamp for _, stamp, _ in looks}), len({count for _, _, count in looks})
    if stamps < 10 or abs(stamps - counts) > 0.2 * counts:
        return _Stamps()
    # The first and last stamps are up to an update old.
    slack = _EVEN + 2.0 / stamps
    tick_ns = next((tick for tick in _TICKS_NS if abs(ticks * tick / elapsed_ns - 1.0) < slack), None)
    if tick_ns is None:
        return _Stamps()
    found = _Stamps(tick_ns, IntervalEnds())
    # Looks this dense find updates that are fresh. Polls as regular as these may see none for long: one that did in the
    # midst of a window would move the clocks against each other there.
    for now_ns, stamp, _ in looks:
        found.date(stamp, now_ns)
    return found


def _said(error: Exception) -> str:
    """An error in one line: the package puts several into one text."""
    return " ".join(str(getattr(error, "err_info", None) or error).split())


def _load() -> Any:
    """The initialised package. Raises ProbeUnavailable."""
    try:
        # It prints what it misses.
        with contextlib.redirect_stdout(io.StringIO()):
            import amdsmi
    except ImportError:
        raise ProbeUnavailable(
            "the package amdsmi is missing", f"where there is an AMD GPU, {_FITTING}, or {pip_install('amdsmi>=6.4')}"
        ) from None
    except (KeyError, OSError):
        raise ProbeUnavailable(
            "there is no library of the AMD driver (libamd_smi.so)",
            "where there is an AMD GPU, install ROCm's package amd-smi-lib",
        ) from None
    except AttributeError as error:
        raise ProbeUnavailable(f"the package amdsmi does not fit the driver's library: {error}", _FITTING) from None
    try:
        amdsmi.amdsmi_init()
    except amdsmi.AmdSmiException as error:
        reason = f"the AMD driver does not answer: {_said(error)}"
        raise ProbeUnavailable(reason, "check that amd-smi works, and that /dev/kfd and /dev/dri may be read") from None
    return amdsmi


create = Amd
