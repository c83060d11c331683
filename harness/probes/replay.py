"""A recorded trial played back at its own pace: ``replay:runs/NAME/traces/3.npz``. Methods as recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import ProbeFailed, ProbeUnavailable
from harness.probes.base import Probe, ProbeContext, Role
from harness.types import Domain, Reading

_FORMAT = "give the .npz file of a trial in a run's folder traces/"


class Replay:
    """Delivers each recorded reading when its time, counted from the opening, has come."""

    role: Role = "synthetic"

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.note = f"recording {path.name}" if path else "no recording"
        self._domains: list[Domain] = []
        self._readings: list[Reading] = []
        self._next = 0

    def open(self, context: ProbeContext) -> None:
        import numpy as np

        if self._path is None:
            raise ProbeUnavailable("a recording must be named (replay:FILE)", _FORMAT)
        recorded: list[Reading] = []
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                for index, fields in enumerate(json.loads(str(arrays["domains"]))):
                    fields.pop("failure")
                    domain = Domain(**{**fields, "contains": tuple(fields["contains"])})
                    self._domains.append(domain)
                    pairs = zip(arrays[f"times_ns_{index}"], arrays[f"values_{index}"], strict=True)
                    recorded += [Reading(domain.name, int(time_ns), float(value)) for time_ns, value in pairs]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProbeUnavailable(f"{self._path} is not a recorded trial: {error}", _FORMAT) from None
        if not recorded:
            raise ProbeUnavailable(f"{self._path} has no readings", _FORMAT)
        recorded.sort(key=lambda reading: reading.time_ns)
        shift_ns = time.monotonic_ns() - recorded[0].time_ns
        self._readings = [replace(reading, time_ns=reading.time_ns + shift_ns) for reading in recorded]

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        if self._next == len(self._readings):
            raise ProbeFailed("the recording is over")
        first, now_ns = self._next, time.monotonic_ns()
        while self._next < len(self._readings) and self._readings[self._next].time_ns <= now_ns:
            self._next += 1
        return self._readings[first : self._next]

    def conditions(self) -> dict[str, Any]:
        return {"discard": None}

    def close(self) -> None:
        self._readings, self._next = [], 0


def create(option: str | None = None) -> Probe:
    return Replay(Path(option) if option else None)
