"""Which sensors an energy was read by, and how far they may be off by a constant factor: what profiles share. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.core.quantities import Component, Method
from harness.energy.attribution import innermost
from harness.energy.gains import Gain, gain_of, joined_gain
from harness.energy.readings import Calibration, Domain
from harness.modelling.profile_schema import Measurement
from harness.runs.run_schema import Run, Session

_BOARD = re.compile(r"GPU-[0-9A-Fa-f-]{36}")
_PROBES = {"external": "command"}


@dataclass(frozen=True)
class Metering:
    """The gain of the meters of one energy, and which sensors they are."""

    gain_ci95: float
    """Relative half-width of the 95 % interval of their gain."""
    source: str
    """Where that is from."""
    meters: tuple[str, ...] = ()
    """A hash of the machine and of what is measured for each; empty where unknown."""


@dataclass(frozen=True)
class _Part:
    """One sensor of a sum."""

    probe: str
    gain: Gain
    meter: str | None
    amount: float
    """Its share of the energy."""


def stated(meters: Mapping[Component, str | None], shares: Mapping[Component, float]) -> dict[str, Metering]:
    """Of each component and, as ``total``, of their sum, read by meters of these kinds; None where it is unknown.

    ``shares`` of the components in the energy weigh their gains.
    """
    return _sums({component: [_part(component, kind, shares)] for component, kind in meters.items()})


def presumed(
    methods: Mapping[Component, Method | None], device: str | None, shares: Mapping[Component, float]
) -> dict[str, Metering]:
    """The same where only the methods are known: by the sensors that are usual for them."""
    return stated({component: _usual(component, method, device) for component, method in methods.items()}, shares)


def of_run(run: Run, shares: Mapping[Component, float]) -> dict[str, Metering]:
    """The same by what a run says of its meters, whose ``shares`` of the energy weigh them; empty without a meter.

    Of several sessions the widest gain counts, and all sensors.
    """
    return pooled([_of_session(session, run.machine.hostname_sha256, shares) for session in run.sessions])


def pooled(runs: Sequence[Mapping[str, Metering]]) -> dict[str, Metering]:
    """That of several runs together: of each energy the widest gain, and all sensors."""
    found: dict[str, Metering] = {}
    for what in dict.fromkeys(what for run in runs for what in run):
        held = [run[what] for run in runs if what in run]
        widest = max(held, key=lambda metering: metering.gain_ci95)
        # Where that of one is unknown, so is that of all.
        meters = {meter for one in held for meter in one.meters} if all(one.meters for one in held) else set()
        found[what] = Metering(widest.gain_ci95, widest.source, tuple(sorted(meters)))
    return found


def energy_shares(measurements: Sequence[Measurement]) -> dict[Component, float]:
    """What part of the energy each component has, mean over the points."""
    sums: dict[Component, float] = {}
    for point in measurements:
        whole = sum(statistic.mean for statistic in point.component_energy_j.values())
        for component, statistic in point.component_energy_j.items():
            sums[component] = sums.get(component, 0.0) + statistic.mean / whole
    return {component: amount / sum(sums.values()) for component, amount in sums.items()}


def _of_session(session: Session, host: str, shares: Mapping[Component, float]) -> dict[str, Metering]:
    energy = session.energy
    counted = set(innermost(list(energy.domains.values()), energy.components))
    parts: dict[Component, list[_Part]] = {}
    for names in energy.components.values():
        domains = [energy.domains[name] for name in names if name in energy.domains]
        for domain in domains:
            calibration = energy.calibration.get(domain.name)
            gain, meter = gain_of(domain, calibration is not None), _meter_id(domain, host, calibration)
            # How a component's energy is shared among its sensors isn't kept with the run.
            amount = shares.get(domain.component, 0.0) / len(domains)
            parts.setdefault(domain.component, []).append(_Part(domain.probe, gain, meter, amount))
    inner = [component for component in parts if counted & set(energy.components.get(component, ()))]
    return _sums(parts, inner)


def _sums(parts: Mapping[Component, Sequence[_Part]], inner: Sequence[Component] | None = None) -> dict[str, Metering]:
    """Of each component and, as ``total``, of the sum of the ``inner`` ones, which hold no other's energy."""
    whole = [part for component in (parts if inner is None else inner) for part in parts[component]]
    found = {str(component): _sum(of) for component, of in parts.items()}
    return found | {"total": _sum(whole)} if whole else found


def _sum(parts: Sequence[_Part]) -> Metering:
    """Gains of one kind of sensor err alike, those of different ones independently."""
    # Without any known share each counts alike.
    known = any(part.amount for part in parts)
    amounts = [(part.probe, part.amount if known else 1.0, part.gain.ci95) for part in parts]
    sources = {part.gain.source: part.probe for part in sorted(parts, key=lambda part: part.probe)}
    named = [source if len(sources) == 1 else f"{probe}: {source}" for source, probe in sources.items()]
    meters = {part.meter for part in parts if part.meter is not None}
    return Metering(joined_gain(amounts), "; ".join(named), tuple(sorted(meters)))


def _part(component: Component, kind: str | None, shares: Mapping[Component, float]) -> _Part:
    """A sensor of which only the kind is known."""
    probe = _PROBES.get(kind or "", kind or "unknown")
    method: Method = "estimated" if kind == "estimate" else "counter"
    gain = gain_of(Domain("", component, "counter", method, probe, 0.0))
    return _Part(probe, gain, None, shares.get(component, 0.0))


def _usual(component: Component, method: Method | None, device: str | None) -> str | None:
    """The kind of meter that a machine with such a device has for a component, by the method of its figures."""
    if method in ("estimated", "modelled"):
        return "estimate" if method == "estimated" else "powermetrics"
    if method is None or component == "system":
        return None
    return {"gpu": "nvml" if device == "cuda" else None, "cpu": "rapl", "dram": "rapl"}.get(component)


def _meter_id(domain: Domain, host: str, calibration: Calibration | None) -> str:
    """A hash of the board's own number where it has one, else of the machine and of what is measured there."""
    board = _BOARD.search(domain.source)
    silicon = domain.source[board.start() :] if board else f"{host}/{domain.source or domain.name}"
    # Calibrated otherwise, the same sensor has another gain.
    said = f"{silicon}/{calibration.gain:g},{calibration.offset_w:g}" if calibration else silicon
    return hashlib.sha256(said.encode()).hexdigest()[:16]


UNKNOWN = stated({"system": None}, {})["total"]
"""Of an energy of whose meter nothing is known."""
