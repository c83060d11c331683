"""The one rule of what may be compared: same model, same cache mode, same precision, same boundary.

A boundary is the set of components whose energy counts. It is chosen when comparing, not when measuring. Requests in
flight may differ: every cost is that of one request at its profile's concurrency, and the comparison says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.core.errors import UserError
from harness.core.quantities import Component, parse_boundary
from harness.modelling.profile import Boundary, Profile
from harness.modelling.profile_schema import IN_FLIGHT_AS, Identity
from harness.modelling.system_names import precision, told_apart

_MUST_AGREE = {
    "model": ("ran different models", "models", "-m"),
    "kv_cache": ("differ in cache mode", "cache modes", "--kv-cache or --no-kv-cache"),
    "dtype": ("differ in precision", "precisions", "--dtype"),
}
"""Fields of a profile's identity: what is wrong where they differ, what then differs, and which option decides it."""

_SHOULD_AGREE = {
    "compile": "decode steps are launched in different ways",
    "prefill_chunk": "prefills are cut into different chunks",
    "attention": "attention is computed in different ways",
    IN_FLIGHT_AS: "requests in flight are computed in different ways",
}
"""Settings of the runtime, and what to say where they differ: a warning, no refusal."""


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
    differ: tuple[str, ...] = ()
    """What forbids the comparison and was overridden, such as ``models``: every result must be marked."""

    @property
    def mixed(self) -> bool:
        """Whether something that forbids the comparison was overridden."""
        return bool(self.differ)

    @property
    def mark(self) -> str:
        """What every result must begin with; empty where nothing forbids the comparison."""
        return not_comparable(self.differ) if self.differ else ""


def not_comparable(differ: Sequence[str]) -> str:
    """``NOT COMPARABLE (--allow-mixed): different models and cache modes``."""
    return f"NOT COMPARABLE (--allow-mixed): different {_listed(differ)}"


def _listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def check(
    profiles: Sequence[Profile], boundary: Boundary = None, allow_mixed: bool = False, *, energy: bool = True
) -> Comparison:
    """What the profiles have in common, or UserError saying why they can't be compared and what would work.

    ``allow_mixed`` turns the refusals into warnings, except where a profile lacks what was asked for.
    ``energy=False`` is for runtime alone.
    """
    identities = [profile.identity for profile in profiles]
    names = told_apart([profile.name for profile in profiles], identities)
    named = list(zip(names, identities, strict=True))
    faults: list[tuple[str, str]] = []
    warnings: list[str] = []
    for field, known in _differing(named, *_MUST_AGREE):
        wrong, what, _ = _MUST_AGREE[field]
        described = ", ".join(f"{name}: {value}" for name, value in known)
        faults.append((what, f"{_listed([name for name, _ in known])} {wrong} ({described})"))
    components: tuple[Component, ...] | None = None
    if energy:
        components, boundary_faults = _boundary(profiles, names, boundary)
        method_faults, warnings = _methods(profiles, names, components)
        faults += boundary_faults + method_faults
    if {True, False} <= {identity.random_weights for identity in identities}:
        warnings.append("random weights are compared with trained ones")
    called = [(profile.name, profile.identity) for profile in profiles]
    alike = [name for name, one in zip(names, called, strict=True) if called.count(one) > 1]
    if alike:
        warnings.append(f"{_listed(alike)} are alike in everything recorded: the same system, measured twice")
    return _judged(components, faults, [*warnings, *_settings(named)], allow_mixed, "compares")


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
        wrong, what, _ = _MUST_AGREE[field]
        faults.append((what, f"the systems {wrong} ({_grouped(known)})"))
    components = parse_boundary(boundary)
    held = [(name, parts) for name, _, parts in systems if parts]
    lacking = [name for name, parts in held if components and set(components) - parts]
    if components and lacking:
        raise UserError(f"{lacking[0]} has no energy of {_join(components)}: leave out --boundary or name less")
    if components is None and len({parts for _, parts in held}) > 1:
        common = frozenset[Component].intersection(*(parts for _, parts in held))
        shared = common - {"system"} or common
        # Where something else differs too, another boundary alone doesn't help.
        remedy = f"; --boundary {_join(shared)} would work" if shared and not faults else ""
        counted = _grouped([(name, _join(parts)) for name, parts in held])
        faults.append(("boundaries", f"the boundaries differ ({counted}){remedy}"))
    return _judged(components, faults, _settings(named), allow_mixed, "draws")


def _judged(
    components: tuple[Component, ...] | None,
    faults: Sequence[tuple[str, str]],
    warnings: Sequence[str],
    allow_mixed: bool,
    does: str,
) -> Comparison:
    """A comparison with these faults, each with what differs. Raises NotComparable unless mixing is allowed."""
    said, differ = [fault for _, fault in faults], tuple(dict.fromkeys(what for what, _ in faults))
    if said and not allow_mixed:
        same = [option for _, what, option in _MUST_AGREE.values() if what in differ]
        again = f"measure one again with the same {', '.join(same)}; " if same else ""
        raise NotComparable(*said, f"{again}--allow-mixed {does} them anyway and marks the output")
    return Comparison(components, (*said, *warnings), differ)


def _settings(named: Sequence[tuple[str, Identity]]) -> list[str]:
    """Warnings where a runtime was used in different ways, as far as that is known."""
    warnings = []
    loads = [(name, identity.concurrency) for name, identity in named if identity.concurrency is not None]
    if len({concurrency for _, concurrency in loads}) > 1:
        grouped = _grouped([(name, f"{concurrency} in flight") for name, concurrency in loads])
        warnings.append(f"energy and runtime are those of a request at different loads ({grouped})")
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
        # F16 and float16 are one precision.
        if len({precision(value) for _, value in known}) > 1:
            yield field, known


def _boundary(
    profiles: Sequence[Profile], names: Sequence[str], boundary: Boundary
) -> tuple[tuple[Component, ...] | None, list[tuple[str, str]]]:
    """The components that count, and why the profiles' sums can't be set against each other."""
    named = list(zip(names, profiles, strict=True))
    silent = [name for name, profile in named if profile.energy is None]
    if silent:
        raise UserError(f"{', '.join(silent)} has no energy: only runtime was measured, so energy can't be compared")
    held = [set(profile.components) for profile in profiles]
    common = set[Component].intersection(*held)
    joined = _join(common - {"system"} or common)
    choices = f"--boundary {joined} or part of it would work" if common else "they have no component in common"
    asked = parse_boundary(boundary)
    if asked is not None:
        for name, profile in named:
            absent = set(asked) - set(profile.components)
            if absent:
                raise UserError(f"{name} has no energy of {_join(absent)}: {choices}")
        return asked, []
    if all(components == held[0] for components in held):
        # A meter of the whole system beside others can't be chosen by name; the sum is what was measured.
        single = held[0] if held[0] == {"system"} or "system" not in held[0] else None
        return parse_boundary(sorted(single)) if single else None, []
    described = ", ".join(f"{name} counts {_join(p.components) or 'an undivided sum'}" for name, p in named)
    return None, [("boundaries", f"the boundaries differ ({described}): {choices}")]


def _methods(
    profiles: Sequence[Profile], names: Sequence[str], components: tuple[Component, ...] | None
) -> tuple[list[tuple[str, str]], list[str]]:
    """Refusals and warnings from how the energies were measured."""
    faults: list[tuple[str, str]] = []
    warnings: list[str] = []
    for component in components or (None,):
        of = f" of {component}" if component else ""
        methods = [(name, profile.energy_method(component)) for name, profile in zip(names, profiles, strict=True)]
        kinds = {method for _, method in methods}
        described = ", ".join(f"{name}: {method or 'unknown'}" for name, method in methods)
        if kinds == {"estimated"}:
            warnings.append(f"the energy{of} is estimated, not measured")
        elif "estimated" in kinds:
            wrong = f"an estimated energy{of} is set against a measured one ({described})"
            faults.append(("energy methods", wrong))
        elif len(kinds) > 1:
            warnings.append(f"the energy{of} was measured by different methods ({described})")
    return faults, warnings


def _join(components: Iterable[str]) -> str:
    return "+".join(sorted(components))
