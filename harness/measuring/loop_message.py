"""Stamps of a loop as text for a pipe between two processes: arrays of 64 bits, compressed, in base 64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from harness.runs.load_stamps import PER_REQUEST, LoopRun, LoopStamps, ServerReadings

_ARRAYS = (*PER_REQUEST, "piece_ns", "piece_tokens")
_PLAIN = ("kind", "concurrency", "client_cpu_s", "client_processes", "client_stalled_s", "spreads")


def stamps_message(stamps: LoopStamps) -> dict[str, Any]:
    """Stamps as a JSON object."""
    arrays = {name: _packed_integers(getattr(stamps, name)) for name in _ARRAYS}
    return {**arrays, "said": {name: _packed(values, "<f8") for name, values in stamps.said.items()}}


def stamps_from_message(message: Mapping[str, Any]) -> LoopStamps:
    """The stamps of ``stamps_message``. Raises ValueError."""
    arrays: dict[str, Any] = {name: _integers(message[name]) for name in _ARRAYS}
    arrays |= {name: arrays[name].astype(np.bool_) for name in ("counted", "told")}
    return LoopStamps(**arrays, said={name: _unpacked(text, "<f8") for name, text in message["said"].items()})


def run_message(run: LoopRun) -> dict[str, Any]:
    """What a loop did as a JSON object."""
    return {
        "kind": run.kind,
        "concurrency": run.concurrency,
        "stamps": stamps_message(run.stamps),
        "window_ns": list(run.window_ns),
        "client_cpu_s": run.client_cpu_s,
        "client_processes": run.client_processes,
        "client_stalled_s": run.client_stalled_s,
        "spreads": run.spreads,
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


def _packed_integers(values: Any) -> str:
    # Differences of stamps are small numbers, of which compression leaves a third.
    return _packed(np.diff(values.astype(np.int64), prepend=np.int64(0)), "<i8")


def _integers(text: str) -> Any:
    return np.cumsum(_unpacked(text, "<i8"), dtype=np.int64)


def _packed(values: Any, kind: str) -> str:
    return base64.b64encode(zlib.compress(values.astype(kind).tobytes(), level=1)).decode("ascii")


def _unpacked(text: str, kind: str) -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=kind)
