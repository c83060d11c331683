"""The served models of a profile file: costs by request size and by how many are in flight, with their doubt.

Field names carry units; null means not measured, unknown or, of degrees of freedom, infinitely many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from harness.core.arrays import Floats
from harness.core.quantities import Component
from harness.core.statistics import joined_95
from harness.modelling.cost_function import TOO_FAR
from harness.modelling.doubt import NO_SCATTER
from harness.modelling.model_schema import (
    Coefficient,
    CostModel,
    EnergyModel,
    HeldOutError,
    MeasuredSizes,
    MisfitRecord,
    PointError,
    ScatterRecord,
    SessionsRecord,
    check_covariance,
    counted_freedom,
)
from harness.modelling.profile_schema import IN_FLIGHT_AS, Identity, Measurement, Strict
from harness.modelling.served.form import PHASE, ServedForm
from harness.modelling.served.function import MeasuredLoads, ServedFunction
from harness.modelling.served.held_out import HeldOutKind
from harness.modelling.served.residual import InFlightResidual
from harness.modelling.served.station import Batching, PromptStation
from harness.runs.run_schema import Count

Latency = Literal["ttft", "tpot"]
"""Time to first token, and time per output token after it."""


class LoadPointError(PointError):
    """How far a model is off at one point."""

    concurrency: Count
    """Requests in flight."""


class LoadError(Strict):
    """Errors of the whole fit, choices included, made without the points."""

    points: Count
    """How many were predicted."""
    mape: NonNegativeFloat
    """Mean absolute relative error; 0.05 is 5 %."""
    rms: NonNegativeFloat
    """Root mean square of the relative errors."""
    worst: LoadPointError
    """The point with the largest error."""

    @classmethod
    def of(cls, error: Floats, m: Floats, n: Floats, c: Floats) -> Self:
        """Of relative errors, predicted over measured less 1, and the points at which they are."""
        worst = int(np.argmax(np.abs(error)))
        return cls(
            points=error.size,
            mape=float(np.mean(np.abs(error))),
            rms=float(np.sqrt(np.mean(error**2))),
            worst=LoadPointError(
                input_tokens=float(m[worst]),
                output_tokens=float(n[worst]),
                concurrency=round(float(c[worst])),
                relative_error=float(error[worst]),
            ),
        )


class Rival(Strict):
    """A simpler way to know costs at other concurrencies, fitted to the same points."""

    name: str
    """Such as ``linear in c``."""
    mape: dict[HeldOutKind, NonNegativeFloat]
    """Mean absolute relative error by what was left out; without what it can't predict."""


class InFlightFactor(Strict):
    """What the form misses with so many requests in flight."""

    concurrency: PositiveFloat
    """Requests in flight, or where it has fewer the slots."""
    factor: PositiveFloat
    """That costs are multiplied by there; between two its logarithm is interpolated in log c, and outside them all it
    stays."""


class ServedModel(Strict):
    """One cost of a request of m input and n output tokens while c are in flight, in seconds or joules.

    With the coefficients c0, c1, c2, a, s, d1 and, with experts, g, a cycle of c requests costs

        c0·(1 + φ·(c − 1)) + c·(c1·m + c2·m²) + (n − 1)·[a + s·c + g·x(c)] + d1·c·Σ_{k=1}^{n−1}(m + k)

    with φ = 0 where ``prefill_joined``, else 1, and x(c) = (1 − (1 − ρ)^c)/ρ. Runtime is a cycle's, energy of a request
    a cycle's over c; both times the factor of ``factors``. With more requests than ``slots`` runtime is c / slots times
    that of as many as the slots, and energy is theirs.
    """

    unit: Literal["s", "J"]
    """Seconds or joules."""
    prefill_joined: bool
    """Whether prefills join other work, or each is a step of its own."""
    experts_share: Annotated[float, Field(gt=0, lt=1)] | None
    """ρ: of a mixture's experts the share that one sequence needs; null where steps show no experts."""
    slots: Count | None
    """Requests that are worked on at once, beyond which others wait; null where no limit is known."""
    coefficients: list[Coefficient]
    """Of a cycle, in the order of the formula."""
    covariance: list[list[float]]
    """Of the coefficients, in their order."""
    freedom: PositiveFloat | None
    """Degrees of freedom behind the covariance; null: infinitely many."""
    misfit: MisfitRecord
    """What the form can't follow at sizes and concurrencies that were not measured; d has the octaves in c too."""
    scatter: ScatterRecord | None
    """Of single requests; null where unknown."""
    sessions: SessionsRecord
    """What another session of the same system may do to all costs."""
    factors: list[InFlightFactor]
    """What the form misses; empty where to take it in didn't lessen the error left out."""
    points: list[tuple[PositiveFloat, PositiveFloat, Count]] = Field(min_length=1)
    """Input tokens, output tokens and requests in flight of every point that was fitted."""
    mape: NonNegativeFloat
    """Mean absolute relative error at the points fitted."""
    held_out: dict[HeldOutKind, LoadError] = Field(min_length=1)
    """How good the model is at points that it has not seen, by what was left out: single sizes with whatever in flight,
    one number in flight between others, or the most in flight. Without what couldn't be left out."""
    rivals: list[Rival]
    """What is simpler, for comparison."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        expected = [name for name, _ in self.form.coefficients(self.unit)]
        if [coefficient.name for coefficient in self.coefficients] != expected:
            raise ValueError(f"the coefficients under load must be {', '.join(expected)}")
        if any(coefficient.value < 0 for coefficient in self.coefficients):
            raise ValueError("a coefficient under load is negative")
        check_covariance(self.covariance, len(expected))
        return self

    @property
    def form(self) -> ServedForm:
        """The form with its choices."""
        return ServedForm(self.prefill_joined, self.experts_share)

    @cached_property
    def function(self) -> ServedFunction:
        """The model as a function of numpy arrays, without any doubt of a meter."""
        factors = [(held.concurrency, np.log(held.factor)) for held in self.factors]
        levels, logs = np.array(factors, dtype=float).reshape(-1, 2).T
        return ServedFunction(
            form=self.form,
            coefficients=np.array([coefficient.value for coefficient in self.coefficients]),
            covariance=np.array(self.covariance, dtype=float),
            freedom=counted_freedom(self.freedom),
            misfit=self.misfit.misfit,
            scatter=self.scatter.scatter if self.scatter else NO_SCATTER,
            session=self.sessions.effect,
            gain_ci95=0.0,
            loads=MeasuredLoads(np.array(self.points, dtype=float)),
            per_request=self.unit == "J",
            slots=self.slots,
            residual=InFlightResidual(levels, logs),
        )

    def at(self, c: int) -> CostModel:
        """The cost with c requests in flight, as the phase form's."""
        function = self.function.at(c)
        error = self.held_out[self._as_left_out(c)]
        names = PHASE.coefficients(self.unit)
        values, deviations = function.coefficients.tolist(), np.sqrt(np.diag(function.covariance)).tolist()
        worst = error.worst
        return CostModel(
            form=PHASE.name,
            kv_cache=True,
            unit=self.unit,
            roofline_exponent=PHASE.roofline,
            coefficients=[
                Coefficient(name=name, value=value, standard_error=deviation, unit=unit)
                for (name, unit), value, deviation in zip(names, values, deviations, strict=True)
            ],
            covariance=function.covariance.tolist(),
            freedom=self.freedom,
            misfit=MisfitRecord.of(function.misfit),
            scatter=self.scatter,
            sessions=self.sessions,
            range=MeasuredSizes(**vars(function.range)),
            mape=self.mape,
            held_out=HeldOutError(
                points=error.points,
                mape=error.mape,
                rms=error.rms,
                worst=PointError(**{name: getattr(worst, name) for name in PointError.model_fields}),
            ),
            suspects=[],
            dropped=[],
            alternatives=[],
            notes=[],
        )

    def _as_left_out(self, c: int) -> HeldOutKind:
        """The kind of error that a prediction with c in flight has; where it isn't known another, the outermost first.

        At a measured number in flight that of sizes left out, between two that of an inner one, beyond all that of the
        outermost.
        """
        # Beyond the slots requests wait, and else cost what as many as the slots do.
        c = c if self.slots is None else min(c, self.slots)
        measured = {point[2] for point in self.points}
        beyond: HeldOutKind = "inner" if min(measured) < c < max(measured) else "outermost"
        wanted: HeldOutKind = "sizes" if c in measured else beyond
        kinds: tuple[HeldOutKind, ...] = (wanted, "outermost", "inner", "sizes")
        return next(kind for kind in kinds if kind in self.held_out)


class LatencyModel(Strict):
    """Time to first token and time per output token, means of requests alike, by size and requests in flight.

    docs/profiles.md has the formula: of a closed loop a station where prompts queue, of a static batch the served form.
    """

    batching: Batching
    """How several requests are in flight."""
    prefill_joined: bool
    """Whether prefills join other work, or each is a step of its own."""
    experts_share: Annotated[float, Field(gt=0, lt=1)] | None
    """ρ, as of a served model."""
    slots: Count | None
    """Requests that are worked on at once, beyond which others wait; null where no limit is known."""
    coefficients: list[Coefficient]
    """The served form's in seconds; in a closed loop then the tokens of a step (chunk_tokens), the steps that a prompt
    waits for one to end (wait_steps), and how many of those at the station are before it: at random (queue_share), and
    because clients go in step (together_share)."""
    points: list[tuple[PositiveFloat, PositiveFloat, Count]] = Field(min_length=1)
    """Input tokens, output tokens and requests in flight of every point that was fitted."""
    held_out: dict[Latency, dict[HeldOutKind, LoadError]]
    """How far it is off at points that it has not seen, with its choice of form as for all points."""
    sessions: SessionsRecord
    """What another session of the same system may do to all times: as to runtime."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        expected = [name for name, _ in self.station.coefficients()]
        if [coefficient.name for coefficient in self.coefficients] != expected:
            raise ValueError(f"the coefficients of latency must be {', '.join(expected)}")
        if any(coefficient.value < 0 for coefficient in self.coefficients):
            raise ValueError("a coefficient of latency is negative")
        if not all(self.held_out.get(name) for name in ("ttft", "tpot")):
            raise ValueError("held-out errors of ttft and tpot are missing")
        return self

    @property
    def station(self) -> PromptStation:
        """The form with its choices."""
        return PromptStation(ServedForm(self.prefill_joined, self.experts_share), self.batching, self.slots)

    def times(self, m: ArrayLike, n: ArrayLike, c: int) -> dict[Latency, Floats]:
        """TTFT and TPOT in seconds with c requests of m input and n output tokens in flight; m and n broadcast."""
        m, n = np.broadcast_arrays(np.asarray(m, dtype=float), np.asarray(n, dtype=float))
        theta = np.array([coefficient.value for coefficient in self.coefficients])
        ttft, tpot = self.station.times(theta, m.ravel(), n.ravel(), np.full(m.size, c))
        return {"ttft": ttft.reshape(m.shape), "tpot": tpot.reshape(m.shape)}

    def relative_95(self, latency: Latency, c: int) -> float:
        """Half-width of the 95 % interval over the value; NaN too far to know.

        By the larger of the errors where sizes and inner numbers in flight were left out, and beyond all measured the
        outermost; on another day.
        """
        counts = [point[2] for point in self.points]
        working = c if self.slots is None else min(c, self.slots)
        if max(np.log2(working / max(counts)), np.log2(min(counts) / working)) > TOO_FAR:
            return math.nan
        errors = self.held_out[latency]
        inside = min(counts) <= working <= max(counts)
        judged = [error for kind, error in errors.items() if kind != "outermost" or not inside]
        worst = max(judged or errors.values(), key=lambda error: error.rms)
        sds = np.array(worst.rms), np.array(self.sessions.sd)
        return float(joined_95(sds, (max(worst.points - 1, 1), counted_freedom(self.sessions.freedom))))


class UnderLoad(Strict):
    """Costs with any number of requests in flight, beside those at the profile's own."""

    in_flight_as: str | None
    """How several requests were in flight: ``static batch`` or ``closed loop``; null where unknown."""
    runtime: ServedModel
    """Seconds of a request beside so many others."""
    energy: ServedModel | None
    """Gross energy of a request, of the sum of all components; method, gain, meters and idle power are those of the
    profile's ``energy``. Null where it was not measured."""
    components: dict[Component, ServedModel]
    """Gross energy of each component."""
    latency: LatencyModel | None
    """Time to first token and time per output token; null where they were not measured, or at too few points."""
    static_power_w: NonNegativeFloat | None
    """P in energy of a cycle = P·runtime + what its tokens take, by the same points: derived, for reading. Null where
    energy was not measured or the points don't tell it."""
    static_power_ci95_w: NonNegativeFloat | None
    """Half-width of its 95 % interval, without the meters' gain."""
    chunk_tokens: Count | None
    """Most tokens in a step of the server, as it told; null where unknown, or whole prompts."""
    cache_tokens: Count | None
    """Positions of context that the server's memory holds in all, as it told; null where unknown."""
    measurements: list[Measurement]
    """The points at other concurrencies than the profile's own."""
    notes: list[str]
    """What the points can't tell and what to measure."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.runtime.unit != "s":
            raise ValueError("the runtime model under load must be in s")
        energies = [model for model in (self.energy, *self.components.values()) if model is not None]
        if any(model.unit != "J" for model in energies):
            raise ValueError("energy models under load must be in J")
        if self.energy is None and self.components:
            raise ValueError("components under load without their sum")
        return self

    def identity_at(self, c: int, identity: Identity) -> Identity:
        """The identity of a profile of c requests in flight."""
        others = {name: value for name, value in identity.settings.items() if name != IN_FLIGHT_AS}
        kind = {IN_FLIGHT_AS: self.in_flight_as} if c > 1 and self.in_flight_as else {}
        return identity.model_copy(update={"concurrency": c, "settings": others | kind})

    def points_at(self, c: int, own: Sequence[Measurement]) -> list[Measurement]:
        """The points that were measured with c in flight; where there are none all points, ``own`` among them."""
        points = [*own, *self.measurements]
        return [point for point in points if point.concurrency == c] or points


def energy_at(energy: EnergyModel, served: ServedModel, c: int) -> EnergyModel:
    """An energy with c requests in flight, by the same meters."""
    # Not the fields' dictionary, which has what was cached too.
    held = {name: getattr(energy, name) for name in EnergyModel.model_fields}
    return EnergyModel(**{**held, "model": served.at(c)})
