"""A recorded trial played back at its own pace: ``replay:runs/NAME/traces/3.npz``. Methods as recorded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import ProbeFailed, ProbeUnavailable, UserError
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.readings import Domain, Reading

_FORMAT = "give the .npz file of a trial in a run's folder traces/"


class Replay(Probe):
    """Delivers each recorded reading when its time, counted from the opening, has come."""

    role: Role = "synthetic"

    def __init__(self, option: str | None = None) -> None:
        """``option`` is the recording's file."""
        self._path = Path(option) if option else None
        self.note = f"recording {self._path.name}" if self._path else "no recording"
        self._domains: list[Domain] = []
        self._readings: list[Reading] = []
        self._next = 0

    def open(self, context: ProbeContext) -> None:
        from harness.energy import trace_file

        if self._path is None:
            raise ProbeUnavailable("a recording must be named (replay:FILE)", _FORMAT)
        try:
            _, recording = trace_file.load_trace(self._path)
        except UserError as error:
            raise ProbeUnavailable(str(error), _FORMAT) from None
        self._domains = [trace.domain for trace in recording]
        recorded = [trace for trace in recording if trace.times_ns.size]
        if not recorded:
            raise ProbeUnavailable(f"{self._path} has no readings", _FORMAT)
        shift_ns = time.monotonic_ns() - min(int(trace.times_ns.min()) for trace in recorded)
        readings = [
            Reading(trace.domain.name, int(time_ns) + shift_ns, float(value))
            for trace in recorded
            for time_ns, value in zip(trace.times_ns, trace.values, strict=True)
        ]
        self._readings = sorted(readings, key=lambda reading: reading.time_ns)

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        if self._next == len(self._readings):
            raise ProbeFailed("the recording is over")
        first, now_ns = self._next, time.monotonic_ns()
        while self._next < len(self._readings) and self._readings[self._next].time_ns <= now_ns:
            self._next += 1
        return self._readings[first : self._next]

    def close(self) -> None:
        self._readings, self._next = [], 0


create = Replay
