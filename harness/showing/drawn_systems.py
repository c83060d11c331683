"""What Figures 1 and 2 are drawn from: run directories, profile files and the shipped profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.errors import UserError
from harness.core.quantities import Method
from harness.modelling import sources
from harness.modelling.comparable import Comparison, check_drawn
from harness.modelling.profile import Profile, shipped_names
from harness.modelling.profile_fit import fit_pooled
from harness.runs.records import RecordedRun, load_run
from harness.showing.panels import DrawnSystem, Failure

PUBLISHED_SOURCE = "2407.00010"
"""What the provenance of the profiles derived from the paper's trials names."""


def load_drawn(name: str) -> DrawnSystem:
    """A run directory, a profile's path or a shipped profile's name. Raises UserError."""
    path = Path(name)
    return draw_run(load_run(path)) if path.is_dir() else _profile(Profile.load(name), name)


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
    """The sources, those that share a name or system and model told apart by how they were asked for."""
    names = Counter(source.name for source in sources)
    shared = Counter(source.pair for source in sources)
    told = []
    for source in sources:
        name = source.given if names[source.name] > 1 else source.name
        named = {"system": name} if shared[source.pair] > 1 else {}
        told.append(replace(source, name=name, identity=source.identity.model_copy(update=named)))
    return told


def _profile(profile: Profile, given: str) -> DrawnSystem:
    method = profile.energy.method if profile.energy else None
    note = _estimated(method, profile.name)
    return DrawnSystem(profile.name, given, profile.identity, profile.measurements, method, profile, note)


def draw_run(run: RecordedRun) -> DrawnSystem:
    """A run as it is drawn, with its fit or why there is none."""
    name = str(run.directory)
    failures = failed_sizes(run)
    try:
        found = sources.from_runs([run])
    except UserError as nothing:
        # Failures are results too.
        identity = sources.identity_of(run.facts, None)
        return DrawnSystem(name, name, identity, (), None, None, f"{name}: {nothing}", failures)
    method = found.power.methods.get("total")
    profile, note = None, _estimated(method, name)
    try:
        profile = fit_pooled(found).profile
    except UserError as refusal:
        note = f"{name}: no model is drawn: {refusal}"
    return DrawnSystem(name, name, found.identity, found.measurements, method, profile, note, failures)


def failed_sizes(run: RecordedRun) -> list[Failure]:
    """The sizes of a run at which no trial succeeded, each with how its last trial ended."""
    trials = [trial for trial in run.trials if trial.purpose != "drift"]
    measured = {trial.point for trial in trials if trial.usable}
    last = {trial.point: trial.status for trial in trials if trial.status != "ok"}
    return [Failure(p.input_tokens, p.output_tokens, status) for p, status in last.items() if p not in measured]


def _estimated(method: Method | None, name: str) -> str | None:
    return f"{name}: energy is estimated, not measured: hollow points" if method == "estimated" else None
