"""Loops as text for a pipe between two processes: their arrays of 64 bits, compressed, in base 64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from harness.runs.load_stamps import LoopRun, LoopStamps, ServerReadings, stamps_from_arrays

_PLAIN = ("kind", "concurrency", "client_cpu_s", "client_processes", "client_stalled_s", "spreads")


def stamps_message(stamps: LoopStamps) -> dict[str, list[str]]:
    """Stamps as a JSON object."""
    return {name: _packed(values) for name, values in stamps.arrays().items()}


def stamps_from_message(message: Mapping[str, list[str]]) -> LoopStamps:
    """The stamps of ``stamps_message``. Raises ValueError."""
    return stamps_from_arrays({name: _unpacked(*packed) for name, packed in message.items()})


def run_message(run: LoopRun) -> dict[str, Any]:
    """What a loop did as a JSON object."""
    return {
        **{name: getattr(run, name) for name in _PLAIN},
        "stamps": stamps_message(run.stamps),
        "window_ns": list(run.window_ns),
        "server": asdict(run.server),
    }


def run_from_message(message: Mapping[str, Any]) -> LoopRun:
    """The loop of ``run_message``. Raises ValueError."""
    start_ns, end_ns = message["window_ns"]
    return LoopRun(
        **{name: message[name] for name in _PLAIN},
        stamps=stamps_from_message(message["stamps"]),
        window_ns=(start_ns, end_ns),
        server=ServerReadings(**message["server"]),
    )


def _packed(values: Any) -> list[str]:
    """An array's type and content."""
    # Differences of stamps are small numbers, of which compression leaves a third.
    kept = np.diff(values, prepend=values.dtype.type(0)) if values.dtype.kind == "i" else values
    return [values.dtype.str, base64.b64encode(zlib.compress(kept.tobytes(), level=1)).decode("ascii")]


def _unpacked(kind: str, text: str) -> Any:
    kept = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=kind)
    return np.cumsum(kept, dtype=kept.dtype) if kept.dtype.kind == "i" else kept
