"""The one rule of what may be compared: same model, same cache mode, same batch and precision, same boundary.

A boundary is the set of components whose energy counts. It is chosen when comparing, not when measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.profile import Profile, parse_boundary
from harness.profile_schema import EnergyModel
from harness.types import Component


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
    profiles: Sequence[Profile],
    boundary: str | Iterable[str] | None = None,
    allow_mixed: bool = False,
    *,
    energy: bool = True,
) -> Comparison:
    """What the profiles have in common, or UserError saying why they can't be compared and what would work.

    ``allow_mixed`` turns the refusals into warnings, except where a profile lacks what was asked for.
    ``energy=False`` is for runtime alone.
    """
    faults = _identity_faults(profiles)
    warnings: list[str] = []
    components: tuple[Component, ...] | None = None
    if energy:
        components, boundary_faults = _boundary(profiles, boundary)
        faults += boundary_faults
        method_faults, warnings = _methods(profiles, components)
        faults += method_faults
    if faults and not allow_mixed:
        raise UserError(f"{'; '.join(faults)}; --allow-mixed goes on all the same and marks the output")
    weights = {profile.identity.random_weights for profile in profiles}
    if {True, False} <= weights:
        warnings.append("random weights are compared with trained ones")
    return Comparison(components, (*(f"mixed: {fault}" for fault in faults), *warnings), bool(faults))


def _identity_faults(profiles: Sequence[Profile]) -> list[str]:
    faults = []
    first = profiles[0].identity
    for profile in profiles[1:]:
        other = profile.identity
        pair = f"{profiles[0].name} and {profile.name}"
        if other.model != first.model:
            faults.append(f"{pair} ran different models ({first.model} and {other.model})")
        if other.kv_cache != first.kv_cache:
            faults.append(f"{pair} differ in cache mode (kv_cache {first.kv_cache} and {other.kv_cache})")
        if None not in (first.batch_size, other.batch_size) and other.batch_size != first.batch_size:
            faults.append(f"{pair} differ in batch size ({first.batch_size} and {other.batch_size})")
        if None not in (first.dtype, other.dtype) and other.dtype != first.dtype:
            faults.append(f"{pair} differ in precision ({first.dtype} and {other.dtype})")
    return faults


def _boundary(
    profiles: Sequence[Profile], boundary: str | Iterable[str] | None
) -> tuple[tuple[Component, ...] | None, list[str]]:
    """The components that count, and why the profiles' sums can't be set against each other."""
    silent = [profile.name for profile in profiles if profile.energy is None]
    if silent:
        raise UserError(f"{', '.join(silent)} has no energy: only runtime was measured, so energy can't be compared")
    held = [set(profile.components) for profile in profiles]
    common = set[Component].intersection(*held)
    choices = f"--boundary {_join(common)} or part of it would work" if common else "they have no component in common"
    asked = parse_boundary(boundary)
    if asked is not None:
        for profile in profiles:
            absent = set(asked) - set(profile.components)
            if absent:
                raise UserError(f"{profile.name} has no energy of {_join(absent)}: {choices}")
        return asked, []
    if all(components == held[0] for components in held):
        return parse_boundary(sorted(held[0])) if held[0] else None, []
    described = ", ".join(
        f"{profile.name} counts {_join(profile.components) or 'an undivided sum'}" for profile in profiles
    )
    return None, [f"the boundaries differ ({described}): {choices}"]


def _methods(profiles: Sequence[Profile], components: tuple[Component, ...] | None) -> tuple[list[str], list[str]]:
    """Refusals and warnings from how the energies were measured."""
    faults: list[str] = []
    warnings: list[str] = []
    for component in components or ("sum",):
        methods = {profile.name: _part(profile, component).method for profile in profiles}
        if len(set(methods.values())) < 2:
            continue
        described = ", ".join(f"{name}: {method or 'unknown'}" for name, method in methods.items())
        if "estimated" in methods.values():
            faults.append(f"an estimated energy of {component} is set against a measured one ({described})")
        else:
            warnings.append(f"the energy of {component} was measured by different methods ({described})")
    return faults, warnings


def _part(profile: Profile, component: str) -> EnergyModel:
    part = profile.energy if component == "sum" else profile.components[component]  # type: ignore[index]
    assert part is not None
    return part


def _join(components: Iterable[str]) -> str:
    return "+".join(sorted(components))
