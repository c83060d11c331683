"""What works on this machine, and what to do about the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.energy.attribution import PowerFigure
from harness.energy.config import EnergyConfig
from harness.energy.integrate import Energy, window_energy
from harness.energy.meter import Meter
from harness.energy.power_sources import set_aside, try_open
from harness.energy.probes.base import Probe, ProbeContext
from harness.energy.readings import Domain, Trace
from harness.energy.step_response import SensorCheck
from harness.measuring.sensor_check import check_sensors
from harness.measuring.wave_process import run_wave

LOAD_S = 30.0
_CYCLE_S = 10.0
_IDLE_S = 2.0
_SETTLE_SHARE = 0.1
"""Share of each half cycle, at its start, in which clocks and fans settle; not counted."""
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class BackendCheck:
    """Whether a backend works here; the ``reason`` where it doesn't."""

    name: str
    works: bool
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class DomainCheck:
    """What a power source reads of one thing; its idle power now, or why that can't be told."""

    name: str
    component: str
    method: str
    period_s: float | None
    resolution: float
    unit: str
    """Of the resolution: J or W."""
    idle_power_w: float | None
    idle_ci95_w: float | None
    idle_reason: str | None


@dataclass(frozen=True)
class ProbeCheck:
    """Whether a power source works here, what it reads, or what would make it work."""

    name: str
    works: bool
    reason: str | None = None
    remedy: str | None = None
    note: str | None = None
    domains: tuple[DomainCheck, ...] = ()


@dataclass(frozen=True)
class Response:
    """Mean power of a domain in the idle and busy halves of a square wave, its rise and fall, in W."""

    idle_w: float | None = None
    busy_w: float | None = None
    rise_w: float | None = None
    fall_w: float | None = None
    seen: bool = False
    """Whether every busy half lies above every idle one by more than they are uncertain."""
    reason: str | None = None
    loaded: bool = False
    """Whether the load runs on what the domain reads."""


@dataclass(frozen=True)
class LoadCheck:
    """How the sensors followed a load; ``device`` is None, with the reason, where it did not start."""

    device: str | None
    reason: str | None
    domains: dict[str, Response]
    ratios: dict[str, float]
    """Integrated power over counted energy of every source that has both."""
    sensors: dict[str, SensorCheck] = field(default_factory=dict)
    """What is known of each sensor's timing, by domain."""


@dataclass(frozen=True)
class Diagnosis:
    """What works on this machine."""

    backends: tuple[BackendCheck, ...]
    probes: tuple[ProbeCheck, ...]
    components: dict[str, list[str]]
    """The domains whose energies would be added up for each component."""
    measured: bool
    """Whether any of them is more than an estimate."""
    load: LoadCheck | None
    """None where no load was asked for."""


def diagnose(load: bool = False) -> Diagnosis:
    """Try every backend and power source and, with ``load``, whether each sensor sees one.

    Takes a few seconds, and three quarters of a minute more for the load.
    """
    context = ProbeContext()
    opened, probes = _open(context)
    with Meter(opened, context, EnergyConfig(max_foreign_load=None)) as meter:
        idle = meter.idle(_IDLE_S, settle_s=0.0).domains if opened else {}
        description = meter.describe()
        domains = description.domains.values()
        return Diagnosis(
            backends=tuple(check_backends()),
            probes=tuple(
                replace(probe, domains=tuple(_domain(d, idle[d.name]) for d in domains if d.probe == probe.name))
                for probe in probes
            ),
            components=description.components,
            measured=any(domain.method != "estimated" for domain in domains),
            load=_apply_load(meter, LOAD_S) if load and opened else None,
        )


def check_backends() -> list[BackendCheck]:
    """Every backend: whether it works here, and on which devices."""
    import backends

    checked = []
    for name in backends.names():
        try:
            backend = backends.create(name)
            able = backend.capabilities()
            backend.close()
            checked.append(BackendCheck(name, bool(able.devices), tuple(able.devices), tuple(able.dtypes)))
        except Exception as error:  # what is wrong with one backend is what this command is asked to tell
            checked.append(BackendCheck(name, False, reason=str(error).partition("\n")[0] or type(error).__name__))
    return checked


def _open(context: ProbeContext) -> tuple[dict[str, Probe], list[ProbeCheck]]:
    """Open every real source that works here."""
    from harness.energy import probes

    opened: dict[str, Probe] = {}
    checked = []
    for name in probes.names():
        probe = probes.create(name)
        if probe.role == "synthetic":
            continue
        left = try_open(name, probe, context)
        if left is None:
            opened[name] = probe
            checked.append(ProbeCheck(name, True, note=probe.note))
        else:
            checked.append(ProbeCheck(name, False, left.reason, left.remedy))
    for left in set_aside(opened, context):
        at = next(at for at, check in enumerate(checked) if check.name == left.probe)
        checked[at] = replace(checked[at], note=f"{checked[at].note}; not read unless named: {left.reason}")
    return opened, checked


def _domain(domain: Domain, idle: PowerFigure) -> DomainCheck:
    return DomainCheck(
        name=domain.name,
        component=domain.component,
        method=domain.method,
        period_s=domain.period_s,
        resolution=domain.resolution,
        unit="J" if domain.kind == "counter" else "W",
        idle_power_w=idle.power_w,
        idle_ci95_w=idle.ci95_w,
        idle_reason=idle.reason,
    )


def _apply_load(meter: Meter, seconds: float) -> LoadCheck:
    """Run the square wave and compare each domain's idle and busy halves; then time each sensor by irregular steps."""
    cycle_s = min(_CYCLE_S, seconds / 3)
    cycles = int(seconds / cycle_s)
    halves = [cycle_s / 2] * (2 * cycles)
    wave = run_wave("all", lambda ready_s: halves, _START_TIMEOUT_S, started=meter.set_worker)
    if wave.device is None:
        meter.set_worker(None)
        return LoadCheck(None, wave.reason, {}, {})
    cycle_ns = int(cycle_s * 1e9)
    traces = meter.traces(wave.start_ns, wave.start_ns + cycles * cycle_ns)
    meter.set_worker(None)
    responses = {
        trace.domain.name: replace(_response(trace, wave.start_ns, cycle_ns, cycles), loaded=wave.loads(trace.domain))
        for trace in traces
    }
    ratios = _ratios(traces, wave.start_ns, wave.start_ns + cycles * cycle_ns)
    return LoadCheck(wave.device, None, responses, ratios, check_sensors(meter, "again"))


def _response(trace: Trace, start_ns: int, cycle_ns: int, cycles: int) -> Response:
    """How a domain's power followed the wave."""
    half_ns = cycle_ns // 2
    settle_ns = int(_SETTLE_SHARE * half_ns)
    halves = [
        window_energy(trace, start_ns + number * half_ns + settle_ns, start_ns + (number + 1) * half_ns)
        for number in range(2 * cycles)
    ]
    powers = [_power_w(half, (half_ns - settle_ns) / 1e9) for half in halves]
    # Energy that did not move is no reading, except that a CPU-time estimate of a sleeping process is 0.
    if trace.domain.method == "estimated":
        powers = [power if power is not None else 0.0 for power in powers]
    if any(power is None for power in powers):
        reason = next((half.reason for half in halves if half.reason), None)
        return Response(reason=reason)
    known = [power for power in powers if power is not None]
    doubt_w = max(half.ci95_j or 0.0 for half in halves) / ((half_ns - settle_ns) / 1e9)
    idle, busy = known[0::2], known[1::2]
    rises = [after - before for before, after in zip(idle, busy, strict=True)]
    falls = [before - after for before, after in zip(busy[:-1], idle[1:], strict=True)]
    return Response(
        idle_w=sum(idle) / len(idle),
        busy_w=sum(busy) / len(busy),
        rise_w=sum(rises) / len(rises),
        fall_w=sum(falls) / len(falls) if falls else None,
        seen=min(busy) - max(idle) > doubt_w,
    )


def _power_w(energy: Energy, seconds: float) -> float | None:
    return None if energy.joules is None else energy.joules / seconds


def _ratios(traces: Sequence[Trace], start_ns: int, end_ns: int) -> dict[str, float]:
    """Integrated power over counted energy of every source that has both."""
    energies = {
        (trace.domain.source, trace.domain.kind): window_energy(trace, start_ns, end_ns).joules for trace in traces
    }
    ratios = {}
    for (source, kind), counted in energies.items():
        integrated = energies.get((source, "power"))
        if kind == "counter" and counted and integrated is not None:
            ratios[source] = integrated / counted
    return ratios
