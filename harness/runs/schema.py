"""What is read of a run directory's files: enough to refuse damaged ones in one line. The files may hold more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from harness.core.quantities import Method

# What is read is used as it stands: no text for a number, nothing infinite.
_AS_IT_STANDS = ConfigDict(strict=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, le=10**9)]
"""Of tokens and sequences: what is larger is damage, and no table could hold it."""
_HalfWidth = Annotated[float, Field(ge=0)] | None


class _EnergyFigure(TypedDict):
    """One energy of a record."""

    method: Method | None
    request_j: float | None
    request_ci95_j: _HalfWidth
    prefill_j: float | None
    prefill_ci95_j: _HalfWidth
    decode_j: float | None
    decode_ci95_j: _HalfWidth
    reason: str | None


def _known_together(figure: dict[str, Any], value: str, half_width: str) -> None:
    if (figure[value] is None) != (figure[half_width] is None):
        raise ValueError(f"{value} and {half_width} must both be known or neither")


def _complete(figure: dict[str, Any]) -> dict[str, Any]:
    for part in ("request", "prefill", "decode"):
        _known_together(figure, f"{part}_j", f"{part}_ci95_j")
    if figure["request_j"] is not None and figure["method"] is None:
        raise ValueError("an energy needs its method")
    return figure


_Figure = Annotated[_EnergyFigure, AfterValidator(_complete)]


class Energy(TypedDict):
    """``energy`` of a trial."""

    __pydantic_config__ = _AS_IT_STANDS  # type: ignore[misc]

    total: _Figure
    components: dict[str, _Figure]


class _Config(TypedDict):
    kv_cache: bool
    batch_size: Count
    compile: NotRequired[str]
    prefill_chunk: NotRequired[int | None]


class _Backend(TypedDict):
    name: str
    config: _Config
    device: str
    device_names: list[str]
    gpu_uuids: list[str]
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]


class _Model(TypedDict):
    name: Annotated[str, Field(min_length=1)]
    context_length: int
    dtype: str
    random_weights: bool


class _Machine(TypedDict):
    cpu_model: str | None
    usable_cores: int
    memory_bytes: int
    gpus: list[dict[str, Any]]
    container: str | None
    hostname_sha256: str


class _PowerFigure(TypedDict):
    power_w: float | None
    ci95_w: _HalfWidth


def _known_with_its_interval(figure: dict[str, Any]) -> dict[str, Any]:
    _known_together(figure, "power_w", "ci95_w")
    return figure


_Power = Annotated[_PowerFigure, AfterValidator(_known_with_its_interval)]


class _Baseline(TypedDict):
    """Idle power before or after the trials of a session."""

    total: _Power
    components: dict[str, _Power]
    domains: NotRequired[dict[str, _Power]]


class _Metering(TypedDict):
    attribution: str


class _Session(TypedDict):
    software: dict[str, str]
    idle: dict[str, _Baseline]
    energy: _Metering


class Run(TypedDict):
    """``run.json``."""

    __pydantic_config__ = _AS_IT_STANDS  # type: ignore[misc]

    plan: dict[str, Any]
    backend: _Backend
    model: _Model
    machine: _Machine
    energy: dict[str, Any]
    sessions: list[_Session]


Purpose = Literal["warmup", "measure", "drift"]
"""Why a trial was run; only ``measure`` enters the statistics of its point."""


Status = Literal["ok", "oom", "timeout", "error", "discarded", "skipped"]


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
