"""Which power sources a meter opens: those that were named, or every one that works here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.core.errors import ProbeUnavailable, UserError
from harness.core.quantities import Component
from harness.core.wording import number
from harness.energy import probes
from harness.energy.probes.base import Probe, ProbeContext

_SLOW_S, _TOO_SLOW_S = 0.5, 2.0
"""Between updates of a meter of the whole machine: what ``auto`` does without where others see what computes, and what
it always does without, because its windows would see too few updates."""
_GPU: frozenset[Component] = frozenset({"gpu", "system"})
_COMPUTING: dict[str, frozenset[Component]] = {
    "cpu": frozenset({"cpu", "system"}),
    "cuda": _GPU,
    "mps": _GPU,
    "metal": _GPU,
}


@dataclass(frozen=True)
class LeftOut:
    """A power source that could not be opened."""

    probe: str
    reason: str
    remedy: str | None


def computing_components(device: str | None) -> frozenset[Component]:
    """The components that see what a device draws; none where the device is not known."""
    return _COMPUTING.get(device or "", frozenset())


def try_open(name: str, probe: Probe, context: ProbeContext) -> LeftOut | None:
    """Open a probe. Returns None, or why it does not work here; it is closed again then."""
    try:
        probe.open(context)
        return None
    except ProbeUnavailable as unavailable:
        left = LeftOut(name, unavailable.reason, unavailable.remedy)
    except Exception as error:  # drivers fail in ways of their own: one of them must not take the others along
        left = LeftOut(name, f"{type(error).__name__}: {error}", None)
    probe.close()
    return left


def open_sources(selection: str, context: ProbeContext) -> tuple[dict[str, Probe], list[LeftOut]]:
    """The open probes by name, preferred first, and those left out, for ``auto``, ``none`` or names joined by commas.

    Raises UserError for an unknown probe, a wrong option, or a named probe that does not work here.
    """
    if selection == "none":
        return {}, []
    return _open_all(context) if selection == "auto" else (_open_named(selection, context), [])


def _open_all(context: ProbeContext) -> tuple[dict[str, Probe], list[LeftOut]]:
    """Every meter that works; where none sees what computes, those of the whole machine, and then the fallbacks."""
    opened: dict[str, Probe] = {}
    left_out: list[LeftOut] = []
    available = {name: probes.create(name) for name in probes.names()}
    for role in ("meter", "machine", "fallback"):
        if role != "meter" and not _lacks_meter(opened, context):
            break
        for name, probe in available.items():
            if probe.role == role:
                left = try_open(name, probe, context)
                if left is None:
                    opened[name] = probe
                else:
                    left_out.append(left)
        left_out += set_aside(opened, context)
    return opened, left_out


def set_aside(opened: dict[str, Probe], context: ProbeContext) -> list[LeftOut]:
    """Close and take out slow meters of the whole machine, which nobody named and every window would have to wait for.

    Kept are those that show at least every 2 s what no other meter sees.
    """
    left_out = []
    for name, probe in list(opened.items()):
        period_s = _machine_period_s(probe)
        others = {other: its for other, its in opened.items() if other != name and its.role != "fallback"}
        if period_s > (_TOO_SLOW_S if _lacks_meter(others, context) else _SLOW_S):
            opened.pop(name).close()
            reason = (
                f"it shows the whole machine's power every {number(period_s, 2)} s only, and windows would wait for it"
            )
            left_out.append(LeftOut(name, reason, f"name it to use it: --probes {name}"))
    return left_out


def _machine_period_s(probe: Probe) -> float:
    """Time between updates of a probe that reads nothing but the whole machine, in s; 0 for any other."""
    domains = probe.domains()
    whole = all(domain.component == "system" and domain.scope is None for domain in domains)
    return max((domain.period_s or 0.0 for domain in domains), default=0.0) if whole else 0.0


def _lacks_meter(opened: Mapping[str, Probe], context: ProbeContext) -> bool:
    """Whether the open probes see neither the device that computes nor, for a GPU, the CPU that a fallback prices."""
    components = {domain.component for probe in opened.values() for domain in probe.domains()}
    needed = computing_components(context.device)
    return not components & (needed | {"cpu", "system"}) if needed else not components


def _open_named(selection: str, context: ProbeContext) -> dict[str, Probe]:
    """The probes the user asked for. Raises UserError when one doesn't work or is named twice."""
    names = [part.strip() for part in selection.split(",") if part.strip()]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"probe {twice[0]} is named twice")
    opened: dict[str, Probe] = {}
    for name in names:
        probe = probes.create(name)
        left = try_open(name, probe, context)
        if left is not None:
            for other in opened.values():
                other.close()
            remedy = f"; {left.remedy}" if left.remedy else ""
            raise UserError(f"probe {name} does not work here: {left.reason}{remedy}")
        opened[name] = probe
    return opened
