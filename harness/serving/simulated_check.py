"""What closed forms say of a system that was simulated, at the mean rate at which its requests came. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.serving.occupancy import capacity_per_s, occupancy, request_sums
from harness.serving.one_at_a_time import alone_capacity_per_s, alone_occupancy, alone_sums
from harness.serving.simulated_fleet import FleetPart
from harness.serving.simulated_queue import OneByOne


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
    requests, system = part.simulated.requests, part.system
    came_s = float(requests.arrival_s[-1] - requests.arrival_s[0])
    if not came_s > 0:
        return None
    rate, m, n = (requests.arrival_s.size - 1) / came_s, requests.input_tokens, requests.output_tokens
    if isinstance(system.engine, OneByOne):
        sums = alone_sums(system.engine, m, n).mean(axis=1)
        found, capacity = alone_occupancy(rate * sums, system.replicas), alone_capacity_per_s(sums, system.replicas)
    else:
        sums = request_sums(system.engine, m, n).mean(axis=1)
        found = occupancy(system.engine, rate * sums, system.replicas)
        capacity = capacity_per_s(system.engine, sums, system.replicas)
    saturated, known = bool(found.saturated), system.idle_power_w is not None and not np.isnan(found.power_w)
    return ClosedForm(
        rate,
        float(capacity),
        saturated,
        bool(found.rough),
        None if saturated else float(found.e2e_s),
        float(found.busy_share),
        float(found.energy_w(system.idle_power_w or 0.0)) if known else None,
    )
