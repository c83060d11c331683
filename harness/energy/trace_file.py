"""The file of one trial's raw time marks and sensor readings: npz without pickled objects."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from harness.core.errors import UserError
from harness.energy.readings import Domain, Trace, Window


def write_trace(stream: BinaryIO, window: Window, traces: Sequence[Trace]) -> None:
    """Write marks and readings to an open binary file."""
    arrays: dict[str, Any] = {
        "start_ns": window.start_ns,
        "prefill_end_ns": window.prefill_end_ns,
        "end_ns": window.end_ns,
        "domains": np.array(json.dumps([{**asdict(trace.domain), "failure": trace.failure} for trace in traces])),
    }
    for index, trace in enumerate(traces):
        arrays[f"times_ns_{index}"] = trace.times_ns
        arrays[f"values_{index}"] = trace.values
    np.savez_compressed(stream, allow_pickle=False, **arrays)


def load_trace(path: Path) -> tuple[Window, list[Trace]]:
    """Marks and readings of a file. Raises UserError when it can't be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            window = Window(arrays["start_ns"], arrays["prefill_end_ns"], arrays["end_ns"])
            traces = []
            for index, fields in enumerate(json.loads(str(arrays["domains"]))):
                failure = fields.pop("failure")
                traces.append(Trace(_domain(fields), arrays[f"times_ns_{index}"], arrays[f"values_{index}"], failure))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not the trace of a trial: {error}") from None
    return window, traces


def _domain(fields: dict[str, Any]) -> Domain:
    """A domain from its fields, also from those of files that listed the sources it contains instead of its scope."""
    if "contains" in fields:
        del fields["contains"]
        fields["scope"] = "process" if fields["source"].endswith("-process") else None
    return Domain(**fields)
