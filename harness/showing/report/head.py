"""The head of the report page: what ran on what, the numbers that matter most, and what puts them in doubt."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from harness.core.statistics import Estimate
from harness.core.wording import estimated, number, percent, plus_minus, plus_minus_percent
from harness.modelling.model_schema import CostModel
from harness.runs.records import RecordedRun
from harness.runs.schema import status_words
from harness.runs.summary import Headline, disturbance, drift, headline, idle_drift, summarise
from harness.showing.names import machine_words, model_words
from harness.showing.open_loops import open_loops
from harness.showing.panels import DrawnSystem
from harness.showing.run_results import disturbance_text, open_trouble, warning_counts
from harness.showing.under_load import in_flight_words


def run_head(run: RecordedRun, source: DrawnSystem) -> dict[str, Any]:
    """Title, subtitle, three cards, the request that they are about, and the cautions of one run, the gravest first."""
    found = headline(run.facts, run.trials)
    cards = []
    if found:
        cards = [_speed_card(found), _runtime_card(found, source), _energy_card(found, source)]
    return {
        "name": source.name,
        "title": f"{model_words(run.facts.model.name)} on {_hardware(run)}",
        "subtitle": _subtitle(run),
        "cards": cards,
        "point": [found.point.input_tokens, found.point.output_tokens] if found else None,
        "cautions": _cautions(run, source, found),
    }


def no_model_words(source: DrawnSystem) -> str:
    """Why a run has no model, in a sentence."""
    why = (source.note or "no reason known").removeprefix(f"{source.name}: ").removeprefix("no model is drawn: ")
    return f"There is no model: {why}."


def _hardware(run: RecordedRun) -> str:
    """Where the computation ran: the device's own name where it is not the processor."""
    backend = run.facts.backend
    if backend.device not in ("cpu", "auto") and backend.device_names and not run.facts.machine.gpus:
        return ", ".join(dict.fromkeys(backend.device_names))
    machine = run.facts.machine
    return machine_words(machine.model_copy(update={"gpus": ()}) if backend.device == "cpu" else machine)


def _subtitle(run: RecordedRun) -> str:
    backend, plan = run.facts.backend, run.facts.plan
    settings = [
        backend.name,
        run.facts.model.dtype,
        f"KV cache {'on' if backend.config.kv_cache else 'off'}",
        in_flight_words(run),
    ]
    used = [summary for summary in summarise(run.trials, run.facts) if summary.trials]
    counted, sizes = sum(summary.trials for summary in used), len(used)
    of = "" if sizes == len(plan.points) else f" of {len(plan.points)}"
    what = "point" if len({summary.point.concurrency for summary in used}) > 1 else "request size"
    parts = [
        ", ".join(filter(None, settings)),
        f"{sizes}{of} {what}{'' if sizes == 1 and not of else 's'}, {counted} trial{'' if counted == 1 else 's'}",
    ]
    if not plan.points:
        parts[1] = f"{len(open_loops(run))} open loop{'' if len(open_loops(run)) == 1 else 's'}"
    started = run.facts.sessions[0].started_at if run.facts.sessions else None
    return " · ".join([*parts, *([_day(started)] if started else [])])


def _day(text: str) -> str:
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{day.day} {day:%b %Y}"


def _card(label: str, said: str, note: str) -> dict[str, str]:
    """A card on which the number that ``said`` begins with stands large, or all of it where it has none."""
    found = re.match(r"(?P<value>(?:≈ )?-?[\d,.]+) ?(?P<rest>.*)", said)
    value, rest = found.group("value", "rest") if found else (said, "")
    return {"label": label, "value": value, "rest": rest, "note": note}


def _speed_card(found: Headline) -> dict[str, str]:
    size = found.point.words()
    first = found.first_token_s
    note = f"{size}; time to first token {_short_time(first)}" if first else size
    if found.speed is None:
        return _card("Decode", "no steps", f"{size}: a single output token has no decode steps")
    kind, speed = found.speed
    return _card(kind.capitalize(), plus_minus(speed.mean, speed.half_width, "tokens/s"), note)


def _short_time(time_s: Estimate) -> str:
    shown, unit = (time_s, "s") if time_s.mean >= 1 else (time_s.over(1e-3), "ms")
    return plus_minus(shown.mean, shown.half_width, unit)


def _runtime_card(found: Headline, source: DrawnSystem) -> dict[str, str]:
    note = _held_out(source.profile.runtime if source.profile else None)
    said = plus_minus(found.runtime_s.mean, found.runtime_s.half_width, "s")
    return _card(f"A request of {found.point.words()} takes", said, note)


def _energy_card(found: Headline, source: DrawnSystem) -> dict[str, str]:
    energy, per_token = found.energy_j, found.energy_per_output_token_j
    if energy is None or per_token is None:
        return _card("Energy", "not measured", _sentence(found.energy_reason or ""))
    note = _held_out(source.profile.energy.model if source.profile and source.profile.energy else None)
    components = " + ".join(component.upper() for component in sorted(source.components))
    if found.energy_method == "estimated":
        label, said = "and uses (estimated, no power meter)", estimated(energy.mean, "J")
        each = estimated(per_token.mean, "J per output token")
    else:
        label, said = f"and uses ({components or 'energy'}, metered)", plus_minus(energy.mean, energy.half_width, "J")
        each = plus_minus(per_token.mean, per_token.half_width, "J per output token")
    return _card(label, said, f"{each}; {note}")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _held_out(model: CostModel | None) -> str:
    return f"held-out error {percent(model.held_out.mape)}" if model else "too few sizes for a model"


def _cautions(run: RecordedRun, source: DrawnSystem, found: Headline | None) -> list[str]:
    """What puts the numbers in doubt, the gravest first, each a sentence."""
    sessions = run.facts.sessions
    lines = []
    if found is None and not open_loops(run):
        lines.append("Nothing was measured: no trial of this run came to its end.")
    elif found is not None and found.energy_method == "estimated":
        lines.append(f"Energy is estimated at {found.estimated_from}, not measured.")
    elif found is not None and found.energy_j is None:
        lines.append(f"Energy was not measured: {found.energy_reason}.")
    lines += _moved(run)
    lines += _spoilt(run)
    if not sessions or sessions[-1].ended != "complete":
        lines.append("The run is not complete.")
    if source.profile is None and source.note and found is not None:
        lines.append(no_model_words(source))
    return lines


def _moved(run: RecordedRun) -> list[str]:
    """How the machine changed while it was measured, as far as that is more than chance."""
    lines = []
    moved = drift(run.trials)
    if moved is not None and (moved.half_width is None or abs(moved.change) > moved.half_width):
        change = plus_minus_percent(abs(moved.change), moved.half_width)
        how = "slower" if moved.change > 0 else "faster"
        lines.append(f"The machine was {change} {how} at the end of the run than at the start.")
    for session in run.facts.sessions:
        for idle in idle_drift(session):
            if abs(idle.change_w.mean) > (idle.change_w.half_width or 0.0):
                change = f"{number(idle.before_w.mean, 3)} W before the run and {number(idle.after_w.mean, 3)} W after"
                lines.append(f"Idle power of {idle.domain} was {change}.")
    return lines


def _spoilt(run: RecordedRun) -> list[str]:
    """Trials that were disturbed, failed or came with a warning."""
    total = len(run.trials)
    lines = []
    if others := disturbance(run.trials):
        lines.append(disturbance_text(others))
    failed: dict[tuple[str, str], dict[str, None]] = {}
    for trial in run.trials:
        if trial.status not in ("ok", "disturbed") and trial.purpose != "open loop":
            sizes = failed.setdefault((trial.status, trial.reason or ""), {})
            sizes[trial.point.words()] = None
    for (status, reason), sizes in failed.items():
        shown = " and ".join(list(sizes)[:2]) + (f" and {len(sizes) - 2} more" if len(sizes) > 2 else "")
        lines.append(f"{shown}: {status_words(status)}{f' ({reason})' if reason else ''}.")
    lines += open_trouble(run)
    return lines + [f"{count} of {total} trials: {warning}." for warning, count in warning_counts(run.trials)]
