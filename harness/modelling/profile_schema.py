"""What a profile file says beside its models: what was measured, on what, by whom.

Field names carry units; null means not measured or unknown.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from harness.core.quantities import Component
from harness.modelling.forms.base import DecodeContext, decode_context_of
from harness.runs.run_schema import Count

IN_FLIGHT_AS = "requests_in_flight"
"""Setting of an identity at more than one request in flight: whether they are a static batch or a closed loop."""


class Strict(BaseModel):
    """Every field checked, none guessed, none unknown, no NaN, no infinity."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Identity(Strict):
    """What was measured."""

    system: str = Field(min_length=1)
    """The machine, such as m1-pro."""
    model: str = Field(min_length=1)
    """The language model, such as llama-2-7b."""
    kv_cache: bool
    """False where every decode step read the whole sequence again."""
    concurrency: Count | None
    """Requests in flight at which the costs hold: runtime is that of a request beside so many others, energy is per
    request; null where unknown."""
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


class MeasuredRange(Strict):
    """The request sizes a model was fitted on: those at or above both minima that some corner exceeds in neither."""

    min_input_tokens: PositiveFloat
    """Fewest input tokens measured."""
    min_output_tokens: PositiveFloat
    """Fewest output tokens measured."""
    corners: list[tuple[PositiveFloat, PositiveFloat]] = Field(min_length=1)
    """Input and output tokens of the points measured that no other one exceeds in both."""


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
