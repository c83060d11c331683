"""What the report page shows, as plain lists and numbers: facts, warnings, charts, fits, trials, thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.version import __version__
from harness.runs.records import RecordedRun, load_run
from harness.runs.summary import drift, idle_drift, idle_power_w
from harness.showing.drawn_systems import compare_drawn, distinct, draw_run, load_drawn, published_sources
from harness.showing.panels import DrawnSystem, Options
from harness.showing.report import charts, explorer

TRIAL_COLUMNS = (
    *("trial_id", "purpose", "status", "input_tokens", "output_tokens", "repeats"),
    *("runtime_s", "prefill_s", "decode_s", "decode_tokens_per_s"),
    *("energy_j", "energy_ci95_j", "energy_method", "energy_per_output_token_j"),
    *("started_at", "reason"),
)


def page_data(
    directories: Sequence[Path],
    profiles: Sequence[str] = (),
    workloads: Sequence[str] = (),
    options: Options = Options(),
    allow_mixed: bool = False,
) -> dict[str, Any]:
    """Everything that the page shows, ready for JSON; what was not measured is None.

    ``profiles`` and ``workloads`` are offered by the threshold explorer beside the runs and the shipped ones;
    ``options`` says where the charts' sweeps lie and which components count in them.
    Raises UserError, also for runs that can't share axes; with ``allow_mixed`` that is the first warning instead.
    """
    runs = [load_run(directory) for directory in directories]
    sources = distinct([draw_run(run) for run in runs])
    comparison = compare_drawn(sources, options.boundary, allow_mixed)
    published = published_sources()
    offered = distinct([*sources, *map(load_drawn, profiles), *published])
    fitted = [(source.name, source.profile) for source in offered if source.profile]
    own = len(fitted) - len(published)
    warnings = [
        f"{run.directory}: {line}" if len(runs) > 1 else line
        for run, source in zip(runs, sources, strict=True)
        for line in _warnings(run, source)
    ]
    return {
        "title": "joulebench: " + ", ".join(dict.fromkeys(run.facts.model.name for run in runs)),
        "subtitle": ", ".join(dict.fromkeys(_machine(run) for run in runs)),
        "footer": f"made by joulebench {__version__}",
        "warnings": [*comparison.warnings, *warnings],
        "facts": [_facts(run) for run in runs],
        "energy": [_energy(run) for run in runs],
        "charts": charts.charts(sources, options),
        "absent": charts.absent(sources, options),
        "fits": _fits(sources),
        "trials": _trials(runs),
        "explorer": explorer.explorer(fitted, own, workloads, allow_mixed),
    }


def _machine(run: RecordedRun) -> str:
    machine = run.facts.machine
    return " + ".join([machine.cpu_model or "unknown CPU", *(gpu.name for gpu in machine.gpus if gpu.name)])


def _warnings(run: RecordedRun, source: DrawnSystem) -> list[str]:
    """What puts the numbers in doubt, the gravest first."""
    trials, sessions = run.trials, run.facts.sessions
    failed = Counter(f"ended as {t.status}: {t.reason}" for t in trials if t.status not in ("ok", "disturbed"))
    disturbed = Counter(f"disturbed: {t.reason}" for t in trials if t.status == "disturbed")
    lines = [f"{_trials_of(count)} {end}" for ends in (failed, disturbed) for end, count in ends.most_common()]
    said = Counter(warning for trial in trials for warning in trial.warnings)
    lines += [f"{_trials_of(count)}: {warning}" for warning, count in said.most_common()]
    moved = drift(trials)
    if moved is not None and (moved.half_width is None or abs(moved.change) > moved.half_width):
        width = "" if moved.half_width is None else f" ± {100 * moved.half_width:.1f} %"
        point = f"m = {moved.point.input_tokens}, n = {moved.point.output_tokens}"
        lines.append(f"drift: the first point ({point}) took {100 * moved.change:+.1f} %{width} at the end of the run")
    for session in sessions:
        for idle in idle_drift(session):
            if abs(idle.change_w.mean) > (idle.change_w.half_width or 0.0):
                change = f"{idle.before_w.mean:.1f} W before, {idle.after_w.mean:.1f} W after the sweep"
                lines.append(f"idle power of {idle.domain} moved: {change}")
    if source.method == "estimated":
        lines.append("energy is estimated from CPU time, not measured")
    elif not any(m.energy_j for m in source.measurements):
        lines.append("energy was not measured")
    if source.profile is None and source.note:
        lines.append(source.note)
    return lines if sessions and sessions[-1].ended == "complete" else [*lines, "the run is not complete"]


def _trials_of(count: int) -> str:
    return f"{count} trial" if count == 1 else f"{count} trials"


def _facts(run: RecordedRun) -> dict[str, Any]:
    backend, model, machine, sessions = run.facts.backend, run.facts.model, run.facts.machine, run.facts.sessions
    settings = {**backend.config.model_dump(), **backend.settings}
    rows = {
        "machine": _machine(run),
        "cores, memory": f"{machine.usable_cores} cores, {machine.memory_bytes / 2**30:.1f} GiB",
        "system": ", ".join(filter(None, (machine.os, machine.os_version, machine.container))),
        "model": model.name,
        "weights": "random" if model.random_weights else "real",
        "parameters": None if model.parameters is None else f"{model.parameters:,}",
        "precision": model.dtype,
        "backend": f"{backend.name} on {', '.join((backend.device, *backend.device_names))}",
        "settings": ", ".join(f"{key}: {value}" for key, value in settings.items() if value not in (None, "auto", "")),
        "protocol": f"{run.facts.plan.protocol}, seed {run.facts.plan.seed}",
        "trials": f"{len(run.trials)}, of which {sum(trial.counts for trial in run.trials)} count",
        "measured": sessions[0].started_at if sessions else None,
        "versions": ", ".join(f"{k} {v}" for session in sessions[-1:] for k, v in session.software.items()),
    }
    return {"title": str(run.directory), "rows": [[label, str(value)] for label, value in rows.items() if value]}


def _energy(run: RecordedRun) -> dict[str, Any]:
    rows: list[list[str]] = []
    for session in run.facts.sessions[-1:]:
        energy = session.energy
        rows += [[name, note] for name, note in energy.probes.items()]
        for name, domain in energy.domains.items():
            unit = "J" if domain.kind == "counter" else "W"
            said = [domain.kind, domain.method, f"resolution {domain.resolution:.3g} {unit}"]
            said += [f"new value every {1000 * domain.period_s:.0f} ms"] if domain.period_s else []
            rows.append([f"domain {name}", ", ".join(said)])
        idle = idle_power_w(session)
        width = f" ± {idle.half_width:.2f}" if idle and idle.half_width is not None else ""
        rows.append(["idle power", f"{idle.mean:.2f}{width} W" if idle else "not measured"])
        if energy.domains:
            rows.append(["sampled", f"{energy.rate_hz:g} times a second, in the parent process"])
        for left in energy.left_out:
            rows.append([f"without {left.probe}", "; ".join(filter(None, (left.reason, left.remedy)))])
    return {"title": str(run.directory), "rows": rows or [["energy", "not measured"]]}


def _fits(sources: Sequence[DrawnSystem]) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for source in sources:
        profile = source.profile
        if profile is None:
            rows.append([source.name, source.note or "no model", *[None] * 5])
            continue
        energies = [("energy", profile.energy), *((f"energy of {c}", part) for c, part in profile.components.items())]
        parts = [("runtime", "measured", profile.runtime)]
        parts += [(name, part.method or "unknown method", part.model) for name, part in energies if part]
        for name, method, model in parts:
            worst = model.held_out.worst
            where = f"m = {worst.input_tokens:g}, n = {worst.output_tokens:g} ({100 * worst.relative_error:+.0f} %)"
            rows.append([source.name, name, method, model.form, 100 * model.mape, 100 * model.held_out.mape, where])
    columns = ["run", "quantity", "read as", "form", "error at fitted points, %", "held-out error, %", "worst point"]
    return {"columns": columns, "rows": rows}


def _trials(runs: Sequence[RecordedRun]) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for run in runs:
        table = run.table()[list(TRIAL_COLUMNS)].astype(object)
        values = table.where(table.notna(), None).values.tolist()
        rows += [[str(run.directory), *row] for row in values] if len(runs) > 1 else values
    return {"columns": [*(["run"] if len(runs) > 1 else []), *TRIAL_COLUMNS], "rows": rows}
