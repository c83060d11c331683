"""The parts of a profile file, schema version 1. Field names carry units; null means not measured or unknown."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from harness.core.errors import UserError
from harness.core.quantities import Component, Method
from harness.core.statistics import freedom_of
from harness.modelling.cost_function import CostFunction, Range
from harness.modelling.doubt import Misfit, Scatter, SessionEffect
from harness.modelling.forms import FORMS, form_named
from harness.modelling.forms.base import DecodeContext, Form, decode_context_of
from harness.runs.run_schema import Count

IN_FLIGHT_AS = "requests_in_flight"
"""Setting of an identity at more than one request in flight: whether they are a static batch or a closed loop."""


def _registered(name: str) -> str:
    try:
        return form_named(name).name
    except UserError as error:
        raise ValueError(error) from None


# The schema lists the forms that there are when it is asked for.
RegisteredForm = Annotated[
    str, AfterValidator(_registered), Field(json_schema_extra=lambda schema: schema.update(enum=list(FORMS)))
]


class Strict(BaseModel):
    """Every field checked, none guessed, none unknown, no NaN, no infinity."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _with_older_key(schema: dict[str, Any]) -> None:
    """Let the JSON schema allow what ``older_profiles`` reads."""
    held = schema["properties"]["concurrency"]
    said = "In earlier files, in place of concurrency: sequences per request; every energy is that of all of them."
    schema["properties"]["batch_size"] = {**held, "title": "Batch Size", "deprecated": True, "description": said}
    schema["required"].remove("concurrency")
    schema["oneOf"] = [{"required": ["concurrency"]}, {"required": ["batch_size"]}]


class Identity(Strict):
    """What was measured."""

    model_config = ConfigDict(json_schema_extra=_with_older_key)

    system: str = Field(min_length=1)
    """The machine, such as m1-pro."""
    model: str = Field(min_length=1)
    """The language model, such as llama-2-7b."""
    kv_cache: bool
    """False where every decode step read the whole sequence again."""
    concurrency: Count | None
    """Requests in flight at which the costs hold: runtime is that of a request beside so many others, energy is per
    request; null where unknown. Earlier files have ``batch_size`` in its place, whose energies are of whole batches."""
    backend: str | None
    """The runtime, such as transformers or llama-cpp; null where unknown."""
    device: str | None
    """Where the computation ran: cpu, cuda, mps or metal."""
    device_names: list[str]
    """As the machine calls its processor or GPUs."""
    dtype: str | None
    """Weight precision or quantisation."""
    random_weights: bool | None
    """True where the weights were drawn at random in the model's shape."""
    settings: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """What else the runtime was told or chose that decides cost: compile mode, cache class and length, attention,
    threads, how several requests are in flight, …, by the backend's own names; empty, and absent from the file, where
    unknown."""

    @property
    def decode_context(self) -> DecodeContext:
        """How many positions each decode step with the KV cache attends to, by what the runtime said of its cache."""
        return decode_context_of(self.kv_cache, self.settings)

    @model_serializer(mode="wrap")
    def _without_unknown_settings(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {key: value for key, value in content.items() if value or key != "settings"}


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


class MeasuredRange(Strict):
    """The request sizes a model was fitted on: those at or above both minima that some corner exceeds in neither."""

    min_input_tokens: PositiveFloat
    """Fewest input tokens measured."""
    min_output_tokens: PositiveFloat
    """Fewest output tokens measured."""
    corners: list[tuple[PositiveFloat, PositiveFloat]] = Field(min_length=1)
    """Input and output tokens of the points measured that no other one exceeds in both."""


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


class CostModel(Strict):
    """One cost function of a request's size, in seconds or joules, with its uncertainty."""

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
    misfit: NonNegativeFloat
    """Relative standard deviation of new measurements about the model: the root mean square of the held-out errors
    joined to what the meters leave in one trial (median over the points) and, where most points are disturbed, to what
    that may have done to them."""
    interval_factor_95: PositiveFloat
    """Student's factor: inside ``range``, a new measurement by the same meters is stated to lie within this many
    sqrt(fᵀ·covariance·f + (misfit·value)²) of the prediction in 95 % of cases."""
    range: MeasuredRange
    """Sizes beyond it are extrapolated."""
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

    @model_serializer(mode="wrap")
    def _without_usual_context(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {key: value for key, value in content.items() if (key, value) != ("decode_context", "grows")}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        form = self.cost_form()
        expected = [name for name, _ in form.coefficients(self.unit)]
        if [coefficient.name for coefficient in self.coefficients] != expected:
            raise ValueError(f"the coefficients of the {self.form} form must be {', '.join(expected)}")
        if form.non_negative and any(coefficient.value < 0 for coefficient in self.coefficients):
            raise ValueError(f"a coefficient of the {self.form} form is negative")
        size = len(expected)
        if [len(row) for row in self.covariance] != [size] * size:
            raise ValueError(f"the covariance must have {size} rows and columns")
        covariance = np.array(self.covariance, dtype=float)
        variances = np.diag(covariance)
        if (variances < 0).any():
            raise ValueError("a variance is negative")
        scale = np.outer(np.sqrt(variances), np.sqrt(variances))
        if (np.abs(covariance - covariance.T) > 1e-9 * scale).any():
            raise ValueError("the covariance is not symmetric")
        scale[scale == 0] = 1.0
        if np.linalg.eigvalsh(covariance / scale).min() < -1e-8:
            raise ValueError("the covariance is not positive semi-definite")
        return self

    def cost_form(self) -> Form:
        """The form with its fixed choices. Raises ValueError where one is missing."""
        chosen = {"roofline_exponent": self.roofline_exponent, "decode_context": self.decode_context}
        return form_named(self.form).restore(self.kv_cache, chosen)

    @cached_property
    def function(self) -> CostFunction:
        """The model as a function of numpy arrays."""
        return CostFunction(
            self.cost_form(),
            np.array([coefficient.value for coefficient in self.coefficients]),
            np.array(self.covariance, dtype=float),
            freedom_of(self.interval_factor_95),
            Misfit(self.misfit, freedom=freedom_of(self.interval_factor_95)),
            Scatter(0.0, 1.0),
            SessionEffect(0.0),
            0.0,
            Range(**dict(self.range)),
        )


class EnergyModel(Strict):
    """Gross energy of a component, or of all of them together."""

    method: Method | None
    """How it was measured, the weakest of its parts; null where unknown."""
    model: CostModel
    """Joules of a request."""
    idle_power_w: NonNegativeFloat | None
    """Power while nothing is computed; null where not measured."""
    idle_power_ci95_w: NonNegativeFloat | None
    """Half-width of the 95 % interval of the idle power."""


class SessionStatistic(Strict):
    """What one session measured at a point."""

    session: NonNegativeInt
    """Number among the sessions of all runs pooled."""
    mean: float
    """Of its trials."""
    sd: NonNegativeFloat | None
    """Sample standard deviation; null for a single trial."""
    trials: Count
    """How many the mean is of."""


class Statistic(Strict):
    """A quantity over the trials of one point."""

    mean: float
    """In the unit that the field's name ends in."""
    sd: NonNegativeFloat | None
    """Sample standard deviation; null for a single trial."""
    trials: Count
    """How many the mean is of."""
    ci95: NonNegativeFloat | None
    """Half-width of the 95 % interval that one trial's own sensors leave; null where unknown."""
    requests: PositiveFloat = 1.0
    """In one trial, whose value is their mean: harmonic mean over the trials. Absent from the file if 1."""
    request_sd: NonNegativeFloat | None = None
    """Standard deviation of single requests about the mean of their trial, root mean square over the trials. Absent
    from the file where unknown."""
    sessions: list[SessionStatistic] = []
    """The same for each session by itself, by its number. Absent from the file where only one measured this."""

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        usual: dict[str, Any] = {"requests": 1.0, "request_sd": None, "sessions": []}
        return {key: value for key, value in content.items() if key not in usual or value != usual[key]}


class Measurement(Strict):
    """One point: trials of one request size at one number of requests in flight, warm-ups left out."""

    input_tokens: PositiveFloat
    """Of every request."""
    output_tokens: PositiveFloat
    """Tokens really produced, mean over the trials."""
    output_tokens_requested: Count
    """Tokens asked for."""
    trials: Count
    """How many were counted."""
    runtime_s: Statistic
    """Of a whole request, beside the others in flight."""
    prefill_s: Statistic | None
    """Until the first output token; null where not measured."""
    decode_s: Statistic | None
    """From the first output token to the last; null where not measured."""
    energy_j: Statistic | None
    """Per request, sum over all components."""
    prefill_energy_j: Statistic | None
    """Null where the sensors can't tell it."""
    decode_energy_j: Statistic | None
    """Null where the sensors can't tell it."""
    component_energy_j: dict[Component, Statistic]
    """Of each component, such as cpu or gpu."""
    component_prefill_energy_j: dict[Component, Statistic]
    """Of each component whose prefill the sensors can tell."""
    component_decode_energy_j: dict[Component, Statistic]
    """Of each component whose decoding the sensors can tell."""
    disturbed_trials: NonNegativeInt = 0
    """Of the trials, those during which others used the machine: all of them, or none. Absent from the file if 0."""
    concurrency: Count = 1
    """Requests in flight. Absent from the file if 1."""

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        usual = {"disturbed_trials": 0, "concurrency": 1}
        return {key: value for key, value in content.items() if key not in usual or value != usual[key]}


class Record(Strict):
    """A file the profile was made from."""

    name: str
    """Of the file, without its folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its content."""


class Provenance(Strict):
    """Where the numbers came from."""

    source: str
    """Who measured it and where it was published."""
    records: list[Record] = Field(min_length=1)
    """The files."""
    tool_version: str
    """Of joulebench."""
    created: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """Date of the fit, UTC."""
    excluded_trials: NonNegativeInt
    """Trials that were measured and used for nothing, for the reasons in ``notes``."""
    runtime_only_trials: NonNegativeInt
    """Trials used for runtime but not for energy, for the reasons in ``notes``."""
    versions: dict[str, str]
    """Of the packages that decided the result."""
    notes: list[str]
    """What a reader should know of the data."""
