"""What works on this machine, and what to do about the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harness.energy.integrate import Energy, window_energy
from harness.energy.meter import Meter, try_open
from harness.energy.probes.base import Probe, ProbeContext
from harness.energy.readings import Domain, Trace

LOAD_S = 30.0
_CYCLE_S = 10.0
_IDLE_S = 2.0
_SETTLE_SHARE = 0.1
"""Share of each half cycle, at its start, in which clocks and fans settle; not counted."""
_START_TIMEOUT_S = 120.0


def check_backends() -> list[dict[str, Any]]:
    """Every backend: ``name``, ``works``, ``devices``, ``dtypes``, and ``reason`` where it doesn't work."""
    import backends

    checked = []
    for name in backends.names():
        entry: dict[str, Any] = {"name": name, "works": False, "devices": [], "dtypes": [], "reason": None}
        try:
            backend = backends.create(name)
            able = backend.capabilities()
            entry |= {"works": bool(able.devices), "devices": list(able.devices), "dtypes": list(able.dtypes)}
            backend.close()
        except Exception as error:  # what is wrong with one backend is what this command is asked to tell
            entry["reason"] = str(error).partition("\n")[0] or type(error).__name__
        checked.append(entry)
    return checked


def check_probes(load_s: float = 0.0) -> dict[str, Any]:
    """Every power source, what it reads, its idle power now and, with ``load_s`` > 0, whether it sees a load.

    Returns ``{"probes": [...], "components": {component: [domain]}, "measured": bool, "load": {...} or None}``.
    Takes a few seconds, and ``load_s`` seconds more.
    """
    context = ProbeContext()
    opened, entries = _open(context)
    with Meter(opened, context, foreign_load_limit=None) as meter:
        idle = meter.idle(_IDLE_S, settle_s=0.0) if opened else {"domains": {}}
        description = meter.describe()
        for entry in entries:
            domains = [Domain(**fields) for fields in description["domains"].values()]
            entry["domains"] = [_domain(domain, idle) for domain in domains if domain.probe == entry["name"]]
        return {
            "probes": entries,
            "components": description["components"],
            "measured": any(domain["method"] != "estimated" for domain in description["domains"].values()),
            "load": _apply_load(meter, load_s) if load_s > 0 and opened else None,
        }


def _open(context: ProbeContext) -> tuple[dict[str, Probe], list[dict[str, Any]]]:
    """Open every real source that works here."""
    from harness.energy import probes

    opened: dict[str, Probe] = {}
    entries = []
    for name in probes.names():
        probe = probes.create(name)
        if probe.role == "synthetic":
            continue
        entry: dict[str, Any] = {"name": name, "works": True, "reason": None, "remedy": None}
        left = try_open(name, probe, context)
        if left is None:
            opened[name] = probe
            entry["note"] = probe.note
        else:
            entry |= {"works": False, "reason": left.reason, "remedy": left.remedy, "note": None}
        entries.append(entry)
    return opened, entries


def _domain(domain: Domain, idle: Mapping[str, Any]) -> dict[str, Any]:
    power = idle["domains"][domain.name]
    return {
        "name": domain.name,
        "component": domain.component,
        "method": domain.method,
        "period_s": domain.period_s,
        "resolution": domain.resolution,
        "unit": "J" if domain.kind == "counter" else "W",
        "idle_power_w": power["power_w"],
        "idle_ci95_w": power["ci95_w"],
        "idle_reason": power["reason"],
    }


def _apply_load(meter: Meter, seconds: float) -> dict[str, Any]:
    """Run the square wave and compare each domain's idle and busy halves."""
    cycle_s = min(_CYCLE_S, seconds / 3)
    command = [sys.executable, "-P", "-m", "harness.measuring.square_wave", str(seconds), str(cycle_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        meter.set_worker(child.pid)
        assert child.stdout is not None
        started = json.loads(child.stdout.readline() or "{}")
        try:
            child.wait(timeout=seconds + _START_TIMEOUT_S)
        finally:
            child.kill()
    if "start_ns" not in started:
        meter.set_worker(None)
        return {"device": None, "reason": "the load did not start", "domains": {}, "ratios": {}}
    start_ns, cycle_ns = started["start_ns"], int(cycle_s * 1e9)
    cycles = int(seconds / cycle_s)
    traces = meter.traces(start_ns, start_ns + cycles * cycle_ns)
    meter.set_worker(None)
    return {
        "device": started["device"],
        "reason": None,
        "domains": {
            trace.domain.name: _response(trace, start_ns, cycle_ns, cycles)
            | {"loaded": _is_loaded(trace.domain, started["gpus"])}
            for trace in traces
        },
        "ratios": _ratios(traces, start_ns, start_ns + cycles * cycle_ns),
    }


def _is_loaded(domain: Domain, gpus: Sequence[str]) -> bool:
    """Whether the load runs on what a domain reads; hashing leaves memory and the neural engine at rest."""
    return domain.component in ("cpu", "system") or domain.source in gpus


def _response(trace: Trace, start_ns: int, cycle_ns: int, cycles: int) -> dict[str, Any]:
    """Mean power of the idle and busy halves, the rise into and the fall after the load, in W.

    A load is seen when every busy half lies above every idle one by more than they are uncertain.
    """
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
        return {"idle_w": None, "busy_w": None, "rise_w": None, "fall_w": None, "seen": False, "reason": reason}
    known = [power for power in powers if power is not None]
    doubt_w = max(half.ci95_j or 0.0 for half in halves) / ((half_ns - settle_ns) / 1e9)
    idle, busy = known[0::2], known[1::2]
    rises = [after - before for before, after in zip(idle, busy, strict=True)]
    falls = [before - after for before, after in zip(busy[:-1], idle[1:], strict=True)]
    return {
        "idle_w": sum(idle) / len(idle),
        "busy_w": sum(busy) / len(busy),
        "rise_w": sum(rises) / len(rises),
        "fall_w": sum(falls) / len(falls) if falls else None,
        "seen": min(busy) - max(idle) > doubt_w,
        "reason": None,
    }


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
