"""What sensors deliver: domains, readings, traces, and the marks of a window. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError
from harness.core.quantities import Component, Method

Scope = Literal["machine", "module", "package", "core", "process", "dram", "gpu", "gpu process", "ane"]
"""What a domain measures. ``module`` is a board with CPU and GPU, ``process`` the share of a CPU that one has, ``gpu
process`` that of a GPU."""

AS_IT_STANDS = {"strict": True, "allow_inf_nan": False}
"""How files with figures of energy are read: no text for a number, nothing infinite."""

_FRESH_S = 0.005

_INSIDE: dict[Scope, tuple[Scope, ...]] = {
    "machine": ("module", "package", "core", "process", "dram", "gpu", "gpu process", "ane"),
    "module": ("package", "core", "process", "gpu", "gpu process"),
    "package": ("core", "process"),
    "gpu": ("gpu process",),
}
_USUAL: dict[Component, Scope] = {"system": "machine", "cpu": "package", "dram": "dram", "gpu": "gpu", "ane": "ane"}


@dataclass(frozen=True)
class Domain:
    """One thing a power source can read, such as the energy counter of one GPU."""

    name: str
    """Unique among all open probes, for example ``gpu0.counter`` or ``cpu-package-0``."""
    component: Component
    kind: Literal["counter", "power"]
    """``counter``: cumulative joules. ``power``: watts at (or averaged up to) the reading's time."""
    method: Method
    probe: str
    resolution: float
    """Smallest step of a reading, in J for counters and W for power."""
    period_s: float | None = None
    """Time between updates of the sensor; None when every read is fresh."""
    averaging_s: float | None = None
    """Length of the window that a power reading averages over; None when unknown or not applicable."""
    wrap_j: float | None = None
    """A counter's range after which it starts again at 0; None when it does not wrap."""
    source: str = ""
    """What is measured, so that two readings of the same silicon are recognised (``gpu:GPU-…``, ``package-0``)."""
    scope: Scope | None = None
    """What is measured; None for what the component says: the whole machine, all of a CPU, one GPU."""
    stamped: bool = False
    """Whether a reading's time is that of the sensor's update; otherwise the update is up to a period older."""

    lost_means: str | None = None
    """Why readings come that are ``LOST``, where that is not because they can't be understood."""
    echo_s: float = 0.0
    """A counter that moves twice within so short a time shows one update in two parts."""

    lag_s: float = 0.0
    """How much later than the power it tells of a reading is stamped, beside its age and its averaging."""
    filter_s: float = 0.0
    """Time constant of a first-order low-pass between power and reading; 0 where there is none."""
    seen_s: float | None = None
    """Of each update's period the time in which the sensor looks (an A100's: 0.025 of 0.1); None where all of it."""

    clock_s: float = 0.0
    """How much a reading's time may be off, either way, because it was taken by another machine's clock."""

    calibrated: bool = False
    """Whether the readings were corrected by a meter's."""

    def contains(self, other: Domain) -> bool:
        """Whether this energy includes that of ``other``, going by what they measure: then they are not added up."""
        return other._extent in _INSIDE.get(self._extent, ())

    @property
    def age_s(self) -> float:
        """How much older than a reading's time the sensor's update may be, in s."""
        return 0.0 if self.stamped else (self.period_s or 0.0)

    @property
    def blind_share(self) -> float:
        """Share of the time of which a reading shows nothing; a filter remembers some two of its time constants."""
        if not self.period_s:
            return 0.0
        looks_s = self.seen_s if self.seen_s is not None else self.period_s
        if self.kind == "power" and self.seen_s is None:
            looks_s = self.averaging_s or 0.0
        return max(1.0 - (looks_s + 2.0 * self.filter_s) / self.period_s, 0.0)

    @property
    def beats(self) -> bool:
        """Whether a load in step with the updates can hide from this sensor: it shows samples and not sums."""
        return self.blind_share > 0.0 or (self.kind == "power" and self.filter_s > 0.0)

    @property
    def fresh(self) -> bool:
        """Whether this is a counter that moves so often that a window's edge can wait for its next update."""
        here = self.kind == "counter" and not self.stamped and not self.clock_s
        return here and 0.0 < (self.period_s or 0.0) <= _FRESH_S

    @property
    def _extent(self) -> Scope:
        return self.scope or _USUAL[self.component]


@dataclass(frozen=True)
class Calibration:
    """Correction of one domain against a meter: true power = gain × read power + offset_w."""

    gain: float
    offset_w: float


LOST = math.nan
"""The value of a reading that came and could not be understood: the energy around its time is unknown."""


@dataclass(frozen=True)
class Reading:
    """One raw reading. ``value`` is J for counters and W for power, or ``LOST``."""

    domain: str
    time_ns: int
    """CLOCK_MONOTONIC time the value belongs to."""
    value: float


@dataclass(frozen=True)
class Trace:
    """Raw readings of one domain around a window, in time order."""

    domain: Domain
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    failure: str | None = None
    """Why readings stopped, when the sensor died."""


@dataclass(frozen=True)
class Window:
    """Marks of one trial's back-to-back requests; arrays have one entry per request, in CLOCK_MONOTONIC ns."""

    start_ns: NDArray[np.int64]
    prefill_end_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]

    @classmethod
    def of_one(cls, start_ns: int, end_ns: int) -> Window:
        """What lies between two times as one request, all of it prefill."""
        start, end = np.array([[start_ns], [end_ns]], dtype=np.int64)
        return cls(start, end, end)

    def check(self) -> None:
        """Raises UserError unless these are whole nanoseconds of at least one request, in order."""
        marks = [np.asarray(each) for each in (self.start_ns, self.prefill_end_ns, self.end_ns)]
        alike = all(each.ndim == 1 and each.dtype.kind in "iu" and each.size == marks[0].size for each in marks)
        if not alike or marks[0].size == 0 or (np.diff(np.column_stack(marks).ravel()) < 0).any():
            raise UserError(
                "marks of requests must be three arrays of whole nanoseconds, of one length and at least one request, "
                "each request's start, end of prefill and end in this order and after the request before"
            )
