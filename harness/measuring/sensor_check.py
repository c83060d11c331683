"""How this machine's sensors follow a load, measured once by our own square wave and kept in the user's cache.

Left out are sensors whose period, lag and filter don't matter or can't be stepped from here: estimates and a process's
share; synthetic, replayed and remote sources; counters that move every few milliseconds, whose moves are waited for;
those with too few updates in ten seconds.
"""

from __future__ import annotations

import importlib.util
import math
import platform
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from harness.energy.meter import Meter
from harness.energy.readings import Domain
from harness.energy.step_response import SensorCheck, StepResponse, step_response, with_measured
from harness.measuring import machine
from harness.measuring.sensor_cache import CachedResponse, keep_responses, load_responses
from harness.measuring.wave_process import Devices, Wave, run_wave

BUDGET_S = 10.0
"""What starting a load and its wave take together, unless the start alone takes most of it."""
STATED = "stated by the probe"
_FIRST_S, _LAST_S = 0.5, 1.2
"""Rest before the first step; and after the last, so that sensors which average over 1 s show it and silicon cools."""
_HALVES_S = (0.12, 0.9)
"""Shortest and longest half of a cycle, drawn log-uniform, so that no sensor's period beats with all of them."""
_LONGEST_WAVE_S, _SHORTEST_WAVE_S = 7.5, 4.5
_SPARE_S = 0.3
_SLOWEST_S = 0.25
"""Longest period of a sensor that shows enough updates in that time."""
_RATE_HZ = 500.0
_START_TIMEOUT_S = 20.0
_SEED = 18
_TRIED_AGAIN = timedelta(days=1)
"""How long a sensor is left alone that a load told nothing of, or on which none could be started."""

Mode = Literal["auto", "off", "again"]


def check_sensors(
    meter: Meter, mode: Mode = "auto", notice: Callable[[str], None] = lambda text: None
) -> dict[str, SensorCheck]:
    """What is known of the timing of each sensor, by domain; the meter goes by it from now on.

    Runs a load of ten seconds where a sensor that matters isn't in the cache, or for all with ``again``; none with
    ``off``. A sensor that can't be measured keeps what its probe states; its response has the reason, and it is tried
    again the next day.
    """
    domains = meter.describe().domains
    if mode == "off":
        return {}
    reasons = {name: why for name, domain in domains.items() if (why := _why_not(meter, domain))}
    wanted = {name: domain for name, domain in domains.items() if name not in reasons}
    keys = _keys(wanted)
    cached = load_responses() if wanted and mode == "auto" else {}
    found = {
        name: _check(f"cached, measured {cached[key].measured_at}", cached[key].response)
        for name, key in keys.items()
        if key in cached and _still_counts(cached[key])
    }
    missing = [domain for name, domain in wanted.items() if name not in found]
    if missing:
        notice(f"measuring how the sensors follow a load, once on this machine: about {BUDGET_S:g} s")
        responses = _measured(meter, missing)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        if problem := keep_responses({keys[name]: CachedResponse(at, each) for name, each in responses.items()}):
            notice(problem)
        found |= {name: _check(f"measured {at}", response) for name, response in responses.items()}
    found |= {name: SensorCheck(STATED, response=StepResponse(reason=why)) for name, why in reasons.items()}
    return _taken_over(meter, domains, found)


def irregular_halves(seconds: float, rng: random.Random) -> list[float]:
    """Lengths of halves of a wave, idle first and last, that take so long together, in s."""
    low, high = map(math.log, _HALVES_S)
    left, halves = seconds - _FIRST_S - _LAST_S, [_FIRST_S]
    while True:
        pair = [math.exp(rng.uniform(low, high)) for _ in range(2)]
        # The busy half and the idle one after it, of which the last is the long rest.
        if sum(pair) > left:
            halves += [max(min(left, _HALVES_S[1]), _HALVES_S[0]), _LAST_S]
            return halves
        halves += pair
        left -= sum(pair)


def _check(source: str, response: StepResponse) -> SensorCheck:
    """Where a load told nothing, all that is known is what the probe states."""
    return SensorCheck(source if response.period else STATED, response=response)


def _still_counts(cached: CachedResponse) -> bool:
    """Whether a response need not be measured anew: others on the machine may have hidden what a load would tell."""
    if cached.response.reason is None:
        return True
    try:
        return datetime.now(UTC) - datetime.fromisoformat(cached.measured_at) < _TRIED_AGAIN
    except (ValueError, TypeError):
        return False


def _measured(meter: Meter, domains: Sequence[Domain]) -> dict[str, StepResponse]:
    """The responses by domain; of those that no load ran on with the reason."""
    on_gpu = [domain for domain in domains if domain.component == "gpu"]
    devices: Devices = "cpu" if not on_gpu else "gpu" if len(on_gpu) == len(domains) else "all"
    rng = random.Random(_SEED)

    def halves(ready_s: float) -> list[float]:
        left_s = BUDGET_S - _SPARE_S - ready_s
        return irregular_halves(min(max(left_s, _SHORTEST_WAVE_S), _LONGEST_WAVE_S), rng)

    with meter.sampling_at(_RATE_HZ):
        wave = run_wave(devices, halves, _START_TIMEOUT_S, only_gpus=sorted({domain.source for domain in on_gpu}))
    traces = {trace.domain.name: trace for trace in meter.recent(wave.start_ns, wave.end_ns)}
    responses = {}
    for domain in domains:
        steps = wave.steps_on(domain)
        responses[domain.name] = (
            StepResponse(reason=_unstepped(wave, domain))
            if steps is None
            else step_response(traces[domain.name], steps)
        )
    return responses


def _unstepped(wave: Wave, domain: Domain) -> str:
    if wave.reason or (domain.component == "gpu" and wave.gpus_reason):
        return f"no load stepped it: {wave.reason or wave.gpus_reason}"
    return "no load stepped it: what it reads is neither the CPU nor a GPU that torch can use"


def _why_not(meter: Meter, domain: Domain) -> str | None:
    """Why a sensor's timing is not measured; None where it is."""
    read_by = {own.name: (name, probe) for name, probe in meter.probes.items() for own in probe.domains()}
    name, probe = read_by[domain.name]
    if domain.method == "estimated" or domain.scope in ("process", "gpu process"):
        return "an estimate or a process's share has no sensor of its own"
    if probe.role == "synthetic":
        return "it is no sensor of this machine"
    if name.partition(":")[0] == "remote":
        return "its sensor is in another machine"
    if domain.fresh:
        return "it moves every few milliseconds, and its moves are waited for"
    if (domain.period_s or 0.0) > _SLOWEST_S:
        return f"it shows a new value every {domain.period_s:.2g} s: {BUDGET_S:g} s of load hold too few of them"
    if domain.component in ("dram", "ane"):
        return "no load here steps it alone"
    if domain.component == "gpu" and importlib.util.find_spec("torch") is None:
        return "a GPU is stepped by torch, which is not installed"
    return None


def _keys(domains: Mapping[str, Domain]) -> dict[str, str]:
    """By what each sensor is known again: machine, driver or kernel, probe, what is read, and how."""
    if not domains:
        return {}
    here = machine.machine()
    drivers = {f"gpu:{gpu.uuid}": gpu.driver for gpu in here.gpus}
    kernel = f"{platform.system()} {platform.release()}"
    return {
        name: " | ".join(
            (here.hostname_sha256, drivers.get(d.source) or kernel, d.probe, d.source, d.component, d.kind, name)
        )
        for name, d in domains.items()
    }


def _taken_over(
    meter: Meter, domains: Mapping[str, Domain], found: Mapping[str, SensorCheck]
) -> dict[str, SensorCheck]:
    """Have the meter go by what is surer than the probes' own; returns the checks that say for which that is so."""
    better = {name: with_measured(domains[name], check.response) for name, check in found.items()}
    meter.take_over(better)
    return {name: replace(found[name], taken_over=better[name] != domains[name]) for name in domains}
