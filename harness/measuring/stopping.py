"""When a point has been measured enough. Pure.

Rules that stop when an interval is narrow judge by ``sequential_95``, as the tables of a run state it: so a point that
is said to be precise is as precise as that at its end.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from harness.core.quantities import Facts
from harness.core.statistics import half_width_95

Samples = Mapping[str, Sequence[float]]
"""Measured quantities of one point by name (``runtime_s``, ``prefill_s``, ``decode_s``, ``energy_j``,
``prefill_energy_j``, ``decode_energy_j``), one value per counted trial that has it."""


class StoppingRule(Protocol):
    """Decides when a point has been measured enough."""

    @property
    def max_trials(self) -> int:
        """Counted trials after which a point is done in any case."""
        ...

    def with_max_trials(self, max_trials: int) -> StoppingRule:
        """The same rule with another limit."""
        ...

    def done(self, samples: Samples) -> bool:
        """Whether no further trial is needed. ``samples`` always has ``runtime_s``."""
        ...

    def width(self, samples: Samples) -> Width | None:
        """How wide the widest interval that the rule looks at is after these samples; None where none is known yet."""
        ...

    @property
    def window_precision(self) -> float:
        """Relative 95 % half-width that the runtime and the energy of a single window should have."""
        ...

    def describe(self) -> Facts:
        """The rule as it is stored with the run."""
        ...


_WINDOW_PRECISION = 0.01
_WINDOW_SHARE = 0.5
"""Of the half-width wanted of a point that of its windows: trials lessen what windows scatter by, and the sensors' part
of it, which they don't, then adds an eighth to the interval."""


@dataclass(frozen=True)
class Width:
    """The 95 % half-width of a quantity, and that at which it is precise enough: both relative to the mean, or in s."""

    quantity: str
    half_width: float
    wanted: float
    relative: bool


@dataclass(frozen=True)
class RelativePrecision:
    """Stop when the 95 % half-width of every measured quantity is at most ``relative`` of its mean."""

    relative: float
    min_trials: int
    max_trials: int
    quantities: tuple[str, ...] | None = None
    """The quantities that must be precise; None means all that were measured."""

    def done(self, samples: Samples) -> bool:
        count = len(samples["runtime_s"])
        if count < self.min_trials or count >= self.max_trials:
            return count >= self.max_trials
        judged = self.quantities or samples
        return all(self._precise(samples[name]) for name in judged if samples.get(name))

    def width(self, samples: Samples) -> Width | None:
        judged = {name: samples[name] for name in self.quantities or samples if samples.get(name)}
        found = {name: _relative_half_width(values) for name, values in judged.items()}
        known = {name: half_width for name, half_width in found.items() if half_width}
        if not known:
            return None
        widest = max(known, key=lambda name: known[name])
        return Width(widest, known[widest], self.relative, relative=True)

    def _precise(self, values: Sequence[float]) -> bool:
        half_width = half_width_95(values, sequential=True)
        return half_width is not None and half_width <= self.relative * abs(statistics.fmean(values))

    def with_max_trials(self, max_trials: int) -> RelativePrecision:
        return replace(self, max_trials=max_trials)

    @property
    def window_precision(self) -> float:
        return _WINDOW_SHARE * self.relative

    def describe(self) -> Facts:
        return {"rule": "relative-precision", **asdict(self)}


def _relative_half_width(values: Sequence[float]) -> float | None:
    half_width, mean = half_width_95(values, sequential=True), abs(statistics.fmean(values))
    return half_width / mean if half_width and mean else None


@dataclass(frozen=True)
class FixedTrials:
    """Stop after exactly so many trials, however far they scatter."""

    max_trials: int

    def done(self, samples: Samples) -> bool:
        return len(samples["runtime_s"]) >= self.max_trials

    def width(self, samples: Samples) -> None:
        """No interval decides."""

    def with_max_trials(self, max_trials: int) -> FixedTrials:
        return replace(self, max_trials=max_trials)

    @property
    def window_precision(self) -> float:
        return _WINDOW_PRECISION

    def describe(self) -> Facts:
        return {"rule": "fixed-trials", **asdict(self)}


@dataclass(frozen=True)
class TrialsByLength:
    """Stop after ``max_trials``, which tell the noise, or after one where a request takes ``long_s``: others tell
    its noise, and it would cost most."""

    max_trials: int
    long_s: float = 5.0

    def done(self, samples: Samples) -> bool:
        runtimes_s = samples["runtime_s"]
        return len(runtimes_s) >= self.max_trials or bool(runtimes_s and statistics.fmean(runtimes_s) >= self.long_s)

    def width(self, samples: Samples) -> None:
        """No interval decides."""

    def with_max_trials(self, max_trials: int) -> TrialsByLength:
        return replace(self, max_trials=max_trials)

    @property
    def window_precision(self) -> float:
        return _WINDOW_PRECISION

    def describe(self) -> Facts:
        return {"rule": "trials-by-length", **asdict(self)}


@dataclass(frozen=True)
class RuntimeHalfWidth:
    """The paper's rule: stop when the 95 % half-width of the runtime is below ``half_width_s`` seconds.

    Wilkins, Keshav, Mortier (2024), section 4: 0.5 s, at most 25 trials.
    """

    half_width_s: float
    max_trials: int

    def done(self, samples: Samples) -> bool:
        runtimes_s = samples["runtime_s"]
        if len(runtimes_s) >= self.max_trials:
            return True
        half_width_s = half_width_95(runtimes_s)
        return half_width_s is not None and half_width_s < self.half_width_s

    def width(self, samples: Samples) -> Width | None:
        half_width_s = half_width_95(samples["runtime_s"])
        return None if half_width_s is None else Width("runtime_s", half_width_s, self.half_width_s, relative=False)

    def with_max_trials(self, max_trials: int) -> RuntimeHalfWidth:
        return replace(self, max_trials=max_trials)

    @property
    def window_precision(self) -> float:
        return _WINDOW_PRECISION

    def describe(self) -> Facts:
        return {"rule": "runtime-half-width", **asdict(self)}
