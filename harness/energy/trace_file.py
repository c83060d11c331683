"""The file of one trial's raw time marks and sensor readings: npz without pickled objects."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from harness.core.errors import UserError
from harness.energy.loop_marks import LoopLog, LoopMarks
from harness.energy.readings import Domain, Trace, Window

_DOMAIN = frozenset(field.name for field in fields(Domain))
_LOG = tuple(field.name for field in fields(LoopLog))


def write_trace(stream: BinaryIO, window: Window, traces: Sequence[Trace], loop: LoopMarks | None = None) -> None:
    """Write marks and readings to an open binary file; of a loop of requests that overlap its own marks too."""
    arrays: dict[str, Any] = {
        "start_ns": window.start_ns,
        "prefill_end_ns": window.prefill_end_ns,
        "end_ns": window.end_ns,
        "domains": np.array(json.dumps([{**asdict(trace.domain), "failure": trace.failure} for trace in traces])),
    }
    for index, trace in enumerate(traces):
        arrays[f"times_ns_{index}"] = trace.times_ns
        arrays[f"values_{index}"] = trace.values
    if loop is not None:
        arrays["loop_edges_ns"] = np.array(loop.edges_ns, dtype=np.int64)
        arrays["loop_requests"] = np.array(loop.requests, dtype=np.float64)
        for name in _LOG:
            arrays[f"loop_{name}"] = np.asarray(getattr(loop.log, name), dtype=np.int64)
    np.savez_compressed(stream, allow_pickle=False, **arrays)


def load_trace(path: Path) -> tuple[Window, list[Trace]]:
    """Marks and readings of a file. Raises UserError when it can't be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            window = Window(arrays["start_ns"], arrays["prefill_end_ns"], arrays["end_ns"])
            traces = []
            for index, found in enumerate(json.loads(str(arrays["domains"]))):
                failure = found.pop("failure")
                traces.append(Trace(_domain(found), arrays[f"times_ns_{index}"], arrays[f"values_{index}"], failure))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not the trace of a trial: {error}") from None
    return window, traces


def load_loop(path: Path) -> LoopMarks | None:
    """The marks of a file's loop; None where its requests were run one after the other. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "loop_edges_ns" not in arrays:
                return None
            log = LoopLog(**{name: arrays[f"loop_{name}"] for name in _LOG})
            ramp_ns, start_ns, end_ns, drain_ns = map(int, arrays["loop_edges_ns"])
            marks = LoopMarks(ramp_ns, start_ns, end_ns, drain_ns, float(arrays["loop_requests"]), log)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not the trace of a trial: {error}") from None
    marks.check()
    return marks


def _domain(found: dict[str, Any]) -> Domain:
    """A domain from its fields, also from those of files that listed the sources it contains instead of its scope.

    Fields that a later version adds are passed over.
    """
    if "contains" in found:
        del found["contains"]
        found["scope"] = "process" if found["source"].endswith("-process") else None
    return Domain(**{name: value for name, value in found.items() if name in _DOMAIN})
