"""What machine this is: everything that may change a measurement and can be read without privileges."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import socket
from pathlib import Path
from typing import Any

import psutil

from harness.runs.run_schema import Gpu, Machine

PACKAGES = ("joulebench", "numpy", "scipy", "pandas", "psutil", "nvidia-ml-py")


def machine() -> Machine:
    """The hardware and the system on it. What can't be read is None."""
    logical_cores = psutil.cpu_count()
    return Machine(
        cpu_model=_cpu_model(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=logical_cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical_cores or 1,
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus(),
        os=f"{platform.system()} {platform.release()}",
        os_version=_os_version(),
        architecture=platform.machine(),
        governor=_first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        container=_container(),
        virtual_machine=_virtual_machine(),
        hostname_sha256=hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16],
    )


def software() -> dict[str, str]:
    """Versions of Python and of the packages that the harness itself uses."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def identity(machine: Machine) -> dict[str, object]:
    """The part of a machine that must not change between two sessions of one run.

    Memory is rounded to GiB, since kernels reserve slightly different amounts; a container's host name is new
    at each start and left out.
    """
    same: dict[str, object] = {
        "cpu_model": machine.cpu_model,
        "usable_cores": machine.usable_cores,
        "memory_gib": round(machine.memory_bytes / 2**30),
        "gpus": [(gpu.name, gpu.uuid, gpu.driver, gpu.power_limit_w) for gpu in machine.gpus],
    }
    if not machine.container:
        same["host"] = machine.hostname_sha256
    return same


def gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs with driver and power limits; empty where NVML finds none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, index: int) -> Gpu:
    device = pynvml.nvmlDeviceGetHandleByIndex(index)

    def ask(name: str, scale: float = 1.0) -> Any:
        try:
            value = getattr(pynvml, name)(device)
        except pynvml.NVMLError:
            return None
        return value if isinstance(value, str) else value * scale

    memory = None
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(device).total
    except pynvml.NVMLError:
        pass
    return Gpu(
        name=ask("nvmlDeviceGetName"),
        uuid=ask("nvmlDeviceGetUUID"),
        driver=pynvml.nvmlSystemGetDriverVersion(),
        memory_bytes=memory,
        power_limit_w=ask("nvmlDeviceGetEnforcedPowerLimit", 1e-3),
        default_power_limit_w=ask("nvmlDeviceGetPowerManagementDefaultLimit", 1e-3),
    )


def _cpu_model() -> str | None:
    if platform.system() == "Darwin":
        import subprocess

        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        return answer.stdout.strip() or None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or None)


def _os_version() -> str | None:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return None


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    return os.environ.get("container") or None


def _virtual_machine() -> str | None:
    vendor = _first_line("/sys/class/dmi/id/sys_vendor") or ""
    try:
        hypervisor = "hypervisor" in Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0]
    except OSError:
        return None
    return (vendor or "unknown hypervisor") if hypervisor else None
