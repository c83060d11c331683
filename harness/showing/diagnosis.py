"""What works on this machine, as lines for the terminal or as JSON."""

from __future__ import annotations

from dataclasses import asdict

from harness.core.wording import number, percent, plus_minus
from harness.energy.step_response import SensorCheck, Timing
from harness.measuring.doctor import Diagnosis, LoadCheck, ProbeCheck
from harness.showing.terminal import print_json


def print_diagnosis(diagnosis: Diagnosis, as_json: bool) -> None:
    """Every backend and power source: whether it works, and what would make it work."""
    if as_json:
        print_json(asdict(diagnosis))
        return
    for line in _lines(diagnosis):
        print(line)


def _lines(diagnosis: Diagnosis) -> list[str]:
    lines = ["Backends"]
    for backend in diagnosis.backends:
        state = ", ".join(backend.devices) if backend.works else f"not usable: {backend.reason}"
        lines.append(f"  {backend.name:<14}{state}")
    lines += ["", "Power sources"]
    for probe in diagnosis.probes:
        lines += _probe(probe)
    lines += ["", _verdict(diagnosis)]
    if diagnosis.load:
        lines += ["", *_load(diagnosis.load)]
    return lines


def _probe(probe: ProbeCheck) -> list[str]:
    if not probe.works:
        remedy = [f"{'':16}to do: {probe.remedy}"] if probe.remedy else []
        return [f"  {probe.name:<14}not usable: {probe.reason}", *remedy]
    lines = [f"  {probe.name:<14}{probe.note}"]
    for domain in probe.domains:
        period = "at each read" if domain.period_s is None else f"every {1000 * domain.period_s:.0f} ms"
        reason = "an estimate has no sensor" if domain.method == "estimated" else domain.idle_reason
        idle = f"no idle power ({reason})"
        if domain.idle_power_w is not None:
            idle = f"idle {plus_minus(domain.idle_power_w, domain.idle_ci95_w, 'W')}"
        step = f"steps of {number(domain.resolution, 2)} {domain.unit}"
        lines.append(f"{'':16}{domain.name} ({domain.method}): new value {period}, {step}, {idle}")
    return lines


def _verdict(diagnosis: Diagnosis) -> str:
    if diagnosis.measured:
        chosen = [f"{component}: {' + '.join(names)}" for component, names in diagnosis.components.items()]
        return f"Energy would be read from {'; '.join(chosen)}."
    if diagnosis.components:
        return (
            "No power meter works here. joulebench measure still runs: energy is estimated from CPU time, "
            "and every number is marked estimated."
        )
    return "No power meter works here. joulebench measure still runs: it measures time, and no energy."


def _load(load: LoadCheck) -> list[str]:
    if load.reason:
        return [f"Load: {load.reason}"]
    lines = [f"Load on {load.device}"]
    for name, response in load.domains.items():
        if response.reason:
            lines.append(f"  {name}: {response.reason}")
            continue
        verdict = "sees the load" if response.seen else "does not see the load"
        verdict = verdict if response.loaded else "was not loaded"
        parts = {"idle": response.idle_w, "busy": response.busy_w, "rise": response.rise_w, "fall": response.fall_w}
        watts = [f"{what} {power_w:.1f} W" for what, power_w in parts.items() if power_w is not None]
        lines.append(f"  {name} {verdict}: {', '.join(watts)}")
    for source, ratio in load.ratios.items():
        lines.append(f"  {source}: integrated power is {percent(ratio)} of the counter")
    if load.sensors:
        lines += ["", "Timing of the sensors, from steps of that load"]
        lines += [line for name, check in load.sensors.items() for line in _timing(name, check)]
    return lines


def _timing(name: str, check: SensorCheck) -> list[str]:
    response = check.response
    what = {
        "period": response.period,
        "delay": response.delay,
        "lag": response.lag,
        "averages over": response.averaging,
        "filter": response.filter,
        "sees": response.seen,
    }
    times = [
        f"{label} {plus_minus(1e3 * timing.value_s, 1e3 * timing.ci95_s, 'ms')}"
        for label, timing in what.items()
        if timing
    ]
    lines = [f"  {name} ({check.source}): {', '.join(times)}"] if times else []
    if response.reason:
        lines.append(f"  {name}: {'not all of it' if times else 'not'} measured: {response.reason}")
    elif not check.taken_over:
        lines.append(f"{'':4}no surer than what the probe states, which stays")
    return lines


def _ms(timing: Timing) -> str:
    return plus_minus(1e3 * timing.value_s, 1e3 * timing.ci95_s, "ms")
