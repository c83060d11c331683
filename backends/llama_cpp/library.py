"""What the llama.cpp library of llama-cpp-python says outside its model API: devices and log lines."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import MEMORY_WORDS, NotInstalled, pip_install

_INFO, _WARNING, _ERROR = 2, 3, 4
_lines: deque[tuple[int, str]] = deque(maxlen=400)
_DEVICE_OF_LIBRARY = {"CUDA": "cuda", "MTL": "metal"}
"""ggml's backend names of the GPU kinds that are supported, and what the command line calls them."""


@dataclass(frozen=True)
class GpuDevice:
    """A GPU that this build of llama.cpp can use."""

    kind: str
    """``cuda`` or ``metal``."""
    handle: int
    """ggml's pointer to the device."""
    description: str


class _Properties(ctypes.Structure):
    """``struct ggml_backend_dev_props`` of ggml-backend.h, with room for capabilities added later."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("capabilities", ctypes.c_ubyte * 64),
    )


def own_build() -> Path | None:
    """The folder of a llama.cpp that the user built, which is used in place of the one in llama-cpp-python.

    ``LLAMA_CPP_LIB_PATH`` names it, or the libllama in it.
    """
    named = os.environ.get("LLAMA_CPP_LIB_PATH")
    if not named:
        return None
    path = Path(named)
    return path.parent if path.is_file() else path


def _shared(folder: Path, name: str) -> Path | None:
    """A shared library in a folder; None where it isn't there, or a static one only."""
    found = (path for suffix in ("so", "dylib") for path in sorted(folder.glob(f"{name}.{suffix}*")))
    return next(found, None)


@functools.cache
def library() -> Any:
    """The module ``llama_cpp``, its log kept in memory and errors written to stderr. Raises NotInstalled."""
    if own := own_build():
        os.environ["LLAMA_CPP_LIB_PATH"] = str(own)  # llama_cpp takes folders alone
        for name in ("libllama", "libggml"):
            if _shared(own, name) is None:
                remedy = "name the folder of a build with shared libraries, or unset it"
                raise NotInstalled(f"LLAMA_CPP_LIB_PATH: no {name} in {own}; {remedy}")
    elif "LLAMA_CPP_LIB_PATH" in os.environ:
        del os.environ["LLAMA_CPP_LIB_PATH"]  # llama_cpp would take an empty one for a folder
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        remedy = pip_install("llama-cpp-python>=0.3.30", "gguf>=0.17")
        raise NotInstalled(f"llama-cpp-python can't be used ({error}); install with: {remedy}") from error
    llama_cpp.llama_log_set(_callback(), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@functools.cache
def _callback() -> Any:
    # Cached because the library keeps the pointer: the callback must outlive every model.
    @ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    def keep(level: int, text: bytes, _: object) -> None:
        if level in (_INFO, _WARNING, _ERROR):
            line = text.decode(errors="replace").strip()
            _lines.append((level, line))
            if level == _ERROR:
                # llama.cpp may abort the process next; only what is written by now tells why it died.
                print(line, file=sys.stderr, flush=True)

    return keep


def clear_log() -> None:
    """Forget the log lines so far, so that the functions below speak of what follows."""
    _lines.clear()


def last_errors() -> str:
    """The last two error lines of the log in one, since the last alone often only says that loading failed."""
    errors = [" ".join(text.split()) for level, text in _lines if level == _ERROR and text]
    return "; ".join(errors[-2:]) or "llama.cpp gave no reason"


def ran_out_of_memory() -> bool:
    """Whether an error line in the log speaks of memory that couldn't be had."""
    return any(level == _ERROR and MEMORY_WORDS.search(text) for level, text in _lines)


def search_log(pattern: str) -> re.Match[str] | None:
    """The first match of a regular expression in the log."""
    return next(filter(None, (re.search(pattern, text) for _, text in _lines)), None)


@functools.cache
def gpus() -> tuple[GpuDevice, ...]:
    """GPUs that this build of llama.cpp can use on this machine."""
    ggml = _ggml()
    found = []
    for index in range(ggml.ggml_backend_dev_count()):
        handle = ggml.ggml_backend_dev_get(index)
        owner = ggml.ggml_backend_reg_name(ggml.ggml_backend_dev_backend_reg(handle)).decode()
        if owner in _DEVICE_OF_LIBRARY:
            description = ggml.ggml_backend_dev_description(handle).decode()
            found.append(GpuDevice(_DEVICE_OF_LIBRARY[owner], handle, description))
    return tuple(found)


def pci_bus_id(device: GpuDevice) -> str | None:
    """The device's PCI bus id such as ``0000:c1:00.0``; None where it isn't known.

    This opens the device: not to be called before a model is loaded on it.
    """
    properties = _Properties()
    _ggml().ggml_backend_dev_get_props(device.handle, ctypes.byref(properties))
    return properties.device_id.decode() if properties.device_id else None


@functools.cache
def _ggml() -> Any:
    """The ggml library that llama_cpp has loaded, with the signatures of the functions used here."""
    library()
    libggml: Any
    if own := own_build():
        # llama_cpp._ggml loads the one in the package: another library, which knows nothing of this one's devices.
        libggml = ctypes.CDLL(str(_shared(own, "libggml")))
    else:
        import llama_cpp._ggml

        libggml = llama_cpp._ggml.libggml

    pointer = ctypes.c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_backend_dev_count": (ctypes.c_size_t, []),
        "ggml_backend_dev_get": (pointer, [ctypes.c_size_t]),
        "ggml_backend_dev_description": (ctypes.c_char_p, [pointer]),
        "ggml_backend_dev_backend_reg": (pointer, [pointer]),
        "ggml_backend_dev_get_props": (None, [pointer, ctypes.POINTER(_Properties)]),
        "ggml_backend_reg_name": (ctypes.c_char_p, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(libggml, name)
        function.restype, function.argtypes = result, arguments
    return libggml
