"""From profiles and requests that come over time to what becomes of them, by simulation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError
from harness.core.quantities import Method
from harness.core.sizes import MAX_ARRIVAL_S, MAX_ARRIVALS
from harness.core.wording import percent
from harness.deciding.arrivals import read_requests
from harness.deciding.costs import MOST_TOO_FAR
from harness.deciding.followed_rule import AnyRule, followed, read_rule
from harness.deciding.workload import Workload
from harness.modelling.cost_function import TOO_FAR, Prediction
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import Loaded, ProfileLike, load_or_fit
from harness.serving.simulated_check import ClosedForm, closed_form
from harness.serving.simulated_engine import Tokens
from harness.serving.simulated_fleet import FleetPart, FleetSystem, SimulatedFleet, simulate_fleet
from harness.serving.simulated_queue import AloneCosts, OneByOne
from harness.serving.simulation import Requests

DEFAULT_REQUESTS = 100_000
"""Requests drawn at a rate where nobody says how many; fewer where these would come for longer than is allowed."""


@dataclass(frozen=True)
class Limits:
    """What engines are bound by beside what their profiles say; by name of a system."""

    replicas: Mapping[str, float]
    slots: Mapping[str, float]
    chunk_tokens: Mapping[str, float]
    kv_tokens: Mapping[str, float]


NO_LIMITS = Limits({}, {}, {}, {})


@dataclass(frozen=True)
class Stream:
    """Requests over time, and where they are from."""

    name: str
    requests: Requests
    rate_per_s: float | None
    """Of the Poisson process that they were drawn from; None where a trace has their times."""
    seed: int | None
    pairs_known: bool = True
    """False where input and output lengths were drawn as if independent."""


@dataclass(frozen=True)
class SimulationAnswer:
    """What became of a stream of requests, and what it was worked out from."""

    profiles: tuple[Profile, ...]
    stream: Stream
    fleet: SimulatedFleet
    rule: AnyRule | None
    boundary: str | None
    energy_methods: tuple[Method | None, ...]
    """By system; None without energy."""
    checks: tuple[ClosedForm | None, ...]
    """By system, what the closed form says of it; None without requests."""
    fitted: tuple[str, ...]
    notes: tuple[str, ...]
    """What limits the answer."""


def trace_stream(path: str | os.PathLike[str], input_column: str | None, output_column: str | None) -> Stream:
    """The requests of a log at its own times. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"{path} is no file with arrival times; for random arrivals give --rate 2/s in its place")
    return Stream(Path(path).name, read_requests(Path(path), input_column, output_column), None, None)


def drawn_stream(
    workload: Workload, rate_per_s: float, requests: int | None, duration_s: float | None, seed: int
) -> Stream:
    """Requests of sizes drawn from a workload that come at random times, by a Poisson process.

    So many of them, or as many as come within ``duration_s``. Raises UserError.
    """
    if requests is not None and duration_s is not None:
        raise UserError("--requests and --duration both say when to end: give one of them")
    if requests is None and duration_s is None:
        requests = max(1, min(DEFAULT_REQUESTS, int(rate_per_s * MAX_ARRIVAL_S / 2)))
    expected = requests if requests is not None else rate_per_s * (duration_s or 0.0)
    if not 1 <= expected <= MAX_ARRIVALS or expected / rate_per_s > MAX_ARRIVAL_S:
        raise UserError(
            f"{expected:,.0f} requests at {rate_per_s:g}/s: a simulation takes from 1 to {MAX_ARRIVALS:,} requests "
            f"over at most {MAX_ARRIVAL_S:,.0f} s; change --requests or --duration"
        )
    rng = np.random.default_rng(seed)
    count = requests if requests is not None else max(1, int(rng.poisson(expected)))
    arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, count))
    drawn = rng.choice(workload.count.size, count, p=workload.count / workload.requests)
    found = Requests(arrival_s, workload.input_tokens[drawn], workload.output_tokens[drawn])
    return Stream(workload.name, found, rate_per_s, seed, workload.pairs_known)


def simulate_stream(
    systems: Sequence[ProfileLike],
    stream: Stream,
    *,
    rule: str | os.PathLike[str] | None = None,
    limits: Limits = NO_LIMITS,
    off_when_idle: bool = False,
    boundary: str | None = None,
) -> SimulationAnswer:
    """Send a stream of requests through one system, or through several by an exported rule. Raises UserError."""
    loaded = [load_or_fit(each) for each in systems]
    if len({one.profile.name for one in loaded}) < len(loaded):
        raise UserError("two of the systems are one profile: name it once, with --replicas for more machines of it")
    read = None if rule is None else read_rule(rule)
    if read is None and len(loaded) > 1:
        raise UserError(
            "several systems need a rule that says who serves what: --rule rule.json "
            "(joulebench route A B --export rule.json writes one)"
        )
    choice, labels = _chosen(loaded, stream.requests, read)
    refuse_unknown(limits, loaded, labels)
    fleet = [
        fleet_system(one, label, limits, off_when_idle, boundary) for one, label in zip(loaded, labels, strict=True)
    ]
    simulated = simulate_fleet(fleet, stream.requests, choice, sampled=stream.rate_per_s is not None)
    notes = [note for system in fleet for note in engine_notes(system)]
    checks = [None if part is None else closed_form(part) for part in simulated.parts]
    parts = []
    for part, one, check in zip(simulated.parts, loaded, checks, strict=True):
        parts.append(part and replace(part, system=_doubted(part, one.profile, boundary)))
        notes += [] if part is None else _part_notes(part, one.profile, check)
    return SimulationAnswer(
        tuple(one.profile for one in loaded),
        stream,
        replace(simulated, parts=tuple(parts)),
        read,
        boundary,
        tuple(one.profile.energy_method(boundary) if one.profile.energy else None for one in loaded),
        tuple(checks),
        tuple(note for one in loaded for note in one.fitted),
        tuple(notes),
    )


def _chosen(loaded: Sequence[Loaded], requests: Requests, rule: AnyRule | None) -> tuple[NDArray[np.intp], list[str]]:
    """The position of the system of each request, −1 for none, and the systems' names."""
    if rule is None:
        return np.zeros(requests.arrival_s.size, dtype=np.intp), [one.profile.name for one in loaded]
    labels = {system.profile: label for label, system in rule.systems.items()}
    names = [labels.get(one.profile.name) for one in loaded]
    for name, one in zip(names, loaded, strict=True):
        if name is None:
            raise UserError(f"the rule is about {', '.join(labels)}, not {one.profile.name}")
    found = followed(rule, requests.input_tokens, requests.output_tokens)
    known = [str(name) for name in names]
    missing = set(filter(None, np.unique(found.astype(str)))) - {*known, "None"}
    if missing:
        needed = ", ".join(sorted(rule.systems[label].profile for label in missing))
        raise UserError(f"the rule sends requests to {needed} too: name it as a system")
    choice = np.full(found.size, -1, dtype=np.intp)
    for place, name in enumerate(known):
        choice[found == name] = place
    return choice, known


def refuse_unknown(limits: Limits, loaded: Sequence[Loaded], labels: Sequence[str]) -> None:
    """Raises UserError for limits of systems that there aren't, and for values that are none."""
    names = {name for one, label in zip(loaded, labels, strict=True) for name in _names(one, label)}
    options = {
        "--replicas": limits.replicas,
        "--slots": limits.slots,
        "--chunk-tokens": limits.chunk_tokens,
        "--kv-tokens": limits.kv_tokens,
    }
    for option, values in options.items():
        for name, value in values.items():
            if name not in names:
                raise UserError(f"{option} {name}={value:g}: no such system; there is {', '.join(labels)}")
            if value < 1 or value % 1:
                raise UserError(f"{option} {name}={value:g}: give a whole number of at least 1")


def _names(one: Loaded, label: str) -> tuple[str, str, str]:
    return label, one.profile.name, one.given


def fleet_system(one: Loaded, label: str, limits: Limits, off_when_idle: bool, boundary: str | None) -> FleetSystem:
    """Replicas of a profile within limits; without costs under load on one request at a time. Raises UserError."""

    def limit(values: Mapping[str, float]) -> int | None:
        return next((int(values[name]) for name in _names(one, label) if name in values), None)

    replicas = limit(limits.replicas) or 1
    slots, chunk_tokens, kv_tokens = map(limit, (limits.slots, limits.chunk_tokens, limits.kv_tokens))
    if one.profile.under_load is None and one.profile.requests_in_flight == 1:
        if slots or chunk_tokens or kv_tokens:
            raise UserError(
                f"{label}: its profile knows costs with one request in flight only, which tells nothing of --slots, "
                "--chunk-tokens or --kv-tokens: measure with -c 1,4,16"
            )
        return FleetSystem(label, _one_by_one(one.profile, boundary), replicas, off_when_idle=off_when_idle)
    engine = one.profile.engine(boundary)
    engine = replace(
        engine,
        slots=slots or engine.slots,
        chunk_tokens=chunk_tokens or engine.chunk_tokens,
        kv_tokens=kv_tokens or engine.kv_tokens,
    )
    return FleetSystem(label, engine, replicas, off_when_idle=off_when_idle)


def _one_by_one(profile: Profile, boundary: str | None) -> OneByOne:
    """A machine that works on one request at a time, by any form of its models."""
    energies = [] if profile.energy is None else profile.energy_functions(boundary)
    phased = profile.runtime_function.form.has_phases
    joules_phased = phased and all(function.form.has_phases for function in energies)
    try:
        idle_power_w: float | None = profile.idle_power_w(boundary)
    except UserError:
        idle_power_w = None

    def costs(m: Tokens, n: Tokens) -> AloneCosts:
        return AloneCosts(
            runtime_s=profile.runtime_s(m, n),
            prefill_s=profile.runtime_s(m, n, part="prefill") if phased else None,
            energy_j=profile.energy_j(m, n, boundary) if energies else None,
            prefill_j=profile.energy_j(m, n, boundary, part="prefill") if energies and joules_phased else None,
        )

    return OneByOne(costs, idle_power_w)


def _at_load(part: FleetPart, profile: Profile) -> Profile:
    """The profile at the mean number of sequences that decode in a step."""
    steps = part.simulated.decoding_steps
    decoding = float(steps @ np.arange(steps.size)) / max(1, int(steps[1:].sum()))
    return profile if profile.under_load is None else profile.at(max(1, round(decoding)))


def _too_far(part: FleetPart, profile: Profile) -> float:
    """Share of the requests whose size lies too far outside what was measured for an interval."""
    function, requests = _at_load(part, profile).runtime_function, part.simulated.requests
    return float((function.range.octaves_outside(requests.input_tokens, requests.output_tokens) > TOO_FAR).mean())


def _doubted(part: FleetPart, profile: Profile, boundary: str | None) -> FleetSystem:
    """The system with how sure its costs are: of a mean request at the mean number in flight."""
    if _too_far(part, profile) > MOST_TOO_FAR:
        return part.system
    requests, at = part.simulated.requests, _at_load(part, profile)
    m, n = (max(1, round(float(tokens.mean()))) for tokens in (requests.input_tokens, requests.output_tokens))
    joules_ci95 = idle_ci95_w = None
    if part.simulated.joules is not None:
        joules_ci95 = _relative(at.predict_energy(m, n, boundary))
        idle_w = profile.idle_power_ci95_w(boundary)
        known = [each for each in idle_w if each is not None]
        idle_ci95_w = sum(known) if len(known) == len(idle_w) else None
    return replace(
        part.system,
        seconds_ci95=_relative(at.predict_runtime(m, n)),
        joules_ci95=joules_ci95,
        idle_power_ci95_w=idle_ci95_w,
    )


def _relative(predicted: Prediction) -> float | None:
    """Relative half-width of the mean's interval; None where it is not known."""
    value = float(predicted.value)
    return None if bool(predicted.too_far) or value <= 0 else float(predicted.mean_95) / value


def engine_notes(system: FleetSystem) -> list[str]:
    """What is to be said of how many requests a system works on at once."""
    if isinstance(system.engine, OneByOne):
        return [
            f"{system.label}: its profile knows costs with one request in flight only, so it works on one at a time; "
            "to see it batch, measure with -c 1,4,16"
        ]
    if system.engine.slots is None:
        return [f"{system.label}: how many requests it works on at once is not known, so it has no limit: see --slots"]
    return []


def _part_notes(part: FleetPart, profile: Profile, check: ClosedForm | None) -> list[str]:
    notes = []
    label, engine, simulated = part.system.label, part.system.engine, part.simulated
    if share := _too_far(part, profile):
        without = "; its figures have no interval" if share > MOST_TOO_FAR else ""
        notes.append(
            f"{label}: {percent(share)} of its requests lie more than {TOO_FAR:g} octaves outside what was "
            f"measured{without}: measure sizes nearer to them"
        )
    if check and check.saturated:
        notes.append(
            f"{label}: saturated: {check.rate_per_s:.4g} requests come per second and it can serve about "
            f"{check.capacity_per_s:.4g}; their times depend on how long that goes on"
        )
    elif part.piled_up:
        notes.append(f"{label}: requests piled up, so that their times depend on how long they came")
    if check and check.rough and not check.saturated:
        notes.append(f"{label}: the closed form is rough here: go by the simulation")
    if simulated.joules is None:
        notes.append(f"{label}: no energy, which its profile doesn't have")
    elif engine.idle_power_w is None and not part.system.off_when_idle:
        notes.append(f"{label}: no energy, since its idle power was not measured: see --off-when-idle")
    return notes
