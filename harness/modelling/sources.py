"""What a profile is made from: run directories of joulebench, or a CSV file of measurements made elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.core.errors import UserError
from harness.core.quantities import COMPONENTS, Method, weakest
from harness.core.statistics import Estimate, estimate_of
from harness.core.version import __version__
from harness.core.wording import percent
from harness.energy.attribution import IdleBaseline
from harness.modelling import meters
from harness.modelling.concurrency import at_concurrency, chosen, others
from harness.modelling.fitting import Power
from harness.modelling.measured_table import MeasuredTable, TableChoice, read_table
from harness.modelling.measurements import (
    SuspectTrial,
    Trials,
    aggregate,
    disturbance_words,
    pool_runs,
    suspect_trials,
    with_session_numbers,
)
from harness.modelling.power_caps import gpu_settings
from harness.modelling.profile_schema import IN_FLIGHT_AS, Identity, Measurement, Provenance, Record
from harness.modelling.system_names import default_name, plain_name
from harness.runs.records import RUN_FILE, TRIALS_FILE, RecordedRun
from harness.runs.run_schema import Run, Session, Setting

CPU_ENERGY = {
    "system": "CPU energy includes other processes (--attribution system).",
    "process": "CPU energy is the inference process's share (--attribution process).",
}
"""By ``--attribution``, whose CPU energy counts."""
_METHODS: dict[str, Method] = {"estimate": "estimated", "powermetrics": "modelled", "ioreport": "modelled"}
"""Of kinds of meters that have one only."""
_NO_METER = "the meter is not known: its gain is taken to be ± {} (--meter names the kind that read the energies)"
GPU_SHARE = (
    "GPU energy is the inference process's share, estimated from how long its kernels ran beside those of others "
    "(--attribution process)."
)


@dataclass(frozen=True)
class Pooled:
    """All that a profile holds besides its fits."""

    name: str
    identity: Identity
    measurements: list[Measurement]
    """The points at the concurrency that is fitted."""
    power: Power
    provenance: Provenance
    suspect_trials: list[SuspectTrial]
    others: tuple[Measurement, ...] = ()
    """The points at other concurrencies."""
    table_notes: tuple[str, ...] = ()
    """How a file of measurements was read."""
    in_flight_as: str | None = None
    """How several requests were in flight, as ``IN_FLIGHT_AS``; None where unknown, or where there never were."""


def from_runs(runs: Sequence[RecordedRun], system: str | None = None, concurrency: int | None = None) -> Pooled:
    """Pool the trials of runs of one system. Raises UserError when they differ or hold none.

    ``concurrency`` says at how many requests in flight; see ``concurrency.chosen``.
    """
    if not runs:
        raise UserError("no run to fit: name at least one run directory")
    identities = [_with_settings(identity_of(run.facts, system), gpu_settings(run)) for run in runs]
    # Each with each: where one run does not know a setting, the others must still agree in it.
    for (first, one), (second, other) in combinations(zip(runs, identities, strict=True), 2):
        if different := _differences(one, other):
            raise UserError(
                f"{second.directory} and {first.directory} differ in {', '.join(different)}: "
                "only runs of one system and model can be pooled; fit them apart"
            )
    pooled = pool_runs(runs)
    # Before points of one concurrency are told from the others: they have their sessions in common.
    pooled = replace(pooled, table=with_session_numbers(pooled.table))
    in_flight = chosen(pooled.table, concurrency)
    trials = at_concurrency(pooled, in_flight)
    files = [run.directory / name for run in runs for name in (RUN_FILE, TRIALS_FILE)]
    sessions = [session for run in runs for session in run.facts.sessions]
    versions = runs[0].facts.sessions[-1].software if runs[0].facts.sessions else {}
    attributions = {session.energy.attribution for session in sessions}
    if len(attributions) > 1:
        raise UserError("the runs attribute CPU energy differently (--attribution): fit them apart")
    metered = "cpu_energy_j" in trials.table and trials.table["cpu_energy_j"].notna().any()
    notes = [CPU_ENERGY[attribution] for attribution in attributions if metered]
    if "process" in attributions and _methods(trials).get("gpu") == "estimated":
        notes.append(GPU_SHARE)
    idle = [baseline for session in sessions for baseline in session.idle.values()]
    if any(baseline.conditions.get("disturbed") and baseline.total.power_w is not None for baseline in idle):
        notes.append("idle power was read while the machine was disturbed: it is probably too high")
    settings = {key: value for identity in identities for key, value in identity.settings.items()}
    if in_flight > 1:
        settings[IN_FLIGHT_AS] = _in_flight_as(runs, {in_flight})
    identity = _with_settings(identities[0], settings).model_copy(update={"concurrency": in_flight})
    shares = meters.energy_shares(aggregate(trials.table))
    metering = meters.pooled([meters.of_run(run.facts, shares) for run in runs])
    power = Power(_methods(trials), _idle_w(sessions), metering)
    origin = provenance("joulebench run", files, trials, versions, notes)
    left_out = others(pooled, in_flight)
    several = {point.concurrency for point in left_out if point.concurrency > 1}
    found = _pooled(identity, trials, power, origin, left_out)
    return replace(found, in_flight_as=_in_flight_as(runs, several)) if several else found


def _in_flight_as(runs: Sequence[RecordedRun], concurrencies: Collection[int]) -> str:
    """``static batch`` or ``closed loop``, as the runs say that have such points."""
    having = [run.facts.backend for run in runs if any(c in concurrencies for _, _, c in run.facts.plan.points)]
    return " or ".join(sorted({backend.concurrency for backend in having}))


def from_csv(
    path: Path,
    system: str | None,
    model: str | None,
    kv_cache: bool | None,
    concurrency: int | None = None,
    meter: str | None = None,
    choice: TableChoice | None = None,
) -> Pooled:
    """Measurements made elsewhere, in a file of any form of ``table_forms``. Raises UserError.

    ``system``, ``model`` and ``kv_cache`` are None where the file is to say them. ``concurrency`` is as in
    ``from_runs``. A file without such a column doesn't say it: one request at a time. ``meter`` is the kind of meter
    that read the energies, one of ``quantities.METERS``; None where it is unknown.
    """
    read = read_table(path, choice, model)
    system, model = _said(system, read.system, "system", path), _said(model, read.model, "model", path)
    return _measured(path, read, system, model, _cache_mode(kv_cache, read, path), concurrency, meter)


def from_file(path: Path) -> Pooled:
    """A file of measurements by itself: what it doesn't say of the system is named after the file. Raises UserError."""
    read = read_table(path)
    system, model = read.system or path.stem, read.model or f"unnamed model of {path.stem}"
    return _measured(path, read, system, model, _cache_mode(None, read, path), None, None)


def _measured(
    path: Path,
    read: MeasuredTable,
    system: str,
    model: str,
    kv_cache: bool,
    concurrency: int | None,
    meter: str | None,
) -> Pooled:
    pooled = replace(read.trials, table=with_session_numbers(read.trials.table))
    meter = meter or read.form.meter
    in_flight = chosen(pooled.table, concurrency)
    trials = at_concurrency(pooled, in_flight)
    unknown: dict[str, Any] = dict.fromkeys(("backend", "device", "dtype", "random_weights"))
    said = in_flight if pooled.says_concurrency else None
    identity = Identity(system=system, model=model, kv_cache=kv_cache, concurrency=said, device_names=[], **unknown)
    held = [name for name in COMPONENTS if f"{name}_energy_j" in trials.table]
    metering = meters.stated(dict.fromkeys(held or ("system",), meter), meters.energy_shares(aggregate(trials.table)))
    metered = "energy_j" in trials.table and trials.table["energy_j"].notna().any()
    notes = [_NO_METER.format(percent(metering["total"].gain_ci95, digits=0))] if metered and meter is None else []
    origin = provenance(f"measurements in {path.name}", [path], trials, notes=notes)
    presumed: dict[str, Method | None] = {what: _METHODS.get(meter or "") for what in metering}
    methods = presumed | _methods(trials)
    found = _pooled(identity, trials, Power(methods, {}, metering), origin, others(pooled, in_flight))
    return replace(found, table_notes=pooled.notes)


def _said(asked: str | None, read: str | None, what: str, path: Path) -> str:
    if found := asked or read:
        return found
    raise UserError(f"{path} names no {what}: --measurements needs --system NAME and --model NAME")


def _cache_mode(asked: bool | None, read: MeasuredTable, path: Path) -> bool:
    """Whether the KV cache was on: as asked, as the file says, else on. Raises UserError where these contradict."""
    if asked is not None and read.kv_cache is not None and asked != read.kv_cache:
        said = "--kv-cache" if read.kv_cache else "--no-kv-cache"
        raise UserError(f"{path} was measured {'with' if read.kv_cache else 'without'} a KV cache: say {said}")
    return next((mode for mode in (asked, read.kv_cache) if mode is not None), True)


def _pooled(
    identity: Identity, trials: Trials, power: Power, origin: Provenance, others: Sequence[Measurement]
) -> Pooled:
    measurements = aggregate(trials.table)
    if words := disturbance_words(measurements):
        origin = origin.model_copy(update={"notes": [words, *origin.notes]})
    suspects = suspect_trials(trials.table)
    return Pooled(default_name(identity), identity, measurements, power, origin, suspects, tuple(others))


def identity_of(run: Run, system: str | None) -> Identity:
    """What a run measured, at its fewest requests in flight.

    ``system`` renames the machine, which else is called by its processor.
    """
    backend, model = run.backend, run.model
    names = list(backend.device_names)
    machine = run.machine.cpu_model if backend.device == "cpu" or not names else names[0]
    # Those that no other field of an identity holds.
    options = {"compile": backend.config.compile, "prefill_chunk": backend.config.prefill_chunk}
    return Identity(
        system=system or plain_name(machine or "unnamed machine"),
        model=model.name,
        kv_cache=backend.config.kv_cache,
        concurrency=min((concurrency for _, _, concurrency in run.plan.points), default=None),
        backend=backend.name,
        device=backend.device,
        device_names=names,
        dtype=model.dtype,
        random_weights=model.random_weights,
        settings={**backend.settings, **options},
    )


def _with_settings(identity: Identity, settings: Mapping[str, Setting]) -> Identity:
    return identity.model_copy(update={"settings": identity.settings | dict(settings)})


def _differences(one: Identity, other: Identity) -> list[str]:
    """Names of the fields and settings that differ; concurrency is an axis and may."""
    axes = ("settings", "concurrency")
    fields = [key for key, value in one if key not in axes and value != getattr(other, key)]
    # A setting that only one program recorded says nothing: the options that decide it are there.
    shared = [key for key in one.settings if key in other.settings]
    return fields + [key for key in shared if one.settings[key] != other.settings[key]]


def _methods(trials: Trials) -> dict[str, Method | None]:
    """The weakest method of each component's trials and of their sum."""
    columns = [("total", "energy_method"), *((component, f"{component}_energy_method") for component in COMPONENTS)]
    return {what: weakest(trials.table[column]) for what, column in columns if column in trials.table}


def _idle_w(sessions: Sequence[Session]) -> dict[str, Estimate | None]:
    """Idle power by component and ``total``: the mean over all baselines of the same, widest, boundary."""
    baselines = [baseline for session in sessions for baseline in session.idle.values()]
    measured = [{c for c, figure in b.components.items() if figure.power_w is not None} for b in baselines]
    whole = [b for b, held in zip(baselines, measured, strict=True) if held == set().union(*measured)]
    return {what: _mean_power(whole if what == "total" else baselines, what) for what in ("total", *COMPONENTS)}


def _mean_power(baselines: Sequence[IdleBaseline], what: str) -> Estimate | None:
    figures = [b.total if what == "total" else b.components.get(what) for b in baselines]
    powers = [figure.power_w for figure in figures if figure and figure.power_w is not None]
    sensors = [figure.ci95_w for figure in figures if figure and figure.ci95_w is not None]
    return estimate_of(powers, fmean(sensors) if sensors else None)


def provenance(
    source: str,
    files: Sequence[Path],
    trials: Trials,
    versions: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Provenance:
    """Where a profile comes from: who measured, the hashes of the files, today's date. Raises UserError."""
    return Provenance(
        source=source,
        records=[_record(file) for file in files],
        tool_version=__version__,
        created=datetime.now(UTC).date().isoformat(),
        excluded_trials=trials.excluded,
        runtime_only_trials=trials.runtime_only,
        versions=dict(versions or {}),
        notes=[*trials.notes, *notes],
    )


def _record(path: Path) -> Record:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from None
    return Record(name=f"{path.parent.name}/{path.name}", sha256=hashlib.sha256(content).hexdigest())
