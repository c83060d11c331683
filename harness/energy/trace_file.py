"""The file of one trial's raw time marks and sensor readings: npz without pickled objects."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError
from harness.energy.readings import Domain, Trace, Window

_DOMAIN = frozenset(field.name for field in fields(Domain))
_FURTHER = "further_"
"""What names of further arrays begin with in a file."""


def write_trace(
    stream: BinaryIO, window: Window, traces: Sequence[Trace], further: Mapping[str, NDArray[Any]] | None = None
) -> None:
    """Write marks and readings to an open binary file, and further arrays of whoever marked the window."""
    arrays: dict[str, Any] = {
        "start_ns": window.start_ns,
        "prefill_end_ns": window.prefill_end_ns,
        "end_ns": window.end_ns,
        "domains": np.array(json.dumps([{**asdict(trace.domain), "failure": trace.failure} for trace in traces])),
    }
    for index, trace in enumerate(traces):
        arrays[f"times_ns_{index}"] = trace.times_ns
        arrays[f"values_{index}"] = trace.values
    arrays |= {f"{_FURTHER}{name}": values for name, values in (further or {}).items()}
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


def load_further(path: Path) -> dict[str, NDArray[Any]]:
    """The further arrays of a file by name; empty where it has none. Raises UserError when it can't be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name.removeprefix(_FURTHER): arrays[name] for name in arrays if name.startswith(_FURTHER)}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not the trace of a trial: {error}") from None


def _domain(found: dict[str, Any]) -> Domain:
    """A domain from its fields, also from those of files that listed the sources it contains instead of its scope.

    Fields that a later version adds are passed over.
    """
    if "contains" in found:
        del found["contains"]
        found["scope"] = "process" if found["source"].endswith("-process") else None
    return Domain(**{name: value for name, value in found.items() if name in _DOMAIN})
