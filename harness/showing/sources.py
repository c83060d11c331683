"""What Figures 1 and 2 are drawn from: run directories, profile files and the shipped profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import UserError
from harness.core.quantities import Component
from harness.modelling import sources
from harness.modelling.comparable import Comparison, check_drawn
from harness.modelling.profile import Profile, shipped_names
from harness.modelling.profile_fit import fit_pooled
from harness.runs.records import RecordedRun, load_run
from harness.showing.points import Failure, System

PUBLISHED_SOURCE = "2407.00010"
"""What the provenance of the profiles derived from the paper's trials names."""


@dataclass(frozen=True)
class DrawnSystem:
    """A system to draw, with its profile where its measurements could be fitted."""

    name: str
    given: str
    """How it was asked for: a path, or a shipped profile's name."""
    system: System
    profile: Profile | None
    note: str | None = None
    """What the reader of the figure should know."""


def load_drawn(name: str) -> DrawnSystem:
    """A run directory, a profile's path or a shipped profile's name. Raises UserError."""
    path = Path(name)
    if path.is_dir():
        return _run(path)
    return _profile(Profile.load(name), name)


def published_sources() -> list[DrawnSystem]:
    """The shipped profiles of the paper's systems."""
    profiles = [Profile.load(name) for name in shipped_names()]
    return [_profile(profile, profile.name) for profile in profiles if PUBLISHED_SOURCE in profile.provenance.source]


def compare_drawn(
    sources: Sequence[DrawnSystem], boundary: str | Iterable[str] | None, allow_mixed: bool
) -> Comparison:
    """How the sources may share axes. Raises UserError where they may not."""
    held = [(source.name, source.system.identity, components(source)) for source in sources]
    return check_drawn(held, boundary, allow_mixed)


def distinct(sources: Sequence[DrawnSystem]) -> list[DrawnSystem]:
    """The sources, those that share a name or system and model told apart by how they were asked for."""
    names = Counter(source.name for source in sources)
    shared = Counter((s.system.identity.system, s.system.identity.model) for s in sources)
    told = []
    for source in sources:
        if names[source.name] > 1:
            source = replace(source, name=source.given)
        identity = source.system.identity
        if shared[identity.system, identity.model] > 1:
            identity = identity.model_copy(update={"system": source.name})
        told.append(replace(source, system=replace(source.system, identity=identity)))
    return told


def components(source: DrawnSystem) -> frozenset[Component]:
    """The components whose energy was measured."""
    return frozenset(c for m in source.system.measurements for c in m.component_energy_j)


def _profile(profile: Profile, given: str) -> DrawnSystem:
    method = profile.energy.method if profile.energy else None
    system = System(profile.identity, profile.measurements, method)
    return DrawnSystem(profile.name, given, system, profile, _estimated(system, profile.name))


def _run(directory: Path) -> DrawnSystem:
    run = load_run(directory)
    try:
        found = sources.from_runs([run])
    except UserError as nothing:
        # Failures are results too.
        system = System(sources.identity_of(run.facts, None), (), None, failed_sizes(run))
        return DrawnSystem(str(directory), str(directory), system, None, f"{directory}: {nothing}")
    profile, note = None, None
    try:
        profile = fit_pooled(found).profile
    except UserError as refusal:
        note = f"{directory}: no model is drawn: {refusal}"
    system = System(found.identity, found.measurements, found.power.methods.get("total"), failed_sizes(run))
    return DrawnSystem(str(directory), str(directory), system, profile, note or _estimated(system, str(directory)))


def failed_sizes(run: RecordedRun) -> list[Failure]:
    """The sizes of a run at which no trial succeeded, each with how its last trial ended."""
    trials = [trial for trial in run.trials if trial.purpose != "drift"]
    measured = {trial.point for trial in trials if trial.counts}
    last = {trial.point: trial.status for trial in trials if trial.status != "ok"}
    return [Failure(p.input_tokens, p.output_tokens, status) for p, status in last.items() if p not in measured]


def _estimated(system: System, name: str) -> str | None:
    return f"{name}: energy is estimated, not measured: hollow points" if system.method == "estimated" else None
