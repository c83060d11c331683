"""What torch can run on here: devices by their names on the command line, their names, UUIDs and memory."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

from backends.base import InvalidConfig, gpu_indices, pip_install

if TYPE_CHECKING:
    import torch

_PIP_CUDA = pip_install("--force-reinstall", "torch>=2.6")
"""PyPI's build for Linux has CUDA."""


def usable() -> tuple[str, ...]:
    """Kinds of device that torch can compute on, best first."""
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": mps_works(), "cpu": True}
    return tuple(name for name, is_here in found.items() if is_here)


def mps_works() -> bool:
    """Whether the Apple GPU computes: hosted virtual machines list one and give it no memory."""
    import torch

    if not torch.backends.mps.is_available():
        return False
    try:
        return float(torch.ones(2, device="mps").sum()) == 2.0
    except RuntimeError:
        return False


def chosen(name: str) -> tuple[torch.device, ...]:
    """The torch devices for ``auto``, ``cpu``, ``mps``, ``cuda``, ``cuda:1`` or ``cuda:0,1``. Raises InvalidConfig."""
    import torch

    here = usable()
    if name == "auto":
        name = here[0]
    kind, colon, _ = name.partition(":")
    if kind not in here:
        raise InvalidConfig(f"device '{name}' isn't usable here; choose one of {', '.join(here)}")
    if kind != "cuda":
        if colon:
            raise InvalidConfig(f"device '{name}' has no numbers; write '{kind}'")
        return (torch.device(kind),)
    if not colon:
        return (torch.device(kind, torch.cuda.current_device()),)
    return tuple(torch.device(kind, index) for index in gpu_indices(name, torch.cuda.device_count()))


def cuda_unusable() -> str | None:
    """Why torch can't use an NVIDIA GPU, and what mends it; None where it can."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; install one with: {_PIP_CUDA}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides it; unset it"
    try:
        torch.cuda.init()
        said = "it finds no GPU that it can compute on"
    except (RuntimeError, AssertionError) as error:
        said = str(error).strip().partition("\n")[0].partition(". ")[0]
    return (
        f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, says: {said}; "
        "update the NVIDIA driver, or install a torch built for an older CUDA: pytorch.org/get-started"
    )


def default_dtype(device: torch.device) -> str:
    """Half precision that the device computes natively; float32 on the CPU."""
    import torch

    if device.type == "cpu":
        return "float32"
    # NVIDIA GPUs before Ampere only emulate bfloat16, Apple's are faster in float16.
    has_bfloat16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if has_bfloat16 else "float16"


def name_of(device: torch.device) -> str:
    """What the maker calls the GPU, or the processor's name."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()


def gpu_uuids(devices: tuple[torch.device, ...]) -> tuple[str, ...]:
    """UUIDs of the GPUs as NVML writes them; empty for other devices, AMD GPUs included."""
    import torch

    if devices[0].type != "cuda" or torch.version.cuda is None:
        return ()
    return tuple(f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices)


def synchronizer(devices: tuple[torch.device, ...]) -> Callable[[], None]:
    """A function that waits until the devices have done everything they were given; the CPU never runs behind."""
    import torch

    if devices[0].type == "cuda":

        def synchronize() -> None:
            for device in devices:
                torch.cuda.synchronize(device)

        return synchronize
    return torch.mps.synchronize if devices[0].type == "mps" else lambda: None


def release_memory() -> None:
    """Give unused memory back to the device, so that the next model or request can have it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
