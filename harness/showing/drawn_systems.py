"""What Figures 1 and 2 are drawn from: run directories, profile files and the shipped profiles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.quantities import Method
from harness.modelling import sources
from harness.modelling.comparable import Comparison, check_drawn
from harness.modelling.measured_table import holds_measurements
from harness.modelling.profile import Profile, shipped_names
from harness.modelling.profile_fit import fit_pooled
from harness.modelling.profile_schema import IN_FLIGHT_AS, Identity
from harness.modelling.system_names import precision, told_apart
from harness.runs.records import RecordedRun, load_run
from harness.runs.schema import status_words
from harness.showing.names import model_words
from harness.showing.panels import DrawnSystem, Failure
from harness.showing.under_load import loaded_points

PUBLISHED_SOURCE = "2407.00010"
"""What the provenance of the profiles derived from the paper's trials names."""


def load_drawn(name: str) -> DrawnSystem:
    """A run directory, a profile's path, a shipped profile's name or a file of measurements. Raises UserError."""
    path = Path(name)
    if path.is_dir():
        return draw_run(load_run(path))
    return _drawn(name, sources.from_file(path)) if holds_measurements(name) else _profile(Profile.load(name), name)


def published_sources() -> list[DrawnSystem]:
    """The shipped profiles of the paper's systems."""
    profiles = [Profile.load(name) for name in shipped_names()]
    return [_profile(profile, profile.name) for profile in profiles if PUBLISHED_SOURCE in profile.provenance.source]


def compare_drawn(
    sources: Sequence[DrawnSystem], boundary: str | Iterable[str] | None, allow_mixed: bool
) -> Comparison:
    """How the sources may share axes. Raises UserError where they may not."""
    held = [(source.name, source.identity, source.components) for source in sources]
    return check_drawn(held, boundary, allow_mixed)


def distinct(sources: Sequence[DrawnSystem]) -> list[DrawnSystem]:
    """The sources, those that share system and model told apart by what differs, else by how they were asked for."""
    names = Counter(source.name for source in sources)
    identities = [source.identity for source in sources]
    systems = told_apart([identity.system for identity in identities], identities, per_model=True)
    told = []
    for source, system in zip(sources, systems, strict=True):
        name = source.given if names[source.name] > 1 else source.name
        # A number says less than a file's name.
        named = {"system": source.given if re.search(r" #\d+$", system) else system}
        told.append(replace(source, name=name, identity=source.identity.model_copy(update=named)))
    return told


def differences(source: DrawnSystem, others: Sequence[DrawnSystem]) -> DrawnSystem:
    """The source with what keeps it from being compared with the others, which may be none of it."""
    mine, said = source.identity, []
    theirs = [other.identity for other in others]
    if mine.model not in {identity.model for identity in theirs}:
        said.append(model_words(mine.model))
    alike = [identity for identity in theirs if identity.model == mine.model] or theirs
    for field, words in _WORDS.items():
        value = getattr(mine, field)
        known = {_compared(identity, field) for identity in alike} - {None}
        if value is not None and known - {_compared(mine, field)}:
            said.append(words(value))
    held = {other.components for other in others if other.components}
    boundary = () if not source.components or held <= {source.components} else tuple(sorted(source.components))
    return replace(source, differs=tuple(said), differing_boundary=boundary)


_WORDS: dict[str, Callable[[Any], str]] = {
    "kv_cache": lambda value: f"KV cache {'on' if value else 'off'}",
    "dtype": str,
}
"""Fields of an identity that must agree, and how a value that differs is written."""


def _compared(identity: Identity, field: str) -> object:
    """What of a field must agree: llama.cpp's F16 is torch's float16."""
    value = getattr(identity, field)
    return precision(value) if field == "dtype" and value else value


def _profile(profile: Profile, given: str) -> DrawnSystem:
    method = profile.energy.method if profile.energy else None
    note = _estimated(method, profile.name)
    kind = str(profile.identity.settings.get(IN_FLIGHT_AS) or "")
    return DrawnSystem(profile.name, given, profile.identity, profile.measurements, method, profile, note, kind=kind)


def draw_run(run: RecordedRun) -> DrawnSystem:
    """A run as it is drawn, with its fit or why there is none: sizes at the concurrency that is fitted, and loads."""
    drawn = _draw_sizes(run)
    failures = failed_sizes(run, drawn.concurrency)
    return replace(drawn, failures=failures, kind=run.facts.backend.concurrency, loaded=loaded_points(run), own=True)


def _draw_sizes(run: RecordedRun) -> DrawnSystem:
    """A run's points at one concurrency."""
    name = str(run.directory)
    try:
        found = sources.from_runs([run])
    except UserError as nothing:
        # Failures are results too.
        identity = sources.identity_of(run.facts, None)
        return DrawnSystem(name, name, identity, (), None, None, f"{name}: {nothing}")
    return _drawn(name, found)


def _drawn(name: str, found: sources.Pooled) -> DrawnSystem:
    """Measurements as they are drawn, with their fit or why there is none."""
    method = found.power.methods.get("total")
    profile, note = None, _estimated(method, name)
    try:
        profile = fit_pooled(found).profile
    except UserError as refusal:
        note = f"{name}: no model is drawn: {refusal}"
    return DrawnSystem(name, name, found.identity, found.measurements, method, profile, note)


def failed_sizes(run: RecordedRun, concurrency: int = 1) -> list[Failure]:
    """The sizes of a run at which no trial with so many requests in flight succeeded, each with how its last ended."""
    here = [trial for trial in run.trials if trial.concurrency == concurrency]
    trials = [trial for trial in here if trial.purpose not in ("drift", "open loop")]
    measured = {trial.asked for trial in trials if trial.usable}
    last = {trial.asked: trial.status for trial in trials if trial.status != "ok"}
    return [
        Failure(p.input_tokens, p.output_tokens, status_words(status))
        for p, status in last.items()
        if p not in measured
    ]


def _estimated(method: Method | None, name: str) -> str | None:
    return f"{name}: energy is estimated, not measured: hollow points" if method == "estimated" else None
