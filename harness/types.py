"""Values that cross module borders, and what follows from them alone. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Purpose = Literal["warmup", "measure", "drift"]
"""Why a trial was run; only ``measure`` enters the statistics of its point."""

Status = Literal["ok", "oom", "timeout", "error", "discarded", "skipped"]

Method = Literal["counter", "integrated", "modelled", "estimated"]
"""How an energy was obtained, best first: hardware counter, integrated power samples, vendor's model, guess."""

Component = Literal["gpu", "cpu", "dram", "ane", "system"]


def weakest(methods: Iterable[Any]) -> Method | None:
    """The last of the known ``methods`` in the order of ``Method``: a sum is as good as its weakest part.

    What is no method, such as None or NaN in a table, is passed over; None where nothing is left.
    """
    best_first = get_args(Method)
    return max((method for method in methods if method in best_first), key=best_first.index, default=None)


@dataclass(frozen=True, order=True)
class Point:
    """A request size: m input tokens, n output tokens."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class TrialSpec:
    """The next thing to measure."""

    point: Point
    purpose: Purpose
    skip_reason: str | None = None
    """Why the point is recorded as skipped instead of being measured."""


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
    contains: tuple[str, ...] = ()
    """``source`` values whose energy is part of this one (psys contains package-0): never summed together."""
    stamped: bool = False
    """Whether a reading's time is that of the sensor's update; otherwise the update is up to a period older."""


@dataclass(frozen=True)
class Calibration:
    """Correction of one domain against a meter: true power = gain × read power + offset_w."""

    gain: float
    offset_w: float


@dataclass(frozen=True)
class Reading:
    """One raw reading. ``value`` is J for counters and W for power."""

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


@dataclass(frozen=True)
class TrialRecord:
    """One line of ``trials.jsonl``. Values per request are means over the window's requests."""

    __pydantic_config__: ClassVar[dict[str, bool]] = {"allow_inf_nan": False}

    id: int
    session: int
    """Which start of the program measured it (0, 1, … after each resume)."""
    worker: int
    """Which child process of that session measured it."""
    purpose: Purpose
    input_tokens: int
    output_tokens: int
    status: Status
    started_at: str
    """UTC, ISO 8601."""
    reason: str | None = None
    repeats: int | None = None
    window_s: float | None = None
    """First start to last end, gaps between requests included."""
    runtime_s: float | None = None
    """Window divided by repeats."""
    prefill_s: float | None = None
    decode_s: float | None = None
    runtime_sd_s: float | None = None
    """Standard deviation of single requests inside the window; None for one repeat."""
    output_tokens_produced: int | None = None
    compile_s: float | None = None
    """Compiling for this size before the window; None where nothing was compiled."""
    capture_s: float | None = None
    """Capturing the decode step in a graph before the window; None where nothing was captured."""
    trace: str | None = None
    """File with the raw marks and readings, relative to the run directory."""
    energy: dict[str, Any] | None = None
    """Joules per request by domain and component, with uncertainty and method; None when nothing was read."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """Temperature, clocks, throttle reasons, foreign load during the window, as far as they can be read."""
    warnings: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether statistics use it: a measurement that came to its end undisturbed."""
        return self.purpose == "measure" and self.status == "ok"
