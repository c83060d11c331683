"""The models of a profile file at one concurrency: cost functions with all that is known of their doubt.

Field names carry units; null means not measured, unknown or, of degrees of freedom, infinitely many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from harness.core.errors import UserError
from harness.core.quantities import LARGEST_NUMBER, Method
from harness.modelling.cost_function import CostFunction, Range
from harness.modelling.doubt import NO_SCATTER, Misfit, Scatter, SessionEffect
from harness.modelling.forms import FORMS, form_named
from harness.modelling.forms.base import DecodeContext, Form
from harness.modelling.profile_schema import MeasuredRange, Strict
from harness.runs.run_schema import Count


def _registered(name: str) -> str:
    try:
        return form_named(name).name
    except UserError as error:
        raise ValueError(error) from None


# The schema lists the forms that there are when it is asked for.
RegisteredForm = Annotated[
    str, AfterValidator(_registered), Field(json_schema_extra=lambda schema: schema.update(enum=list(FORMS)))
]


def stored_freedom(freedom: float) -> float | None:
    """Degrees of freedom as a file holds them: null where there are infinitely many."""
    return freedom if math.isfinite(freedom) else None


def counted_freedom(freedom: float | None) -> float:
    """Degrees of freedom of a file: infinitely many where it has null."""
    return math.inf if freedom is None else freedom


def check_covariance(rows: Sequence[Sequence[float]], size: int) -> None:
    """Raises ValueError for what can't be the covariance of so many coefficients."""
    if [len(row) for row in rows] != [size] * size:
        raise ValueError(f"the covariance must have {size} rows and columns")
    covariance = np.array(rows, dtype=float)
    variances = np.diag(covariance)
    if (variances < 0).any():
        raise ValueError("a variance is negative")
    if (variances > LARGEST_NUMBER).any():
        raise ValueError(f"a variance is larger than {LARGEST_NUMBER:g}: sums of costs would overflow")
    scale = np.outer(np.sqrt(variances), np.sqrt(variances))
    if (np.abs(covariance - covariance.T) > 1e-9 * scale).any():
        raise ValueError("the covariance is not symmetric")
    scale[scale == 0] = 1.0
    if np.linalg.eigvalsh(covariance / scale).min() < -1e-8:
        raise ValueError("the covariance is not positive semi-definite")


class Coefficient(Strict):
    """One number of a cost function."""

    name: str
    """Says its place in the formula and its unit."""
    value: float
    """In the unit."""
    standard_error: NonNegativeFloat
    """Of this coefficient alone, for reading: the uncertainty of the roofline exponent is in it in full, so that it
    is no diagonal entry of ``covariance``."""
    unit: str
    """Such as s/token."""


class PointError(Strict):
    """How far a model is off at one point."""

    input_tokens: PositiveFloat
    """Of the point."""
    output_tokens: PositiveFloat
    """Of the point."""
    relative_error: float
    """(predicted − measured) / measured."""


class HeldOutError(Strict):
    """Errors at each point of the whole fit, choices included, made without that point."""

    points: Count
    """How many were left out in turn."""
    mape: NonNegativeFloat
    """Mean absolute relative error; 0.05 is 5 %."""
    rms: NonNegativeFloat
    """Root mean square of the relative errors, suspects left out."""
    worst: PointError
    """The point with the largest error."""


class Alternative(Strict):
    """A form that was fitted beside the chosen one."""

    form: RegisteredForm
    """Its name."""
    mape: NonNegativeFloat
    """Mean absolute relative error at the points fitted."""
    loo_mape: NonNegativeFloat
    """Mean absolute relative error at points left out of the fit."""
    refusal: str | None
    """Why it can't be used; null where it could."""


class MisfitRecord(Strict):
    """Relative standard deviation of true costs about the form: sd·√(1 + growth·d²)·(cost / reference_cost)^−falloff.

    d is the distance of a size from the nearest of ``range.points`` in octaves, √(Δlog2(m)² + Δlog2(n)² + 4·o²), with o
    the octaves (of both axes, likewise) below the smallest or above the largest size measured.
    """

    sd: NonNegativeFloat
    """At a measured size of the reference cost."""
    growth: NonNegativeFloat
    """Per octave²."""
    falloff: float
    """How fast it falls with the cost."""
    reference_cost: PositiveFloat
    """In the model's unit."""
    freedom: PositiveFloat | None
    """Degrees of freedom that the standard deviation is known to; null: infinitely many."""

    @classmethod
    def of(cls, misfit: Misfit) -> Self:
        """The misfit as a file holds it."""
        return cls(**{**vars(misfit), "freedom": stored_freedom(misfit.freedom)})

    @property
    def misfit(self) -> Misfit:
        """As the mathematics has it."""
        return Misfit(**{**dict(self), "freedom": counted_freedom(self.freedom)})


class ScatterRecord(Strict):
    """Standard deviation of single requests about the mean of their size: factor·cost^exponent, in the model's unit."""

    factor: NonNegativeFloat
    """At a cost of 1."""
    exponent: float
    """How it grows with the cost."""
    freedom: PositiveFloat | None
    """Degrees of freedom that it is known to; null: infinitely many."""
    prior: str | None
    """Where it comes from, with its source, when no size was measured twice; null where the trials tell it."""

    @classmethod
    def of(cls, scatter: Scatter) -> Self:
        """The scatter as a file holds it."""
        return cls(**{**vars(scatter), "freedom": stored_freedom(scatter.freedom)})

    @property
    def scatter(self) -> Scatter:
        """As the mathematics has it."""
        return Scatter(**{**dict(self), "freedom": counted_freedom(self.freedom)})


class SessionsRecord(Strict):
    """What all trials of one session share (temperature, clocks, a restart): a relative deviation of all its costs."""

    sd: NonNegativeFloat
    """Relative standard deviation of a new session's costs about those measured, alike for all sizes."""
    freedom: PositiveFloat | None
    """Degrees of freedom that it is known to; null: infinitely many."""
    sessions: Count
    """How many the measurements are of."""
    prior: str | None
    """Where the standard deviation comes from, with its source, when the sessions don't tell it; null where they do."""

    @classmethod
    def of(cls, effect: SessionEffect) -> Self:
        """The effect as a file holds it."""
        return cls(**{**vars(effect), "freedom": stored_freedom(effect.freedom)})

    @property
    def effect(self) -> SessionEffect:
        """As the mathematics has it."""
        return SessionEffect(**{**dict(self), "freedom": counted_freedom(self.freedom)})


class MeasuredSizes(MeasuredRange):
    """The request sizes a model was fitted on, all of them."""

    points: list[tuple[PositiveFloat, PositiveFloat]] = Field(min_length=1)
    """Input and output tokens of every point that was fitted: the misfit grows with the distance to the nearest."""
    point_octaves: list[NonNegativeFloat] = Field(default_factory=list)
    """How far each point is in requests in flight, in octaves: its squared distance d² has their square too. Absent
    from the file where all were measured at the model's number of requests in flight."""
    octaves_beyond: NonNegativeFloat = 0.0
    """How far the model's requests in flight lie outside those that were measured, o² counting as of an axis: all sizes
    are then extrapolated, and by more than two octaves no interval is known. Absent from the file if 0."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.point_octaves and len(self.point_octaves) != len(self.points):
            raise ValueError("point_octaves must have an entry per point, or none")
        return self

    @model_serializer(mode="wrap")
    def _at_its_own_number(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        usual: tuple[tuple[str, Any], ...] = (("point_octaves", []), ("octaves_beyond", 0.0))
        return {key: value for key, value in content.items() if (key, value) not in usual}


class FittedModel(Strict):
    """What every version of a profile's file says of a model."""

    form: RegisteredForm
    """Which formula the coefficients belong to."""
    kv_cache: bool
    """Whether decode steps have coefficients of their own; else each costs what prefill of the same length does."""
    unit: Literal["s", "J"]
    """Seconds or joules."""
    roofline_exponent: Annotated[float, Field(ge=1, le=64)] | None
    """p of the phase form; null for other forms."""
    decode_context: DecodeContext = "grows"
    """Of the phase form with the KV cache: ``grows``, where decode step k costs D(m + k), or ``m + n``, where a static
    cache has every step attend to all positions and each costs D(m + n). Absent from the file where it grows."""
    coefficients: list[Coefficient]
    """In the order of the formula."""
    covariance: list[list[float]]
    """Of the coefficients, in their order, given the roofline exponent and enlarged by what another exponent would
    predict: for errors of predictions, fᵀ·covariance·f with f the derivatives of the cost."""
    mape: NonNegativeFloat
    """Mean absolute relative error at the points fitted."""
    held_out: HeldOutError
    """How good the model is at points that it has not seen."""
    suspects: list[PointError]
    """Points far outside the scatter of the others, kept in the fit."""
    dropped: list[PointError]
    """Suspects left out of the fit on request."""
    alternatives: list[Alternative]
    """Every form that was fitted, for comparison."""
    notes: list[str]
    """What the points can't tell and what to measure."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        form = self.cost_form()
        expected = [name for name, _ in form.coefficients(self.unit)]
        if [coefficient.name for coefficient in self.coefficients] != expected:
            raise ValueError(f"the coefficients of the {self.form} form must be {', '.join(expected)}")
        if form.non_negative and any(coefficient.value < 0 for coefficient in self.coefficients):
            raise ValueError(f"a coefficient of the {self.form} form is negative")
        check_covariance(self.covariance, len(expected))
        return self

    def cost_form(self) -> Form:
        """The form with its fixed choices. Raises ValueError where one is missing."""
        return form_named(self.form).restore(self.kv_cache, self._choices())

    def _choices(self) -> dict[str, Any]:
        return {"roofline_exponent": self.roofline_exponent, "decode_context": self.decode_context}


class CostModel(FittedModel):
    """One cost function of a request's size, in seconds or joules, with its uncertainty."""

    terms: list[str] = Field(default_factory=list)
    """What the phase form has beside its usual parts, such as ``tile 64``; empty, and absent from the file, where
    nothing."""
    freedom: PositiveFloat | None
    """Degrees of freedom behind the covariance; null: infinitely many."""
    misfit: MisfitRecord
    """What the form can't follow at sizes that were not measured."""
    scatter: ScatterRecord | None
    """Of single requests; null only in a profile of version 1 whose measurements don't hold the quantity: then its
    misfit, which was told from single requests, holds it."""
    sessions: SessionsRecord
    """What another session of the same system may do to all costs."""
    range: MeasuredSizes
    """Sizes beyond it are extrapolated; more than two octaves beyond it no interval is known."""

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        usual: tuple[tuple[str, Any], ...] = (("decode_context", "grows"), ("terms", []))
        return {key: value for key, value in content.items() if (key, value) not in usual}

    def _choices(self) -> dict[str, Any]:
        return super()._choices() | {"terms": tuple(self.terms)}

    @cached_property
    def function(self) -> CostFunction:
        """The model as a function of numpy arrays, without any doubt of a meter."""
        return CostFunction(
            form=self.cost_form(),
            coefficients=np.array([coefficient.value for coefficient in self.coefficients]),
            covariance=np.array(self.covariance, dtype=float),
            freedom=counted_freedom(self.freedom),
            misfit=self.misfit.misfit,
            scatter=self.scatter.scatter if self.scatter else NO_SCATTER,
            session=self.sessions.effect,
            gain_ci95=0.0,
            range=Range(**dict(self.range)),
        )


class EnergyModel(Strict):
    """Gross energy of a component, or of all of them together."""

    method: Method | None
    """How it was measured, the weakest of its parts; null where unknown."""
    gain_ci95: NonNegativeFloat
    """Relative half-width of the 95 % interval of the meters' gain: one factor on all energies that they measure."""
    gain_source: str
    """Where that is from."""
    meters: list[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]]
    """Of each sensor that is in the sum, a hash of the machine and of what it measures: two profiles by the same
    sensors share their gain. Empty where unknown."""
    model: CostModel
    """Joules of a request."""
    idle_power_w: NonNegativeFloat | None
    """Power while nothing is computed; null where not measured."""
    idle_power_ci95_w: NonNegativeFloat | None
    """Half-width of the 95 % interval of the idle power, without its meters' gain."""

    @cached_property
    def function(self) -> CostFunction:
        """Joules of a request, the doubt of the meters' gain included."""
        return replace(self.model.function, gain_ci95=self.gain_ci95)
