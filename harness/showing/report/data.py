"""What the report page shows, as plain lists and numbers: facts, warnings, charts, fits, trials, thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import __version__
from harness.runs import records
from harness.runs.schema import TrialRecord
from harness.runs.summary import drift, idle_drift, idle_power_w
from harness.showing.panels import Options
from harness.showing.report import charts, explorer
from harness.showing.sources import DrawnSystem, compare_drawn, distinct, load_drawn, published_sources

TRIAL_COLUMNS = (
    *("trial_id", "purpose", "status", "input_tokens", "output_tokens", "repeats"),
    *("runtime_s", "prefill_s", "decode_s", "tokens_per_s"),
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
    runs = [records.read_run(directory) for directory in directories]
    trials = [records.read_trials(directory) for directory in directories]
    sources = distinct([load_drawn(str(directory)) for directory in directories])
    comparison = compare_drawn(sources, options.boundary, allow_mixed)
    published = published_sources()
    offered = distinct([*sources, *map(load_drawn, profiles), *published])
    fitted = [(source.name, source.profile) for source in offered if source.profile]
    own = len(fitted) - len(published)
    return {
        "title": "joulebench: " + ", ".join(dict.fromkeys(run["model"]["name"] for run in runs)),
        "subtitle": ", ".join(dict.fromkeys(_machine(run) for run in runs)),
        "footer": f"made by joulebench {__version__}",
        "warnings": [
            *comparison.warnings,
            *(
                f"{directory}: {line}" if len(directories) > 1 else line
                for directory, run, found, source in zip(directories, runs, trials, sources, strict=True)
                for line in _warnings(run, found, source)
            ),
        ],
        "facts": [
            _facts(directory, run, found) for directory, run, found in zip(directories, runs, trials, strict=True)
        ],
        "energy": [_energy(directory, run) for directory, run in zip(directories, runs, strict=True)],
        "charts": charts.charts(sources, options),
        "absent": charts.absent(sources, options),
        "fits": _fits(sources),
        "trials": _trials(directories),
        "explorer": explorer.explorer(fitted, own, workloads, allow_mixed),
    }


def _machine(run: Mapping[str, Any]) -> str:
    gpus = [gpu.get("name") for gpu in run["machine"]["gpus"] if gpu.get("name")]
    return " + ".join(str(part) for part in (run["machine"]["cpu_model"] or "unknown CPU", *gpus))


def _warnings(run: Mapping[str, Any], trials: Sequence[TrialRecord], source: DrawnSystem) -> list[str]:
    """What puts the numbers in doubt, the gravest first."""
    lines = []
    failed = Counter((r.status, r.reason) for r in trials if r.status not in ("ok", "discarded"))
    lines += [f"{_trials_of(count)} ended as {status}: {reason}" for (status, reason), count in failed.most_common()]
    discarded = Counter(r.reason for r in trials if r.status == "discarded")
    lines += [
        f"{_trials_of(count)} discarded and measured again: {reason}" for reason, count in discarded.most_common()
    ]
    said = Counter(warning for record in trials for warning in record.warnings)
    lines += [f"{_trials_of(count)}: {warning}" for warning, count in said.most_common()]
    moved = drift(trials)
    if moved is not None and (moved.half_width is None or abs(moved.change) > moved.half_width):
        width = "" if moved.half_width is None else f" ± {100 * moved.half_width:.1f} %"
        point = f"m = {moved.point.input_tokens}, n = {moved.point.output_tokens}"
        lines.append(f"drift: the first point ({point}) took {100 * moved.change:+.1f} %{width} at the end of the run")
    for session in run["sessions"]:
        for idle in idle_drift(session):
            if abs(idle.change_w.mean) > (idle.change_w.half_width or 0.0):
                change = f"{idle.before_w.mean:.1f} W before, {idle.after_w.mean:.1f} W after the sweep"
                lines.append(f"idle power of {idle.domain} moved: {change}")
    if source.system.method == "estimated":
        lines.append("energy is estimated from CPU time, not measured")
    elif not any(m.energy_j for m in source.system.measurements):
        lines.append("energy was not measured")
    if source.profile is None and source.note:
        lines.append(source.note)
    lines += [] if run["sessions"] and run["sessions"][-1].get("ended") == "complete" else ["the run is not complete"]
    return lines


def _trials_of(count: int) -> str:
    return f"{count} trial" if count == 1 else f"{count} trials"


def _facts(directory: Path, run: Mapping[str, Any], trials: Sequence[TrialRecord]) -> dict[str, Any]:
    backend, model, machine = run["backend"], run["model"], run["machine"]
    settings = {**backend["config"], **backend["settings"]}
    rows = {
        "machine": _machine(run),
        "cores, memory": f"{machine['usable_cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB",
        "system": ", ".join(str(machine[key]) for key in ("os", "os_version", "container") if machine.get(key)),
        "model": model["name"],
        "weights": "random" if model.get("random_weights") else "real",
        "parameters": f"{model['parameters']:,}" if "parameters" in model else None,
        "precision": model.get("dtype"),
        "backend": f"{backend['name']} on {', '.join((backend['device'], *backend['device_names']))}",
        "settings": ", ".join(f"{key}: {value}" for key, value in settings.items() if value not in (None, "auto", "")),
        "protocol": f"{run['plan']['protocol']}, seed {run['plan']['seed']}",
        "trials": f"{len(trials)}, of which {sum(r.status == 'ok' and r.purpose == 'measure' for r in trials)} count",
        "measured": run["sessions"][0]["started_at"] if run["sessions"] else None,
        "versions": ", ".join(f"{k} {v}" for k, v in (run["sessions"] or [{}])[-1].get("software", {}).items()),
    }
    return {"title": str(directory), "rows": [[label, str(value)] for label, value in rows.items() if value]}


def _energy(directory: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    rows: list[list[str]] = []
    for session in run["sessions"][-1:]:
        energy = session["energy"]
        rows += [[name, note] for name, note in energy["probes"].items()]
        for name, domain in energy["domains"].items():
            period = domain.get("period_s")
            unit = "J" if domain["kind"] == "counter" else "W"
            said = [domain["kind"], domain["method"], f"resolution {domain['resolution']:.3g} {unit}"]
            said += [f"new value every {1000 * period:.0f} ms"] if period else []
            rows.append([f"domain {name}", ", ".join(said)])
        idle = idle_power_w(session)
        width = f" ± {idle.half_width:.2f}" if idle and idle.half_width is not None else ""
        rows.append(["idle power", f"{idle.mean:.2f}{width} W" if idle else "not measured"])
        if energy["domains"]:
            rows.append(["sampled", f"{energy['rate_hz']:g} times a second, in the parent process"])
        for left in energy["left_out"]:
            rows.append([f"without {left['probe']}", "; ".join(filter(None, (left["reason"], left["remedy"])))])
    return {"title": str(directory), "rows": rows or [["energy", "not measured"]]}


def _fits(sources: Sequence[DrawnSystem]) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for source in sources:
        profile = source.profile
        if profile is None:
            rows.append([source.name, source.note or "no model", *[None] * 5])
            continue
        energies = ({"energy": profile.energy} if profile.energy else {}) | {
            f"energy of {name}": part for name, part in profile.components.items()
        }
        parts = [("runtime", "measured", profile.runtime)]
        parts += [(name, part.method or "unknown method", part.model) for name, part in energies.items()]
        for name, method, model in parts:
            worst = model.held_out.worst
            where = f"m = {worst.input_tokens:g}, n = {worst.output_tokens:g} ({100 * worst.relative_error:+.0f} %)"
            rows.append([source.name, name, method, model.form, 100 * model.mape, 100 * model.held_out.mape, where])
    columns = ["run", "quantity", "read as", "form", "error at fitted points, %", "held-out error, %", "worst point"]
    return {"columns": columns, "rows": rows}


def _trials(directories: Sequence[Path]) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for directory in directories:
        table = records.load(directory)[list(TRIAL_COLUMNS)].astype(object)
        values = table.where(table.notna(), None).values.tolist()
        rows += [[str(directory), *row] for row in values] if len(directories) > 1 else values
    return {"columns": [*(["run"] if len(directories) > 1 else []), *TRIAL_COLUMNS], "rows": rows}
