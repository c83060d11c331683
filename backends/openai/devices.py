"""What a server on this machine computes with, read from its processes, since no server tells it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "unknown"


@dataclass(frozen=True)
class ServerDevice:
    """Where a server's processes compute; ``kind`` is ``cpu``, ``cuda``, ``metal`` or ``unknown``."""

    kind: str
    names: tuple[str, ...] = ()
    gpu_uuids: tuple[str, ...] = ()


def device_of(pids: Iterable[int]) -> ServerDevice:
    """The device of these processes and their descendants; ``unknown`` where that can't be told."""
    tree = tree_of(pids)
    if not tree:
        return ServerDevice(UNKNOWN)
    gpus = _nvidia_gpus(tree)
    if gpus:
        return ServerDevice("cuda", tuple(name for name, _ in gpus), tuple(uuid for _, uuid in gpus))
    if sys.platform != "linux":
        return ServerDevice(UNKNOWN)
    files = [_open_devices(pid) for pid in tree]
    if any(found is None for found in files):
        return ServerDevice(UNKNOWN)
    drivers = {name for found in files if found for name in found}
    if any(name == "kfd" or (name.startswith("nvidia") and name[6:].isdecimal()) for name in drivers):
        return ServerDevice("cuda")
    return ServerDevice("cpu", ("cpu",))


def tree_of(pids: Iterable[int]) -> list[int]:
    """Ids of these processes and of all that came of them, as far as they still run."""
    import psutil

    found: dict[int, None] = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found |= dict.fromkeys([pid, *(child.pid for child in process.children(recursive=True))])
        except psutil.Error:
            continue
    return list(found)


def _nvidia_gpus(pids: list[int]) -> list[tuple[str, str]]:
    """Name and UUID of each NVIDIA GPU on which one of the processes computes."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, or one that doesn't answer: each in a way of its own
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        used = [
            handle
            for handle in handles
            if any(process.pid in pids for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
        ]
        return [(pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)) for handle in used]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _open_devices(pid: int) -> set[str] | None:
    """Names of the files in /dev that a process has open; None where it may not be looked at."""
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None if Path(f"/proc/{pid}").exists() else set()
    found: set[str] = set()
    for link in links:
        # A file may be closed in the meantime.
        with contextlib.suppress(OSError):
            target = link.readlink()
            found |= {target.name} if str(target).startswith("/dev/") else set()
    return found
