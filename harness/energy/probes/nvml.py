"""NVIDIA GPUs through NVML: the board's energy counter and its instant power, side by side.

Update periods are found out by polling when the probe opens. The averaging windows behind the power readings are
those of "Part-time Power Measurements" (arXiv 2312.02741); for boards that were not studied there the longest are
assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harness.core.errors import ProbeFailed, ProbeUnavailable
from harness.core.quantities import Facts
from harness.energy.foreign_load import foreign_pids, named_pids
from harness.energy.gpu_share import UtilizationShare, share_of, utilization_reader
from harness.energy.probes import refuse_option
from harness.energy.probes.base import Probe, ProbeContext, Role, update_periods
from harness.energy.readings import Domain, Reading

_POLL_S = 1.0
"""How long updates are watched at the start; ten of the slowest known sensor's."""
_MILLI = 1e-3
_CPU_WORDS = 16
"""Words of 64 processors each in a set of them."""
_UNKNOWN = (0.100, 1.000)
_GA100 = (0.025, 0.025)
_BOARDS = {
    4: (0.010, 0.010),  # Pascal
    5: (0.010, 0.010),  # Volta
    7: (0.100, 1.000),  # Ampere
    8: (0.100, 1.000),  # Ada
    9: (0.025, 1.000),  # Hopper
}
"""By NVML's architecture number, what instant and averaged power readings average over, in s."""


@dataclass(frozen=True)
class _Gpu:
    handle: Any
    uuid: str
    label: str
    readers: tuple[tuple[Domain, Callable[[], float]], ...]
    """What can be read of it, and what reads it, in J or W."""
    share: UtilizationShare | None = None
    """The worker's share of the first of these, where that was asked for."""


class Nvml(Probe):
    """Every GPU that the backend computes on, found by its UUID."""

    role: Role = "meter"
    note = ""

    def __init__(self, option: str | None = None) -> None:
        """Raises UserError for any option."""
        refuse_option("nvml", option)
        self._nvml: Any = None
        self._context = ProbeContext()
        self._gpus: list[_Gpu] = []
        self._domains: list[Domain] = []

    def open(self, context: ProbeContext) -> None:
        if context.device == "cpu" and not context.gpu_uuids:
            raise ProbeUnavailable("the backend computes on the CPU, not on an NVIDIA GPU")
        self._context = context
        self._nvml = _load()
        try:
            self._find(context)
        except self._nvml.NVMLError as error:
            raise ProbeUnavailable(f"the NVIDIA driver refused: {error}", "check that nvidia-smi works") from None

    def _find(self, context: ProbeContext) -> None:
        """Look up the GPUs, what they can read and how often that is updated. Raises ProbeUnavailable and NVMLError."""
        notes: list[str] = []
        handles = [self._by_uuid(uuid, notes) for uuid in dict.fromkeys(context.gpu_uuids)] or self._all(notes)
        gpus: dict[str, Any] = {}
        for handle in handles:
            gpus.setdefault(self._nvml.nvmlDeviceGetUUID(handle), handle)
        self._gpus = [self._describe(uuid, handle, notes) for uuid, handle in gpus.items()]
        if not any(gpu.readers for gpu in self._gpus):
            names = ", ".join(gpu.label for gpu in self._gpus)
            raise ProbeUnavailable(f"{names}: neither energy nor power can be read (vGPU or an old board)")
        readers = {domain.name: reader for gpu in self._gpus for domain, reader in gpu.readers}
        periods, assumed = update_periods(readers, _POLL_S)
        if assumed:
            notes.append(f"update period of {', '.join(assumed)} is assumed: it hardly changed while watched")
        for position, gpu in enumerate(self._gpus):
            timed = tuple((replace(domain, period_s=periods[domain.name]), read) for domain, read in gpu.readers)
            self._gpus[position] = replace(gpu, readers=timed, share=self._share(gpu) if timed else None)
        self._domains = [domain for gpu in self._gpus for domain, _ in gpu.readers]
        if shares := [gpu.share.domain for gpu in self._gpus if gpu.share]:
            self._domains += shares
            notes.append("the worker's share is estimated by NVML's utilization by process (--attribution process)")
        self.note = "board power, gain uncalibrated to a few per cent; " + "; ".join(dict.fromkeys(notes))

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        readings: list[Reading] = []
        for gpu in self._gpus:
            try:
                for domain, reader in gpu.readers:
                    before_ns = time.monotonic_ns()
                    value = reader()
                    readings.append(Reading(domain.name, (before_ns + time.monotonic_ns()) // 2, value))
                    if gpu.share and domain is gpu.readers[0][0]:
                        readings += gpu.share.account(domain, readings[-1])
            except ProbeFailed:
                self._gpus = [replace(other, share=None) if other is gpu else other for other in self._gpus]
                raise
            except self._nvml.NVMLError as error:
                self._gpus = [other for other in self._gpus if other is not gpu]
                lost = [*(domain for domain, _ in gpu.readers), *([gpu.share.domain] if gpu.share else [])]
                raise ProbeFailed(f"{gpu.label}: {error}", tuple(domain.name for domain in lost)) from None
        return readings

    def conditions(self) -> Facts:
        gpus = {gpu.uuid: self._conditions(gpu) for gpu in self._gpus}
        slowdowns, sharers = [], []
        for gpu in self._gpus:
            slowed = [name for name in gpus[gpu.uuid]["throttle_reasons"] or () if name in _SLOWDOWNS]
            if slowed:
                slowdowns.append(f"{gpu.label} was throttled ({', '.join(slowed)})")
            if pids := gpus[gpu.uuid]["foreign_processes"]:
                sharers.append(f"{named_pids(pids)} used {gpu.label}")
        # A share leaves the energy of others out, but they still took time.
        by_process = self._context.attribution == "process"
        return {
            "gpus": gpus,
            "disturbed": "; ".join([*slowdowns, *(sharers if by_process else [])]) or None,
            "energy_of_others": None if by_process else "; ".join(sharers) or None,
        }

    def close(self) -> None:
        if self._nvml is not None:
            nvml, self._nvml = self._nvml, None
            self._gpus = []
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return  # a driver that is gone has nothing left to shut down

    def _all(self, notes: list[str]) -> list[Any]:
        """Every GPU that may be opened. Raises ProbeUnavailable when there is none."""
        nvml, handles = self._nvml, []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handles.append(nvml.nvmlDeviceGetHandleByIndex(index))
            except nvml.NVMLError as error:
                notes.append(f"gpu{index} can't be opened: {error}")
        if not handles:
            raise ProbeUnavailable("; ".join(notes) or "the NVIDIA driver sees no GPU")
        return handles

    def _by_uuid(self, uuid: str, notes: list[str]) -> Any:
        """The board that holds a GPU or MIG instance.

        CUDA tells a MIG instance's UUID without its kind, so that what is no GPU is looked for among the instances.
        """
        nvml = self._nvml
        kind, bare = (uuid[:4], uuid[4:]) if uuid.startswith(("GPU-", "MIG-")) else ("GPU-", uuid)
        try:
            if kind == "GPU-":
                try:
                    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
                except nvml.NVMLError_NotFound:
                    pass
            handle = nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
            notes.append(f"MIG-{bare} is a slice: the whole board's power is read, other slices included")
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        except nvml.NVMLError as error:
            remedy = "compare with the output of nvidia-smi -L"
            raise ProbeUnavailable(f"the driver can't find GPU {kind}{bare}: {error}", remedy) from None

    def _describe(self, uuid: str, handle: Any, notes: list[str]) -> _Gpu:
        """Find out what one board can read."""
        nvml = self._nvml
        index, model = nvml.nvmlDeviceGetIndex(handle), nvml.nvmlDeviceGetName(handle)
        board = _BOARDS.get(self._try(nvml.nvmlDeviceGetArchitecture, handle), _UNKNOWN)
        if any(name in model for name in ("A100", "A800", "A30 ")) or model.endswith("A30"):
            board = _GA100
        counter = Domain(f"gpu{index}-counter", "gpu", "counter", "counter", "nvml", _MILLI, source=f"gpu:{uuid}")
        readers: list[tuple[Domain, Callable[[], float]]] = []
        if self._try(nvml.nvmlDeviceGetTotalEnergyConsumption, handle) is None:
            notes.append(f"gpu{index} has no energy counter: power is integrated")
        else:
            readers.append((counter, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * _MILLI))
        source = self._power_source(handle, board)
        if source is not None:
            read_w, averaging_s = source
            name = f"gpu{index}-power"
            power = replace(counter, name=name, kind="power", method="integrated", averaging_s=averaging_s)
            readers.append((power, read_w))
        readers += self._module(uuid, handle, index, board)
        return _Gpu(handle, uuid, f"GPU {index} ({model})", tuple(readers))

    def _share(self, gpu: _Gpu) -> UtilizationShare | None:
        if self._context.attribution != "process":
            return None
        domain = share_of(gpu.readers[0][0], self._nvml.nvmlDeviceGetIndex(gpu.handle))
        utilization = utilization_reader(self._nvml, gpu.handle, gpu.label, domain.name)
        return UtilizationShare(domain, self._context, utilization, lambda: self._running(gpu.handle))

    def _power_source(self, handle: Any, board: tuple[float, float]) -> tuple[Callable[[], float], float] | None:
        """The best power reading of a board, in W, and its averaging window: instant, averaged, or the old call."""
        nvml = self._nvml
        candidates = self._fields(handle, board, nvml.NVML_POWER_SCOPE_GPU)
        candidates.append((lambda: nvml.nvmlDeviceGetPowerUsage(handle) * _MILLI, board[1]))
        return next((candidate for candidate in candidates if self._try(candidate[0])), None)

    def _fields(self, handle: Any, board: tuple[float, float], scope: int) -> list[tuple[Callable[[], float], float]]:
        """Readers of instant and averaged power of a GPU or of its module, in W, with their averaging windows."""
        nvml = self._nvml

        def field(number: int) -> float:
            value = nvml.nvmlDeviceGetFieldValues(handle, [(number, scope)])[0]
            if value.nvmlReturn != nvml.NVML_SUCCESS:
                raise nvml.NVMLError(value.nvmlReturn)
            return float(value.value.uiVal * _MILLI)

        numbers = (nvml.NVML_FI_DEV_POWER_INSTANT, nvml.NVML_FI_DEV_POWER_AVERAGE)
        return [(partial(field, number), window_s) for number, window_s in zip(numbers, board, strict=True)]

    def _module(
        self, uuid: str, handle: Any, index: int, board: tuple[float, float]
    ) -> list[tuple[Domain, Callable[[], float]]]:
        """Power of the module that holds this GPU and its CPU (GH200, GB200), where the board tells it.

        It holds the GPU's power and is never added to it. GPUs of one CPU are on one module, and tell the same power.
        """
        found = self._fields(handle, board, self._nvml.NVML_POWER_SCOPE_MODULE)
        reader = next((each for each in found if self._try(each[0])), None)
        if reader is None:
            return []
        read_w, averaging_s = reader
        gpu = self._power_source(handle, board)
        if gpu is not None and any(self._try(read_w) == self._try(gpu[0]) for _ in range(2)):
            return []  # a driver that knows no scopes tells the GPU's power again
        cpus = list(self._try(self._nvml.nvmlDeviceGetCpuAffinity, handle, _CPU_WORDS) or ())
        module = "-".join(f"{word:x}" for word in cpus) if any(cpus) else uuid
        name, source = f"gpu{index}-module-power", f"module:{module}"
        domain = Domain(
            name, "system", "power", "integrated", "nvml", _MILLI, None, averaging_s, source=source, scope="module"
        )
        return [(domain, read_w)]

    def _conditions(self, gpu: _Gpu) -> dict[str, Any]:
        nvml, handle = self._nvml, gpu.handle
        limit_mw = self._try(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        cap_mw = self._try(nvml.nvmlDeviceGetPowerManagementLimit, handle)
        reasons = self._try(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
        return {
            "temperature_c": self._try(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            "sm_clock_mhz": self._try(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._try(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
            "application_clock_mhz": self._ask("nvmlDeviceGetApplicationsClock", handle, nvml.NVML_CLOCK_SM),
            "power_limit_w": None if limit_mw is None else limit_mw * _MILLI,
            "power_cap_w": None if cap_mw is None else cap_mw * _MILLI,
            "throttle_reasons": None
            if reasons is None
            else [name for bit, name in enumerate(_REASONS) if reasons >> bit & 1],
            "foreign_processes": self._foreign_processes(handle),
        }

    def _foreign_processes(self, handle: Any) -> list[int] | None:
        """Ids of other processes that compute on a GPU.

        None where none of ours is listed: in a container the driver may list other numbers or none.
        """
        pids = self._running(handle)
        return None if pids is None else foreign_pids(pids, self._context.own_pids(pids))

    def _running(self, handle: Any) -> set[int] | None:
        """Ids of the processes that compute on a GPU, as the driver lists them; None where it lists none."""
        running = self._try(self._nvml.nvmlDeviceGetComputeRunningProcesses, handle)
        return None if running is None else {process.pid for process in running}

    def _ask(self, name: str, *arguments: Any) -> Any:
        """The same for a function that other versions of NVML or its package lack."""
        call = getattr(self._nvml, name, None)
        return None if call is None else self._try(call, *arguments)

    def _try(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What ``call`` returns, or None where the board or driver has no such thing."""
        try:
            return call(*arguments)
        except (self._nvml.NVMLError, self._nvml.NVMLLibraryMismatchError):
            return None


_REASONS = (
    "idle",
    "application clocks",
    "power cap",
    "hardware slowdown",
    "sync boost",
    "software thermal slowdown",
    "hardware thermal slowdown",
    "power brake",
    "display clocks",
)
"""NVML's clock event bits, from 0x1 for idle to 0x100."""
_SLOWDOWNS = ("hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "power brake")
"""Those that spoil a measurement. The power cap is how a board normally runs under load."""


def _load() -> Any:
    """The initialised NVML module. Raises ProbeUnavailable."""
    try:
        import pynvml
    except ImportError:
        raise ProbeUnavailable("the package nvidia-ml-py is missing", "pip install nvidia-ml-py") from None
    if hasattr(pynvml, "__path__"):
        # nvidia-ml-py is one file; the package of the same name that came before it is a folder, which Python prefers.
        raise ProbeUnavailable(
            f"the old package pynvml hides nvidia-ml-py ({pynvml.__file__})",
            "pip uninstall --yes pynvml && pip install --force-reinstall nvidia-ml-py",
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        raise ProbeUnavailable(
            "there is no NVIDIA driver library (libnvidia-ml.so.1)",
            "install the NVIDIA driver, or start the container with its GPUs (docker run --gpus all)",
        ) from None
    except pynvml.NVMLError as error:
        raise ProbeUnavailable(f"the NVIDIA driver does not answer: {error}", "check that nvidia-smi works") from None
    return pynvml


create = Nvml
