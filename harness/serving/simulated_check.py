"""What closed forms say of a system that was simulated, at the mean rate at which its requests came. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.modelling.served.engine import Engine
from harness.serving.occupancy import capacity_per_s, occupancy, request_sums
from harness.serving.simulated_fleet import FleetPart
from harness.serving.simulated_queue import OneByOne
from harness.serving.simulation import Requests


@dataclass(frozen=True)
class ClosedForm:
    """Of Poisson arrivals that go on for ever; None for what no closed form is known of."""

    rate_per_s: float
    capacity_per_s: float
    """Requests per second beyond which ever more wait."""
    saturated: bool
    rough: bool
    """Whether it is known to be off by some per cent."""
    e2e_mean_s: float | None
    """None where saturated."""
    busy_share: float
    power_w: float | None
    """Of steps and of idle replicas; None where not known."""


def closed_form(part: FleetPart) -> ClosedForm | None:
    """The closed form beside a simulation; None where all its requests came at once."""
    requests, engine = part.simulated.requests, part.system.engine
    came_s = float(requests.arrival_s[-1] - requests.arrival_s[0])
    if not came_s > 0:
        return None
    rate = (requests.arrival_s.size - 1) / came_s
    if isinstance(engine, OneByOne):
        return _one_by_one(engine, part, requests, rate)
    return _stepped(engine, part, requests, rate)


def _stepped(engine: Engine, part: FleetPart, requests: Requests, rate: float) -> ClosedForm:
    """By the product form of ``occupancy``."""
    replicas, idle_w = part.system.replicas, part.system.idle_power_w
    sums = request_sums(engine, requests.input_tokens.astype(float), requests.output_tokens.astype(float)).mean(axis=1)
    found = occupancy(engine, rate * sums, replicas)
    saturated = bool(found.saturated)
    return ClosedForm(
        rate,
        float(capacity_per_s(engine, sums, replicas)),
        saturated,
        bool(found.rough),
        None if saturated else float(found.e2e_s),
        float(found.busy_share),
        None if engine.joules is None or idle_w is None else float(found.energy_w(idle_w)),
    )


def _one_by_one(engine: OneByOne, part: FleetPart, requests: Requests, rate: float) -> ClosedForm:
    """By Pollaczek and Khinchine (1930), of one machine; of several only how busy they are."""
    costs, replicas = engine.priced(requests.input_tokens, requests.output_tokens), part.system.replicas
    mean_s, square_s2 = float(costs.runtime_s.mean()), float(np.mean(costs.runtime_s**2))
    load, idle_w = rate * mean_s / replicas, part.system.idle_power_w
    saturated = load >= 1
    busy = min(load, 1.0)
    power_w = None
    if costs.energy_j is not None and idle_w is not None:
        served = min(rate, replicas / mean_s)
        power_w = served * float(costs.energy_j.mean()) + (1 - busy) * replicas * idle_w
    e2e_s = None if saturated or replicas > 1 else mean_s + rate * square_s2 / (2 * (1 - load))
    return ClosedForm(rate, replicas / mean_s, saturated, False, e2e_s, busy, power_w)
