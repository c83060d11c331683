"""The points that Figures 1 and 2 show: per request size, means with 95 % half-widths from aggregated trials. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.core import statistics
from harness.core.quantities import Component, Method
from harness.core.statistics import Estimate
from harness.modelling.profile_schema import Identity, Measurement, Statistic

Axis = Literal["input", "output"]

INPUT_TOLERANCE = 0.25
"""A point belongs to the output sweep when its input is within this share of the fixed one: prompts of a nominal
length differ by tokenizer (32 to 38 tokens in the published sweeps)."""


@dataclass(frozen=True)
class Failure:
    """A request size at which nothing could be measured."""

    input_tokens: int
    output_tokens: int
    status: str
    """oom, timeout, error, discarded or skipped."""


@dataclass(frozen=True)
class System:
    """One system with one model, as measured."""

    identity: Identity
    measurements: Sequence[Measurement]
    method: Method | None
    """How its energy was read; None where unknown or not read."""
    failures: Sequence[Failure] = ()

    @property
    def sequences(self) -> int:
        """Sequences per request; 1 where unknown, as published measurements have it."""
        return self.identity.batch_size or 1


@dataclass(frozen=True)
class SweepPoint:
    """One point of one system. Estimates are per request; None where not measured."""

    system: str
    model: str
    input_tokens: float
    output_tokens: float
    trials: int
    runtime_s: Estimate
    throughput: Estimate
    """Input and output tokens over runtime, tokens/s, as in the paper."""
    energy_per_token_j: Estimate | None
    energy_j: Estimate | None
    method: Method | None


def sweep(
    system: System,
    axis: Axis,
    fixed_input: int,
    fixed_output: int,
    boundary: Sequence[Component] | None = None,
) -> list[SweepPoint]:
    """The points of the input sweep (at ``fixed_output``) or of the output sweep (near ``fixed_input``), in order.

    Energy is that of ``boundary``, or the sum of all components measured.
    """
    if axis == "input":
        chosen = [m for m in system.measurements if m.output_tokens_requested == fixed_output]
        chosen.sort(key=lambda m: m.input_tokens)
    else:
        chosen = _at_fixed_input(system.measurements, fixed_input)
    return [_point(system, measurement, boundary) for measurement in chosen]


def _at_fixed_input(measurements: Iterable[Measurement], fixed: int) -> list[Measurement]:
    """Per number of output tokens, the point whose input is nearest to the fixed one, if it is near enough."""
    nearest: dict[int, Measurement] = {}
    for measurement in sorted(measurements, key=lambda m: abs(m.input_tokens - fixed)):
        if abs(measurement.input_tokens - fixed) <= INPUT_TOLERANCE * fixed:
            nearest.setdefault(measurement.output_tokens_requested, measurement)
    return sorted(nearest.values(), key=lambda m: m.output_tokens)


def failures_on(system: System, axis: Axis, fixed_input: int, fixed_output: int) -> list[Failure]:
    """The failed sizes that lie on a sweep."""
    if axis == "input":
        return [failure for failure in system.failures if failure.output_tokens == fixed_output]
    return [
        failure
        for failure in system.failures
        if abs(failure.input_tokens - fixed_input) <= INPUT_TOLERANCE * fixed_input
    ]


def mean_95(statistic: Statistic) -> Estimate:
    """Mean and 95 % half-width over the trials, what the sensors leave in each included."""
    return statistics.estimate(statistic.mean, statistic.sd, statistic.trials, statistic.ci95)


def _point(system: System, measurement: Measurement, boundary: Sequence[Component] | None) -> SweepPoint:
    tokens = system.sequences * (measurement.input_tokens + measurement.output_tokens)
    runtime = mean_95(measurement.runtime_s)
    relative = None if runtime.half_width is None else runtime.half_width / runtime.mean
    throughput = tokens / runtime.mean
    energy = _energy(measurement, boundary)
    return SweepPoint(
        system=system.identity.system,
        model=system.identity.model,
        input_tokens=measurement.input_tokens,
        output_tokens=measurement.output_tokens,
        trials=measurement.trials,
        runtime_s=runtime,
        throughput=Estimate(throughput, None if relative is None else relative * throughput),
        energy_per_token_j=per(energy, tokens),
        energy_j=energy,
        method=system.method,
    )


def _energy(measurement: Measurement, boundary: Sequence[Component] | None) -> Estimate | None:
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


def per(energy: Estimate | None, count: float) -> Estimate | None:
    """An energy shared by ``count`` tokens."""
    if energy is None or count <= 0:
        return None
    return Estimate(energy.mean / count, None if energy.half_width is None else energy.half_width / count)
