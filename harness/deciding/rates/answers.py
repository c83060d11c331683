"""From profiles, a workload and an arrival rate to an answer: which requests go where, and what that saves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.core.errors import UserError
from harness.core.quantities import check_number
from harness.deciding.arrivals import read_requests
from harness.deciding.costs import Costs, cost_table
from harness.deciding.rates.arrivals import Arriving, Burstiness, of_log
from harness.deciding.rates.fleet import FleetAtRate, RatedSystem, Split
from harness.deciding.scales import Prices, Scales, price_scales, raw_scales, reference_scales
from harness.deciding.simulated_answer import NO_LIMITS, Limits, engine_notes, fleet_system, refuse_unknown
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import Workload
from harness.modelling import comparable
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import Loaded
from harness.modelling.system_names import told_apart

DIFFERENT_LOADS = "energy and runtime are those of a request at different loads"
"""How the warning of a comparison begins that at a rate is no warning: loads follow from it."""


@dataclass(frozen=True)
class RateOptions:
    """What is asked of an answer at a rate."""

    weight: float | None = None
    scale: str = "reference"
    reference: str | None = None
    prices: Prices | None = None
    boundary: str | None = None
    idle: str = "included"
    allow_mixed: bool = False
    slo_s: float | None = None
    limits: Limits = NO_LIMITS
    off_when_idle: bool = False


def arriving(workload: Workload | str | os.PathLike[str], rate_per_s: float) -> tuple[Workload, Arriving]:
    """A workload whose requests come at random, so many per second. Raises UserError."""
    check_number("--rate", rate_per_s)
    if not rate_per_s > 0:
        raise UserError(f"--rate must be above 0 requests per second, not {rate_per_s:g}")
    return workload if isinstance(workload, Workload) else load_workload(workload), Arriving(rate_per_s)


def arriving_as_logged(
    path: str | os.PathLike[str],
    input_column: str | None = None,
    output_column: str | None = None,
    form: str | None = None,
) -> tuple[Workload, Arriving]:
    """The requests of a log, which come at its own times. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"--rate trace needs a log with arrival times, which {path} isn't: give --rate 2/s")
    return of_log(Path(path).name, read_requests(Path(path), input_column, output_column, form))


def rated_fleet(
    loaded: Sequence[Loaded], workload: Workload, rate_per_s: float, asked: RateOptions
) -> tuple[FleetAtRate, list[str]]:
    """The systems at a rate, and what is to be said of them. Raises UserError."""
    if asked.idle not in ("included", "subtracted"):
        raise UserError(f"unknown idle rule {asked.idle}; use included or subtracted")
    profiles = [one.profile for one in loaded]
    components = comparable.check(profiles, asked.boundary, asked.allow_mixed).boundary
    boundary = None if components is None else "+".join(components)
    labels = told_apart([p.identity.system for p in profiles], [p.identity for p in profiles])
    refuse_unknown(asked.limits, loaded, labels)
    systems, notes = [], []
    for one, label in zip(loaded, labels, strict=True):
        system = fleet_system(one, label, asked.limits, asked.off_when_idle, boundary)
        idle_w = system.engine.idle_power_w
        notes += engine_notes(system)
        if idle_w is None and asked.idle == "included" and not asked.off_when_idle:
            notes.append(f"the idle power of {label} was not measured: what it needs while it waits isn't counted")
        subtracted = asked.idle == "subtracted"
        if idle_w and not subtracted and not system.off_when_idle and None in one.profile.idle_power_ci95_w(boundary):
            notes.append(f"the idle power of {label} has no stated uncertainty: it is in no interval")
        waiting_w = 0.0 if subtracted or system.off_when_idle else idle_w or 0.0
        systems.append(RatedSystem(system, one.profile, waiting_w, (idle_w or 0.0) if subtracted else 0.0))
    return FleetAtRate(tuple(systems), workload, rate_per_s), notes


def rate_scales(fleet: FleetAtRate, asked: RateOptions, reference: int) -> Scales:
    """What makes joules and seconds one cost. The mean request of the reference system is one with nothing else in it,
    so that scales are the same at every rate. Raises UserError."""
    if asked.scale not in ("reference", "price", "none"):
        raise UserError(f"unknown scale {asked.scale}; use reference, price or none")
    if asked.scale == "price":
        if asked.weight is not None:
            raise UserError("prices already weigh energy against time: leave out --weight or --scale price")
        if asked.prices is None:
            raise UserError("--scale price needs --price-per-kwh, --price-per-hour or both")
        return price_scales(*asked.prices)
    if asked.prices is not None:
        raise UserError("--price-per-kwh and --price-per-hour need --scale price")
    weight = 1.0 if asked.weight is None else asked.weight
    if asked.scale == "none":
        return raw_scales(weight)
    joules, seconds = fleet.systems[reference].one_alone(fleet.totals()[reference][:, 0])
    return reference_scales(weight, *(np.array([each]) for each in (joules, seconds, 1.0)))


def costs_at_load(fleet: FleetAtRate, split: Split, ways: Sequence[int], asked: RateOptions) -> Costs:
    """Costs of requests at the loads that systems work at: those of the first of some ways in which they do."""
    profiles: list[Profile] = []
    for s, system in enumerate(fleet.systems):
        found, profile = split.occupancies[s], system.profile
        running = next((float(found.running[way]) for way in ways if found.rate_per_s[way] > 0), 1.0)
        profiles.append(profile if profile.under_load is None else profile.at(max(1, round(running))))
    costs = cost_table(profiles, fleet.workload, asked.boundary, asked.idle, asked.allow_mixed)
    warnings = tuple(warning for warning in costs.warnings if not warning.startswith(DIFFERENT_LOADS))
    labels = tuple(system.label for system in fleet.systems)
    return replace(costs, warnings=warnings, labels=labels)


def position_of(fleet: FleetAtRate, loaded: Sequence[Loaded], name: str) -> int:
    """Of the system with this label or profile name, or given by this path. Raises UserError."""
    labels, given = [system.label for system in fleet.systems], [one.given for one in loaded]
    for names in (given, labels, [one.profile.name for one in loaded]):
        if names.count(name) == 1:
            return names.index(name)
    raise UserError(f"no one system {name} among {', '.join(labels)}")


def simulation_reason(fleet: FleetAtRate, rough: bool, bursts: Burstiness | None) -> str:
    """Why figures of a simulation are taken in place of the closed form's; empty where that holds."""
    if bursts is not None and bursts.bursty:
        return (
            f"requests come in bursts (index of dispersion {bursts.dispersion:.1f} over {bursts.window_s:.3g} s; "
            "1 at random), for which the closed form is off"
        )
    if rough:
        several = any(system.fleet.replicas > 1 for system in fleet.systems)
        return "the closed form is rough " + (
            "where replicas or prompts are uneven" if several else "where prompts wait for each other"
        )
    return ""
