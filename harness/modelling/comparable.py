"""The one rule of what may be compared: same model, same cache mode, same batch and precision, same boundary.

A boundary is the set of components whose energy counts. It is chosen when comparing, not when measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.core.errors import UserError
from harness.core.quantities import Component, parse_boundary
from harness.modelling.profile import Boundary, Profile
from harness.modelling.profile_schema import Identity

_MUST_AGREE = {
    "model": "ran different models",
    "kv_cache": "differ in cache mode",
    "batch_size": "differ in batch size",
    "dtype": "differ in precision",
}
"""Fields of a profile's identity, and what is wrong where they differ."""

_SHOULD_AGREE = {
    "compile": "decode steps are launched in different ways",
    "prefill_chunk": "prefills are cut into different chunks",
    "attention": "attention is computed in different ways",
}
"""Settings of the runtime, and what to say where they differ: it is compared all the same."""


class NotComparable(UserError):
    """Profiles that may not be compared. ``reasons`` are why not, and last what would work."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Comparison:
    """How profiles may be compared."""

    boundary: tuple[Component, ...] | None
    """Components that count; None means the sum that each profile holds, or that energy does not count."""
    warnings: tuple[str, ...]
    """What differs and does not forbid the comparison; to be shown with every result."""
    mixed: bool
    """Whether something that forbids it was overridden: every result must be marked."""


def check(
    profiles: Sequence[Profile], boundary: Boundary = None, allow_mixed: bool = False, *, energy: bool = True
) -> Comparison:
    """What the profiles have in common, or UserError saying why they can't be compared and what would work.

    ``allow_mixed`` turns the refusals into warnings, except where a profile lacks what was asked for.
    ``energy=False`` is for runtime alone.
    """
    faults: list[str] = []
    warnings: list[str] = []
    named = [(profile.name, profile.identity) for profile in profiles]
    for field, known in _differing(named, *_MUST_AGREE):
        described = ", ".join(f"{name}: {value}" for name, value in known)
        faults.append(f"{' and '.join(name for name, _ in known)} {_MUST_AGREE[field]} ({described})")
    components: tuple[Component, ...] | None = None
    if energy:
        components, boundary_faults = _boundary(profiles, boundary)
        method_faults, warnings = _methods(profiles, components)
        faults += boundary_faults + method_faults
    if faults and not allow_mixed:
        raise NotComparable(*faults, "--allow-mixed goes on all the same and marks the output")
    weights = {profile.identity.random_weights for profile in profiles}
    if {True, False} <= weights:
        warnings.append("random weights are compared with trained ones")
    warnings += _settings(named)
    return Comparison(components, (*(f"mixed: {fault}" for fault in faults), *warnings), bool(faults))


def check_drawn(
    systems: Sequence[tuple[str, Identity, frozenset[Component]]], boundary: Boundary, allow_mixed: bool
) -> Comparison:
    """How systems, each with its name and the components whose energy it has, may share the axes of a figure.

    As ``check``, but models may differ, since each has a line of its own; a system without energy shows no energy,
    and estimated energy is told apart by its marks. Raises UserError.
    """
    faults = []
    named = [(name, identity) for name, identity, _ in systems]
    for field, known in _differing(named, *(field for field in _MUST_AGREE if field != "model")):
        faults.append(f"the systems {_MUST_AGREE[field]} ({_grouped(known)})")
    components = parse_boundary(boundary)
    held = [(name, parts) for name, _, parts in systems if parts]
    lacking = [name for name, parts in held if components and set(components) - parts]
    if components and lacking:
        raise UserError(f"{lacking[0]} has no energy of {_join(components)}: leave out --boundary or name less")
    if components is None and len({parts for _, parts in held}) > 1:
        common = frozenset[Component].intersection(*(parts for _, parts in held))
        remedy = f"; --boundary {_join(common)} would work" if common else ""
        faults.append(f"the boundaries differ ({_grouped([(name, _join(parts)) for name, parts in held])}){remedy}")
    if faults and not allow_mixed:
        raise NotComparable(*faults, "--allow-mixed shows them all the same, marked")
    warnings = _settings(named)
    return Comparison(components, (*(f"mixed: {fault}" for fault in faults), *warnings), bool(faults))


def _settings(named: Sequence[tuple[str, Identity]]) -> list[str]:
    """Warnings where a runtime was used in different ways, as far as that is known."""
    warnings = []
    for setting, what in _SHOULD_AGREE.items():
        held = [(name, identity.settings[setting]) for name, identity in named if setting in identity.settings]
        if len({value for _, value in held}) > 1:
            warnings.append(f"{what} ({_grouped([(name, value or 'none') for name, value in held])})")
    return warnings


def _grouped(named: Sequence[tuple[str, object]]) -> str:
    """The values, each with the names that hold it; of many names the first."""
    groups: dict[object, list[str]] = {}
    for name, value in named:
        groups.setdefault(value, []).append(name)
    return ", ".join(
        f"{value}: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for value, names in groups.items()
    )


def _differing(named: Sequence[tuple[str, Identity]], *fields: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Fields that differ, each with the names and what their identities say in words.

    What one doesn't know says nothing of others.
    """
    for field in fields:
        held = [(name, getattr(identity, field)) for name, identity in named]
        words = {True: "on", False: "off"} if field == "kv_cache" else {}
        known = [(name, words.get(value, str(value))) for name, value in held if value is not None]
        if len({value for _, value in known}) > 1:
            yield field, known


def _boundary(profiles: Sequence[Profile], boundary: Boundary) -> tuple[tuple[Component, ...] | None, list[str]]:
    """The components that count, and why the profiles' sums can't be set against each other."""
    silent = [profile.name for profile in profiles if profile.energy is None]
    if silent:
        raise UserError(f"{', '.join(silent)} has no energy: only runtime was measured, so energy can't be compared")
    held = [set(profile.components) for profile in profiles]
    common = set[Component].intersection(*held)
    joined = _join(common - {"system"} or common)
    choices = f"--boundary {joined} or part of it would work" if common else "they have no component in common"
    asked = parse_boundary(boundary)
    if asked is not None:
        for profile in profiles:
            absent = set(asked) - set(profile.components)
            if absent:
                raise UserError(f"{profile.name} has no energy of {_join(absent)}: {choices}")
        return asked, []
    if all(components == held[0] for components in held):
        # A meter of the whole system beside others can't be chosen by name; the sum is what was measured.
        named = held[0] if held[0] == {"system"} or "system" not in held[0] else None
        return parse_boundary(sorted(named)) if named else None, []
    described = ", ".join(f"{p.name} counts {_join(p.components) or 'an undivided sum'}" for p in profiles)
    return None, [f"the boundaries differ ({described}): {choices}"]


def _methods(profiles: Sequence[Profile], components: tuple[Component, ...] | None) -> tuple[list[str], list[str]]:
    """Refusals and warnings from how the energies were measured."""
    faults: list[str] = []
    warnings: list[str] = []
    for component in components or (None,):
        of = f" of {component}" if component else ""
        # Pairs, not a dictionary: two fits of one machine have the same name.
        methods = [(profile.name, profile.energy_method(component)) for profile in profiles]
        kinds = {method for _, method in methods}
        described = ", ".join(f"{name}: {method or 'unknown'}" for name, method in methods)
        if kinds == {"estimated"}:
            warnings.append(f"the energy{of} is estimated, not measured")
        elif "estimated" in kinds:
            faults.append(f"an estimated energy{of} is set against a measured one ({described})")
        elif len(kinds) > 1:
            warnings.append(f"the energy{of} was measured by different methods ({described})")
    return faults, warnings


def _join(components: Iterable[str]) -> str:
    return "+".join(sorted(components))
