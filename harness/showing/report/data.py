"""What the report page shows, as plain lists and numbers: heads, charts, models, requests, thresholds, trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.version import __version__
from harness.core.wording import number, percent, plus_minus
from harness.energy.gains import gain_of
from harness.modelling.comparable import check
from harness.modelling.profile import Profile
from harness.runs.records import RecordedRun, load_run
from harness.runs.summary import idle_power_w
from harness.showing.drawn_systems import compare_drawn, distinct, draw_run, load_drawn, published_sources
from harness.showing.names import model_words
from harness.showing.panels import DrawnSystem, Options
from harness.showing.report.charts import absent, differing, sweep_charts
from harness.showing.report.explorer import explorer
from harness.showing.report.head import run_head
from harness.showing.report.load import loads
from harness.showing.report.models import models
from harness.showing.report.requests import requests

TRIAL_COLUMNS = (
    *("trial_id", "purpose", "status", "input_tokens", "output_tokens", "concurrency", "repeats"),
    *("runtime_s", "prefill_s", "decode_s", "decode_tokens_per_s"),
    *("energy_j", "energy_ci95_j", "energy_method", "energy_per_output_token_j"),
    *("started_at", "reason"),
)


PURPOSES = {
    "warmup": "warm-ups",
    "measure": "measurements",
    "drift": "checks of drift",
    "open loop": "open loops",
}


def page_data(
    directories: Sequence[Path],
    profiles: Sequence[str] = (),
    workloads: Sequence[str] = (),
    options: Options = Options(),
    allow_mixed: bool = False,
) -> dict[str, Any]:
    """Everything that the page shows, ready for JSON; what was not measured is None.

    ``profiles`` and ``workloads`` are offered by the threshold explorer beside the runs; ``options`` says where the
    charts' sweeps lie and which components count in them. Raises UserError, also for runs that can't share axes; with
    ``allow_mixed`` that is the first caution instead.
    """
    runs = [load_run(directory) for directory in directories]
    sources = distinct([draw_run(run) for run in runs])
    comparison = compare_drawn(sources, options.boundary, allow_mixed)
    published = published_sources()
    heads = [run_head(run, source) for run, source in zip(runs, sources, strict=True)]
    return {
        "title": heads[0]["title"] if len(heads) == 1 else _title(runs),
        "footer": f"made by joulebench {__version__}",
        "mark": comparison.mark,
        "cautions": [*comparison.warnings, *_cautions(heads)],
        "heads": heads,
        "absent": absent(sources, options) if any(run.facts.plan.points for run in runs) else [],
        "sweeps": sweep_charts(sources, published, options, comparison.mark),
        "differing": differing(sources, published),
        "load": loads(runs, sources, options),
        "models": models(sources),
        "requests": requests(sources, options),
        "typical": _typical(heads, options),
        "explorer": _explorer(sources, profiles, published, workloads, allow_mixed),
        "trials": _trials(runs),
        "energy": [_energy(run) for run in runs],
        "facts": [_facts(run) for run in runs],
    }


def _title(runs: Sequence[RecordedRun]) -> str:
    names = dict.fromkeys(model_words(run.facts.model.name) for run in runs)
    return f"{len(runs)} runs of {' and '.join(names)}"


def _cautions(heads: Sequence[dict[str, Any]]) -> list[str]:
    """Those of all runs: what holds for all of them once, the others with their run's name."""
    if len(heads) == 1:
        return list(heads[0]["cautions"])
    shared = [line for line in heads[0]["cautions"] if all(line in head["cautions"] for head in heads)]
    own = [f"{head['name']}: {line}" for head in heads for line in head["cautions"] if line not in shared]
    return [*shared, *own]


def _typical(heads: Sequence[dict[str, Any]], options: Options) -> list[int]:
    """Input and output tokens of the request that the page opens with: that of its first head."""
    return next((head["point"] for head in heads if head["point"]), [options.fixed_input, options.fixed_output])


def _explorer(
    sources: Sequence[DrawnSystem],
    profiles: Sequence[str],
    published: Sequence[DrawnSystem],
    workloads: Sequence[str],
    allow_mixed: bool,
) -> dict[str, Any] | None:
    """The threshold explorer. Where it was asked for and there is nothing to compare, a sentence that says so."""
    given = [load_drawn(name) for name in profiles]
    named = {source.name for source in given}
    shipped = [source for source in published if source.name not in named]
    offered = distinct([*sources, *given, *shipped])
    fitted = [(source.name, source.profile) if source.profile else None for source in offered]
    ends = (0, len(sources), len(sources) + len(given), len(offered))
    runs, others, rest = ([one for one in fitted[a:b] if one] for a, b in pairwise(ends))
    found = explorer(runs, others, rest, workloads, allow_mixed)
    if found is None and (profiles or workloads):
        return {"refusal": _refusal([profile for _, profile in [*runs, *others]])}
    return found


def _refusal(profiles: Sequence[Profile]) -> str:
    """Why no two of the profiles can be compared, and what would work."""
    if len(profiles) < 2:
        return "There is one system with a model here; name another with --profile."
    try:
        check(profiles[:2])
    except UserError as refusal:
        return f"No two of these systems can be compared: {refusal}."
    return "No two of these systems can be compared."


def _facts(run: RecordedRun) -> dict[str, Any]:
    backend, model, machine, sessions = run.facts.backend, run.facts.model, run.facts.machine, run.facts.sessions
    settings = {**backend.config.model_dump(exclude={"batch_size"}), **backend.settings}
    told = {key: value for key, value in settings.items() if value not in (None, "auto", "", ())}
    weights = {True: "random; speed and energy don't depend on their values", False: "real", None: None}
    gpus = [gpu.name for gpu in machine.gpus if gpu.name]
    purposes = Counter(trial.purpose for trial in run.trials)
    rows = {
        "CPU": machine.cpu_model,
        "GPU": " + ".join(gpus),
        "cores, memory": f"{machine.usable_cores} cores, {machine.memory_bytes / 2**30:.1f} GiB",
        "system": ", ".join(filter(None, (machine.os, machine.os_version, machine.container))),
        "model": model.name,
        "weights": weights[model.random_weights],
        "parameters": None if model.parameters is None else f"{model.parameters:,}",
        "precision": model.dtype,
        "backend": f"{backend.name} on {', '.join((backend.device, *backend.device_names))}",
        "settings": ", ".join(f"{key}: {value}" for key, value in told.items()),
        "protocol": f"{run.facts.plan.protocol}, seed {run.facts.plan.seed}",
        "trials": ", ".join(f"{count} {PURPOSES[purpose]}" for purpose, count in purposes.items()),
        "measured": sessions[0].started_at if sessions else None,
        "versions": ", ".join(f"{k} {v}" for session in sessions[-1:] for k, v in session.software.items()),
        "directory": str(run.directory),
    }
    return {"title": str(run.directory), "rows": [[label, str(value)] for label, value in rows.items() if value]}


def _energy(run: RecordedRun) -> dict[str, Any]:
    rows: list[list[str]] = []
    for session in run.facts.sessions[-1:]:
        energy = session.energy
        rows += [[name, note] for name, note in energy.probes.items()]
        for name, domain in energy.domains.items():
            unit = "J" if domain.kind == "counter" else "W"
            said = [f"{domain.component} energy", f"method: {domain.method}"]
            said += [f"resolution {number(domain.resolution, 3)} {unit}"]
            said += [f"new value every {1000 * domain.period_s:.0f} ms"] if domain.period_s else []
            said += [f"gain ± {percent(gain_of(domain, name in energy.calibration).ci95)}"]
            rows.append([f"reading {name}", ", ".join(said)])
        idle = idle_power_w(session)
        rows.append(["idle power", plus_minus(idle.mean, idle.half_width, "W") if idle else "not measured"])
        if energy.domains:
            rows.append(["sampled", f"{energy.rate_hz:g} times a second"])
        for left in energy.left_out:
            rows.append([left.probe, ": ".join(["not available", *filter(None, (left.reason, left.remedy))])])
    return {"title": str(run.directory), "rows": rows or [["energy", "not measured"]]}


def _trials(runs: Sequence[RecordedRun]) -> dict[str, Any]:
    rows: list[list[Any]] = []
    loaded = any(trial.concurrency > 1 for run in runs for trial in run.trials)
    columns = [column for column in TRIAL_COLUMNS if loaded or column != "concurrency"]
    for run in runs:
        table = run.table()[columns].astype(object)
        values = table.where(table.notna(), None).values.tolist()
        rows += [[str(run.directory), *row] for row in values] if len(runs) > 1 else values
    return {"columns": [*(["run"] if len(runs) > 1 else []), *columns], "rows": rows}
