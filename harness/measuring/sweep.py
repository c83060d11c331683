"""Run a plan: one worker, one trial after the other, each recorded as it ends, whatever happens to it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from backends.base import Loaded
from harness.core.errors import UserError
from harness.core.version import __version__
from harness.energy.config import EnergyConfig
from harness.energy.foreign_load import CpuLoad, Look
from harness.energy.meter import Meter, MeterDescription
from harness.energy.probes.base import ProbeContext
from harness.energy.step_response import SensorCheck
from harness.measuring import machine, same_run
from harness.measuring.model_host import ModelHost, SweepStopped
from harness.measuring.observer import Observer
from harness.measuring.planned_run import PlannedRun, prepare
from harness.measuring.schedule import Schedule
from harness.measuring.sensor_check import check_sensors
from harness.measuring.session import MeasuringSession, now
from harness.modelling.forms.base import decode_context_of
from harness.runs.records import RecordedRun, load_run
from harness.runs.run_schema import BackendOptions, BackendRecord, ModelRecord, Run, Session, Setting, noted
from harness.runs.schema import Trial
from harness.runs.store import LOG_FILE, RunStore


def measure(
    directory: str | Path | None = None,
    backend: str | None = None,
    observer: Observer = Observer(),
    **options: Any,
) -> RecordedRun:
    """Measure this machine into a run directory, or go on with the run that is there; see ``prepare`` for options.

    Raises UserError for what can't be measured, SweepStopped or StorageError for faults; what was measured is kept.
    """
    planned = prepare(backend, **options)
    into = planned.directory if directory is None else Path(directory)
    with RunStore(into) as store:
        run_sweep(planned, store, observer)
    return load_run(into)


def run_sweep(planned: PlannedRun, store: RunStore, observer: Observer) -> None:
    """One session of a run: from loading the model to the last trial that can be measured now.

    Raises UserError for what can't be asked for, here or in this directory, SweepStopped or StorageError for faults.
    However it ends, the worker is gone and the records are whole.
    """
    begun = len(store.run.sessions) if store.run else 0
    try:
        _run_session(planned, store, observer)
    except KeyboardInterrupt:
        _note_end(store, begun, "interrupted")
        raise
    except SweepStopped as stopped:
        _note_end(store, begun, f"stopped: {stopped}")
        raise


def _run_session(planned: PlannedRun, store: RunStore, observer: Observer) -> None:
    held = store.run
    if held:
        planned = replace(planned, plan=planned.plan.continued(held.plan))
        same_run.refuse_other_run(store.directory, held, planned, machine.machine())
        schedule = _schedule(planned, store, held.model.context_length, settings=held.backend.settings)
        if schedule.next(len(held.sessions), 0) is None:
            observer.notice("nothing is left to measure: the run is complete")
            return
    limit = planned.energy.max_foreign_load
    with ModelHost(planned.backend, planned.config, store.directory / LOG_FILE, observer) as host:
        look = None if limit is None or limit >= 1.0 else Look(host.pid)
        resolved = host.resolve()
        load = _tell_of_others(look, limit, observer)
        planned.plan.refuse_beyond(resolved.context_length)
        if planned.plan.adaptive and (left_out := planned.plan.adaptive.left_out(resolved.context_length)):
            observer.notice(left_out)
        observer.loading(resolved)
        loaded, versions = host.load()
        served = loaded.concurrency == "closed loop"
        with _open_meter(planned.energy, loaded, host.pid) as meter:
            for notice in meter.notices:
                observer.notice(notice)
            if unused := _unused_gpus(planned.config.device, loaded):
                observer.notice(unused)
            backend, model = _described(planned, loaded, versions)
            if held:
                # Before the sensors' load, which takes ten seconds.
                same_run.refuse_other_hardware(store.directory, held, backend, model, meter.describe())
            sensors = check_sensors(meter, planned.energy.sensor_check, observer.notice)
            _begin_session(planned, store, backend, model, meter.describe(), load, unused, sensors)
            schedule = _schedule(planned, store, loaded.model.context_length, loaded.most_in_flight, loaded.settings)
            MeasuringSession(planned.plan, store, host, meter, observer, served).run(schedule)
    _note(store, ended_at=now(), ended="complete")


def _tell_of_others(look: Look | None, limit: float | None, observer: Observer) -> CpuLoad | None:
    """What other programs took of the CPU while the worker started; said at once where it would disturb trials.

    None where any load may pass, and where it is hidden.
    """
    load = look.load() if look else None
    excess = load.excess(limit) if load else None
    if load and excess:
        named = ", ".join(map(str, load.programs))
        observer.notice(
            f"{excess[0].upper()}{excess[1:]}{f': {named}' if named else ''}. Trials will be marked as disturbed: "
            "runtimes come out too long, and measured energy includes theirs. You can stop them; or run the same "
            "command again later, which measures the disturbed points again; or accept any load with "
            "--max-foreign-load 1. Measuring goes on."
        )
    return load


def _unused_gpus(asked: str, loaded: Loaded) -> str | None:
    """In one line, why the CPU is measured although the NVIDIA driver lists GPUs; None where it was asked for."""
    if asked != "auto" or loaded.device != "cpu" or not loaded.cuda_unusable:
        return None
    names = dict.fromkeys(gpu.name or "an NVIDIA GPU" for gpu in machine.gpus())
    if not names:
        return None
    return f"The CPU is measured, not {', '.join(names)}, which can't be used: {loaded.cuda_unusable}"


def _note_end(store: RunStore, begun: int, how: str) -> None:
    # A session that never began, because the model was not loaded yet, has no end.
    if store.run and len(store.run.sessions) > begun:
        _note(store, ended_at=now(), ended=how)


def _note(store: RunStore, **facts: Any) -> None:
    """Write facts about the present session down. Raises StorageError."""
    assert store.run
    store.write_run(noted(store.run, **facts))


def _open_meter(energy: EnergyConfig, loaded: Loaded, pid: int) -> Meter:
    """Open the power sources for what was loaded in the worker with that pid."""
    context = ProbeContext(
        gpu_uuids=tuple(loaded.gpu_uuids), device=loaded.device, worker_pid=pid, server_pids=tuple(loaded.server_pids)
    )
    # Power is read in real time: it has no meaning for requests on a virtual clock.
    virtual = loaded.settings.get("virtual_clock")
    return Meter.open(replace(energy, probes="none") if virtual else energy, context, loaded.no_energy)


def _schedule(
    planned: PlannedRun,
    store: RunStore,
    context_length: int | None,
    most_in_flight: int | None = None,
    settings: Mapping[str, Setting] = {},
) -> Schedule:
    schedule = Schedule(
        planned.plan,
        kv_cache=planned.config.kv_cache,
        context_length=context_length,
        most_in_flight=most_in_flight,
        decode_context=decode_context_of(planned.config.kv_cache, settings),
    )
    recorded = set(store.run.plan.points) if store.run else set()
    sessions = store.run.sessions if store.run else ()
    for trial in store.records:
        asked = trial.asked
        planned_size = (asked.input_tokens, asked.output_tokens, asked.concurrency) in recorded
        if not planned_size and trial.purpose != "open loop":
            raise UserError(
                f"{store.directory} is damaged: the size of trial {trial.id} is not in its plan; use another directory"
            )
        if not (trial.session < len(sessions) and _may_end_otherwise(trial, sessions[trial.session], planned)):
            schedule.add(trial)
    return schedule


def _may_end_otherwise(trial: Trial, session: Session, planned: PlannedRun) -> bool:
    """Whether its end was one of the moment: it was disturbed, took longer than a limit that has been raised since, or
    failed at a server, which may be well now.

    Such a trial is measured again, as if it weren't there.
    """
    if trial.status == "error":
        return planned.served
    if trial.status == "timeout":
        return session.plan is not None and session.plan.timeout_s < planned.plan.timeout_s
    return trial.status == "disturbed"


def _described(planned: PlannedRun, loaded: Loaded, versions: dict[str, str]) -> tuple[BackendRecord, ModelRecord]:
    """What measures and what is measured, as a run keeps them."""
    backend = BackendRecord(
        name=planned.backend,
        config=BackendOptions(**asdict(planned.config)),
        device=loaded.device,
        device_names=tuple(loaded.device_names),
        gpu_uuids=tuple(loaded.gpu_uuids),
        concurrency=loaded.concurrency,
        settings=dict(loaded.settings),
        versions=versions,
    )
    return backend, ModelRecord(**asdict(loaded.model))


def _begin_session(
    planned: PlannedRun,
    store: RunStore,
    backend: BackendRecord,
    model: ModelRecord,
    measured: MeterDescription,
    load: CpuLoad | None,
    unused_gpus: str | None,
    sensors: dict[str, SensorCheck],
) -> None:
    """Write down what is about to be measured."""
    held = store.run
    if held is None:
        held = Run(
            tool_version=__version__,
            created_at=now(),
            plan=planned.plan.record(None),
            backend=backend,
            model=model,
            machine=machine.machine(),
            energy=planned.energy,
            sessions=(),
        )
    plan = planned.plan.record(held.plan)
    session = Session(
        started_at=now(),
        software=machine.software() | backend.versions,
        energy=measured,
        idle={},
        plan=plan,
        max_foreign_load=planned.energy.max_foreign_load,
        load_at_start=load,
        unused_gpus=unused_gpus,
        sensors=sensors,
    )
    store.write_run(held.model_copy(update={"plan": plan, "sessions": (*held.sessions, session)}))
