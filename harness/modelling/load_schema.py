"""The served models of a profile file: costs by request size and by how many are in flight, with their doubt.

Field names carry units; null means not measured, unknown or, of degrees of freedom, infinitely many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from harness.core.quantities import Component
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
from harness.runs.run_schema import Count


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
            unsure=function.unsure,
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
        """The kind of error that a cost with c in flight has; where it isn't known the largest of the others.

        At a measured number in flight that of sizes left out, between two that of an inner one, beyond all that of the
        outermost.
        """
        # Beyond the slots costs are those of as many as the slots.
        c = c if self.slots is None else min(c, self.slots)
        measured = {point[2] for point in self.points}
        beyond: HeldOutKind = "inner" if min(measured) < c < max(measured) else "outermost"
        wanted: list[HeldOutKind] = ["sizes"] if c in measured else [beyond]
        return next(kind for kind in [*wanted, "outermost", "inner", "sizes"] if kind in self.held_out)


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

    def at(self, c: int, energy: EnergyModel | None, components: Mapping[Component, EnergyModel]) -> dict[str, Any]:
        """Runtime, energy and components of a profile of c requests in flight, from its own energies' meters."""
        return {
            "runtime": self.runtime.at(c),
            "energy": energy and self.energy and _with_model(energy, self.energy.at(c)),
            "components": {name: _with_model(components[name], model.at(c)) for name, model in self.components.items()},
        }

    def identity_at(self, c: int, identity: Identity) -> Identity:
        """The identity of a profile of c requests in flight."""
        others = {name: value for name, value in identity.settings.items() if name != IN_FLIGHT_AS}
        kind = {IN_FLIGHT_AS: self.in_flight_as} if c > 1 and self.in_flight_as else {}
        return identity.model_copy(update={"concurrency": c, "settings": others | kind})

    def points_at(self, c: int, own: Sequence[Measurement]) -> list[Measurement]:
        """The points that were measured with c in flight; where there are none all points, ``own`` among them."""
        points = [*own, *self.measurements]
        return [point for point in points if point.concurrency == c] or points


def _with_model(energy: EnergyModel, model: CostModel) -> EnergyModel:
    # Not the fields' dictionary, which has what was cached too.
    held = {name: getattr(energy, name) for name in EnergyModel.model_fields}
    return EnergyModel(**{**held, "model": model})
