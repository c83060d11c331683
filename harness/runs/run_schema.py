"""What ``run.json`` says: what was measured, on what, by which meters. No I/O.

What a newer or older program wrote beside these fields is kept as it stands, but for what it wrote within ``energy``
and ``idle``, whose values are the meter's own.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from harness.core.quantities import Facts
from harness.energy.attribution import IdleBaseline
from harness.energy.config import EnergyConfig
from harness.energy.foreign_load import CpuLoad
from harness.energy.meter import MeterDescription
from harness.energy.step_response import SensorCheck
from harness.runs.schema import MOST_TOKENS

RUN_VERSION = 2

Count = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Setting = str | int | float | bool | None


class _Open(BaseModel):
    """Known fields are used as they stand, no text for a number and nothing infinite; others are kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class OpenLoopRecord(_Open):
    """Requests that came at times of their own: one loop at each rate, or one with the arrivals of a log."""

    rates_per_s: tuple[float, ...]
    """Poisson arrivals; empty where a log says when requests come."""
    duration_s: float
    sizes: tuple[tuple[Count, Count], ...]
    """Sizes that Poisson arrivals have, each as likely as the others."""
    logged: int = 0
    """Requests of the log."""
    log_sha256: str | None = None
    """Of the times and sizes in it."""
    ttft_limit_s: float | None = None
    tpot_limit_s: float | None = None
    e2e_limit_s: float | None = None


class AdaptiveRecord(_Open):
    """Sizes that were chosen while measuring."""

    error: float
    """Mean relative error of the fitted costs at which it was enough."""
    inputs: tuple[Count, Count]
    """Fewest and most input tokens."""
    outputs: tuple[Count, Count]
    concurrencies: tuple[Count, ...]
    budget_s: float | None = None
    traffic_sizes: int = 0
    """Distinct sizes of the user's own traffic; 0 where a log grid mattered."""
    traffic_sha256: str | None = None
    """Of these sizes and their counts."""
    drawn: tuple[tuple[Count, Count, Count], ...] = ()
    """Those of the plan's points that were drawn at random: they tell the error."""
    drawn_trials: tuple[Count, ...] = ()
    """Number of trials that each of these is to have, in two visits."""


class PlanRecord(_Open):
    """Everything that decides which trials a run consists of."""

    protocol: str
    seed: int
    stopping: Facts
    """The rule by its name, with its parameters."""
    min_window_s: float
    max_window_s: float
    timeout_s: float
    points: tuple[tuple[Count, Count, Count], ...]
    """Input tokens, output tokens and requests in flight, in the order in which they are measured."""
    open_loop: OpenLoopRecord | None = None
    """The open loops of the run; None where it has none."""
    adaptive: AdaptiveRecord | None = None
    """Where sizes were chosen while measuring; None where all were planned."""


class BackendOptions(_Open):
    """The options that the backend was given: ``backends.base.Config``, of which the harness reads these."""

    kv_cache: bool
    batch_size: Count = 1
    """Sequences per request of the trials that version 1 recorded, whose lines don't say."""
    compile: str = "none"
    prefill_chunk: int | None = None
    server_flags: tuple[str, ...] = ()


class BackendRecord(_Open):
    """The runtime and the device it computed on."""

    name: str
    config: BackendOptions
    device: str
    device_names: tuple[str, ...]
    gpu_uuids: tuple[str, ...]
    concurrency: str = "static batch"
    """How several requests were in flight: ``one``, ``static batch`` or ``closed loop``."""
    settings: dict[str, Setting]
    """What the runtime chose or was told that decides cost, by its own names."""
    versions: dict[str, str]


class ModelRecord(_Open):
    """The model: ``backends.base.Model``, of which the harness reads these."""

    name: str = Field(min_length=1)
    context_length: int | None
    """None where a server does not say."""
    dtype: str | None
    random_weights: bool | None
    parameters: int | None = None


class Gpu(_Open):
    """One NVIDIA GPU."""

    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    memory_bytes: int | None = None
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None


class Machine(_Open):
    """The hardware and the system on it. What can't be read is None."""

    cpu_model: str | None
    usable_cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    container: str | None
    hostname_sha256: str
    physical_cores: int | None = None
    logical_cores: int | None = None
    os: str | None = None
    os_version: str | None = None
    architecture: str | None = None
    governor: str | None = None
    virtual_machine: str | None = None


class ReachedRecord(_Open):
    """How right the fitted costs of one quantity were when no further size was chosen."""

    error: float
    """Mean relative error at the sizes drawn at random, each left out in turn, less what noise makes of it."""
    doubt: float
    """What is added to it: with 90 % confidence it lies below the sum, which must be below the error asked for."""
    drawn: Count
    """Number of these sizes."""


class Session(_Open):
    """One start of the program into the run's directory."""

    software: dict[str, str]
    energy: MeterDescription
    idle: dict[str, IdleBaseline]
    """Idle power ``before`` and ``after`` the trials."""
    started_at: str | None = None
    ended_at: str | None = None
    plan: PlanRecord | None = None
    """By which plan this session measured; that of the run is the last one."""
    max_foreign_load: float | None = None
    """Share of all processors that other programs could take before a trial was disturbed; None for any."""
    load_at_start: CpuLoad | None = None
    """What other programs took of the processors before the model was loaded; None where nobody looked."""
    unused_gpus: str | None = None
    """Why the CPU computed although ``--device auto`` had NVIDIA GPUs to choose from; None where that is not so."""
    sensors: dict[str, SensorCheck] = Field(default_factory=dict)
    """By domain, what is known of its sensor's timing, how sure and where from; empty where nobody looked."""
    reached: dict[str, ReachedRecord] = Field(default_factory=dict)
    """By quantity, such as ``runtime_s``; empty where sizes were planned, or too few of them were drawn to tell."""
    ended: str | None = None
    """How it ended: ``complete``, ``interrupted`` or ``stopped: …``; None where it was killed."""


class Run(_Open):
    """``run.json``."""

    plan: PlanRecord
    backend: BackendRecord
    model: ModelRecord
    machine: Machine
    energy: EnergyConfig
    sessions: tuple[Session, ...]
    schema_version: int = RUN_VERSION
    tool_version: str | None = None
    created_at: str | None = None


def noted(run: Run, **facts: object) -> Run:
    """The run with facts about its last session."""
    *earlier, session = run.sessions
    return run.model_copy(update={"sessions": (*earlier, session.model_copy(update=facts))})
