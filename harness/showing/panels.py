"""The points that Figures 1 and 2 show, for figures and for the report: means with 95 % half-widths. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.core import statistics
from harness.core.quantities import Component, Method
from harness.core.sizes import Point
from harness.core.statistics import Estimate
from harness.modelling.profile import Profile
from harness.modelling.profile_schema import Identity, Measurement, Statistic
from harness.runs.summary import PointSummary

Axis = Literal["input", "output"]
AXES: dict[Axis, str] = {"input": "figure1", "output": "figure2"}
PANELS = {
    "runtime_s": "runtime per request, s",
    "energy_per_token_j": "energy per token, J",
    "energy_j": "energy per request, J",
    "total_tokens_per_s": "total tokens/s",
}
"""By the field of a point that a panel shows, its label. Tokens are input and output tokens."""
FIRST_PANELS = ("runtime_s", "energy_per_token_j")
"""What is drawn unless all panels are asked for."""

INPUT_TOLERANCE = 0.25
"""A point belongs to the output sweep when its input is within this share of the fixed one: prompts of a nominal
length differ by tokenizer (32 to 38 tokens in the published sweeps)."""


@dataclass(frozen=True)
class Options:
    """What is drawn of the sources."""

    fixed_input: int = 32
    fixed_output: int = 32
    boundary: tuple[Component, ...] | None = None
    models: bool = True
    """Whether fitted models are drawn, with their 95 % bands and faint outside their range."""
    everything: bool = False
    """Whether energy per request and total tokens/s have panels too."""

    @property
    def panels(self) -> dict[str, str]:
        """The panels to draw."""
        return {column: label for column, label in PANELS.items() if self.everything or column in FIRST_PANELS}

    def fixed(self, axis: Axis) -> str:
        """Where the sweep along ``axis`` lies, in words."""
        return f"{self.fixed_output} output" if axis == "input" else f"about {self.fixed_input} input"


@dataclass(frozen=True)
class Failure:
    """A request size at which nothing could be measured."""

    input_tokens: int
    output_tokens: int
    words: str
    """How it failed: out of memory, timed out, failed or skipped."""


@dataclass(frozen=True)
class DrawnSystem:
    """A system with one model to draw, as measured, with its profile where the measurements could be fitted."""

    name: str
    given: str
    """How it was asked for: a path, or a shipped profile's name."""
    identity: Identity
    measurements: Sequence[Measurement]
    method: Method | None
    """How its energy was read; None where unknown or not read."""
    profile: Profile | None
    note: str | None = None
    """What the reader of the figure should know."""
    failures: Sequence[Failure] = ()
    own: bool = False
    """Whether it is a run, not a profile."""
    kind: str = ""
    """How several requests are in flight, such as ``static batch`` or ``closed loop``; empty where unknown."""
    loaded: Sequence[PointSummary] = ()
    """A run's points at all its concurrencies; empty where it never had more than one request in flight."""
    differs: tuple[str, ...] = ()
    """What it ran otherwise than the systems beside it, in words, so that it can't be compared with them."""
    differing_boundary: tuple[Component, ...] = ()
    """The components its energy is of, where that of the systems beside it is of others."""

    @property
    def pair(self) -> tuple[str, str]:
        """System and model."""
        return self.identity.system, self.identity.model

    @property
    def concurrency(self) -> int:
        """Requests in flight of its measurements; 1 where unknown, as published measurements have it."""
        return self.identity.concurrency or 1

    @property
    def mixes_phases(self) -> bool:
        """Whether prefills run beside the decode steps of others, so that a phase has no cost of its own."""
        return self.concurrency > 1 and self.kind not in ("", "static batch")

    def reaches_beyond(self, boundary: tuple[Component, ...] | None) -> bool:
        """Whether sums of all its components hold some that a boundary leaves out."""
        return boundary is not None and not self.components <= set(boundary)

    @property
    def components(self) -> frozenset[Component]:
        """The components whose energy was measured."""
        return frozenset(component for m in self.measurements for component in m.component_energy_j)


@dataclass(frozen=True)
class SweepPoint:
    """One point of one system. Estimates are per request; None where not measured."""

    input_tokens: float
    output_tokens: float
    trials: int
    runtime_s: Estimate
    total_tokens_per_s: Estimate
    """Input and output tokens of all requests in flight over runtime, as in the paper."""
    energy_per_token_j: Estimate | None
    energy_j: Estimate | None


def sweep(source: DrawnSystem, axis: Axis, options: Options) -> list[SweepPoint]:
    """The points of the input sweep (at the fixed output) or of the output sweep (near the fixed input), in order.

    Energy is that of the boundary, or the sum of all components measured.
    """
    if axis == "input":
        chosen = [m for m in source.measurements if m.output_tokens_requested == options.fixed_output]
        chosen.sort(key=lambda m: m.input_tokens)
    else:
        chosen = _at_fixed_input(source.measurements, options.fixed_input)
    return [_point(measurement, source.concurrency, options.boundary) for measurement in chosen]


def _at_fixed_input(measurements: Iterable[Measurement], fixed: int) -> list[Measurement]:
    """Per number of output tokens, the point whose input is nearest to the fixed one, if it is near enough."""
    nearest: dict[int, Measurement] = {}
    for measurement in sorted(measurements, key=lambda m: abs(m.input_tokens - fixed)):
        if _near(measurement.input_tokens, fixed):
            nearest.setdefault(measurement.output_tokens_requested, measurement)
    return sorted(nearest.values(), key=lambda m: m.output_tokens)


def _near(input_tokens: float, fixed: int) -> bool:
    return abs(input_tokens - fixed) <= INPUT_TOLERANCE * fixed


def point_at(source: DrawnSystem, size: Point, options: Options) -> SweepPoint:
    """A source's point of a size that it has measured."""
    wanted = (size.input_tokens, size.output_tokens)
    at = next(m for m in source.measurements if (round(m.input_tokens), m.output_tokens_requested) == wanted)
    return _point(at, source.concurrency, options.boundary)


def failures_on(source: DrawnSystem, axis: Axis, options: Options) -> list[Failure]:
    """The failed sizes that lie on a sweep."""
    if axis == "input":
        return [failure for failure in source.failures if failure.output_tokens == options.fixed_output]
    return [failure for failure in source.failures if _near(failure.input_tokens, options.fixed_input)]


def sizes_along(axis: Axis, tokens: NDArray[np.int64], options: Options) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input and output tokens of sizes at these places on the axis of a sweep."""
    if axis == "input":
        return tokens, np.full_like(tokens, options.fixed_output)
    return np.full_like(tokens, options.fixed_input), tokens


def tokens_along(axis: Axis, size: SweepPoint | Failure) -> float:
    """The size's place on the axis."""
    return size.input_tokens if axis == "input" else size.output_tokens


def boundary_words(components: Sequence[str]) -> str:
    """The components of a boundary as figures write them."""
    return " + ".join(name if name == "system" else name.upper() for name in components)


BY_THESE_METERS = "95 % intervals by these meters and sessions"
"""What bars at measured points are: the meters' gain and other sessions are in a model's bands alone."""


def mean_95(statistic: Statistic) -> Estimate:
    """Mean and 95 % half-width over the trials, what the sensors leave in each included.

    See ``BY_THESE_METERS`` for what isn't in it. Trials of one session are taken to have been repeated until this was
    narrow, as most are.
    """
    sessions = max(len(statistic.sessions), 1)
    return statistics.estimate(
        statistic.mean, statistic.sd, statistic.trials, statistic.ci95, sequential=sessions == 1, sessions=sessions
    )


def _point(measurement: Measurement, concurrency: int, boundary: Sequence[Component] | None) -> SweepPoint:
    tokens = measurement.input_tokens + measurement.output_tokens
    runtime_s, energy_j = mean_95(measurement.runtime_s), _energy_j(measurement, boundary)
    relative = None if runtime_s.half_width is None else runtime_s.half_width / runtime_s.mean
    throughput = concurrency * tokens / runtime_s.mean
    return SweepPoint(
        measurement.input_tokens,
        measurement.output_tokens,
        measurement.trials,
        runtime_s,
        Estimate(throughput, None if relative is None else relative * throughput),
        per(energy_j, tokens),
        energy_j,
    )


def _energy_j(measurement: Measurement, boundary: Sequence[Component] | None) -> Estimate | None:
    if boundary is None:
        return None if measurement.energy_j is None else mean_95(measurement.energy_j)
    parts = [measurement.component_energy_j.get(component) for component in boundary]
    known = [mean_95(part) for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    widths = [part.half_width for part in known]
    # Components of one trial share its disturbances: their errors are added, the cautious choice.
    width = None if None in widths else math.fsum(w for w in widths if w is not None)
    return Estimate(math.fsum(part.mean for part in known), width)


def mean_and_width(value: Estimate | None) -> tuple[float | None, float | None]:
    """The two as cells of a table; both None where not measured."""
    return (None, None) if value is None else (value.mean, value.half_width)


def per(energy: Estimate | None, count: float) -> Estimate | None:
    """An energy shared by ``count`` tokens."""
    return None if energy is None or count <= 0 else energy.over(count)
