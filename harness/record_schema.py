"""What is read of a run directory's files: enough to refuse damaged ones in one line. The files may hold more."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from harness.types import Method

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
