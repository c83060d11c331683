"""What may go on in a run directory: only what is measured as its first trials were.

What touches only what is still to be measured may change: points, trials, precision, windows, time limits.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from backends.base import Config
from harness.core.errors import UserError
from harness.core.validation import option_of
from harness.energy.meter import MeterDescription
from harness.measuring.machine import identity
from harness.measuring.plan import Plan
from harness.measuring.planned_run import PlannedRun
from harness.runs.run_schema import AdaptiveRecord, BackendRecord, Machine, ModelRecord, OpenLoopRecord, Run

_OF_OPEN_LOOPS = {
    "logged": "--arrivals",
    "log_sha256": "--arrivals",
    "duration_s": "--duration",
    "sizes": "the sizes of requests that come at a rate",
    "ttft_limit_s": "--slo-ttft",
    "tpot_limit_s": "--slo-tpot",
    "e2e_limit_s": "--slo-e2e",
}
_OF_CHOICE = {
    "inputs": "--input-tokens",
    "outputs": "--output-tokens",
    "concurrencies": "--concurrency",
    "traffic_sha256": "--for",
}
AT_START = {"cache_tokens"}
"""Settings that a server works out anew from the memory that is free when it starts."""


def refuse_other_run(directory: Path, held: Run, asked: PlannedRun, machine: Machine) -> None:
    """Compare what is known before a model is loaded. Raises UserError naming the first difference."""
    _refuse(directory, "--backend", held.backend.name, asked.backend)
    # An option that the earlier program did not have was at its default.
    defaults = {option.name: option.default for option in fields(Config) if option.default is not MISSING}
    options = held.backend.config.model_dump() | {"server_flags": tuple(held.backend.config.server_flags)}
    # A batch size was an option of all points once: each has its own now.
    del options["batch_size"]
    _refuse_options(directory, defaults | options, asdict(asked.config))
    # How much foreign load is let pass decides which trials count, not what they are; how sensors' timing is known is
    # each session's own.
    free = {"max_foreign_load": None, "sensor_check": None}
    ours, theirs = (asdict(energy) | free for energy in (held.energy, asked.energy))
    _refuse_options(directory, ours, theirs)
    _refuse_open_loops(directory, held.plan.open_loop, asked.plan)
    _refuse_other_choice(directory, held.plan.adaptive, asked.plan)
    then, now = identity(held.machine), identity(machine)
    for key in then | now:
        _refuse(directory, f"the machine's {key}", then.get(key), now.get(key))


def _refuse_open_loops(directory: Path, held: OpenLoopRecord | None, plan: Plan) -> None:
    """Open loops are told apart by their rates alone: all else must agree. Raises UserError."""
    if held is None or plan.open_loop is None:
        return
    then, now = held.model_dump(), plan.open_loop.record().model_dump()
    for key, spelled in _OF_OPEN_LOOPS.items():
        _refuse(directory, spelled, then[key], now[key])


def _refuse_other_choice(directory: Path, held: AdaptiveRecord | None, plan: Plan) -> None:
    """Sizes drawn from elsewhere would tell another error: what matters must agree. Raises UserError."""
    if held is None or plan.adaptive is None:
        return
    now = plan.adaptive.record()
    for key, spelled in _OF_CHOICE.items():
        _refuse(directory, spelled, getattr(held, key), getattr(now, key))


def refuse_other_hardware(
    directory: Path, held: Run, backend: BackendRecord, model: ModelRecord, meter: MeterDescription
) -> None:
    """Compare what the backend and the power sources turned out to be. Raises UserError."""
    then, now = held.model.model_dump(), model.model_dump()
    # What only one program records of a model says nothing.
    for key in then.keys() & now.keys():
        _refuse(directory, f"the model's {key}", then[key], now[key])
    for key in ("device", "device_names", "gpu_uuids"):
        _refuse(directory, f"the backend's {key}", getattr(held.backend, key), getattr(backend, key))
    for name in held.backend.versions | backend.versions:
        _refuse(directory, f"the version of {name}", held.backend.versions.get(name), backend.versions.get(name))
    # A setting that only one program records says nothing: the options that decide it agree.
    for key in held.backend.settings.keys() & backend.settings.keys() - AT_START:
        _refuse(directory, f"the backend's setting {key}", held.backend.settings[key], backend.settings[key])
    if held.sessions:
        first = held.sessions[0].energy.components
        _refuse(directory, "what is metered", first, meter.components)


def _refuse_options(directory: Path, held: Mapping[str, object], now: Mapping[str, object]) -> None:
    for key in dict.fromkeys([*now, *held]):
        _refuse(directory, option_of(key), held.get(key), now.get(key))


def _refuse(directory: Path, what: str, held: object, now: object) -> None:
    if held != now:
        raise UserError(
            f"{directory} holds a run that differs in {what}: {held!r} there and {now!r} now; "
            "measure as there, or into another directory"
        )
