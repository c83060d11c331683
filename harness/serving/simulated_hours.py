"""What a simulated system did hour by hour. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.serving.simulated_figures import SimulatedFigure
from harness.serving.simulated_fleet import HOUR_S, FleetPart, times_figures


@dataclass(frozen=True)
class SimulatedHour:
    """What a system did in one hour, the last one cut at the fleet's end."""

    from_s: float
    """After the fleet's first arrival."""
    lasting_s: float
    requests: int
    """That came in it."""
    steps: int
    """That ended in it."""
    busy_share: SimulatedFigure
    running_mean: SimulatedFigure
    power_w: SimulatedFigure | None
    """Of steps and of idle replicas; None where not known."""
    times: dict[str, SimulatedFigure]
    """Mean and percentiles of the requests that came in it, as ``FleetPart.figures`` has those of all."""


def hours_of(part: FleetPart) -> list[SimulatedHour]:
    """The hours of a system. Their intervals have the profile's doubt in the whole, in proportion."""
    periods, system = part.simulated.periods, part.system
    hours = max(1, math.ceil(part.duration_s / HOUR_S))
    lasting_s = np.minimum(HOUR_S, part.duration_s - HOUR_S * np.arange(hours))
    hour = (np.arange(periods.busy_s.size) * periods.period_s / HOUR_S + 1e-9).astype(int)

    def summed(values: Floats) -> Floats:
        return np.asarray(np.bincount(hour, values, hours), dtype=np.float64)

    on_s, busy_s = system.replicas * lasting_s, summed(periods.busy_s)
    busy_share = part.in_proportion("busy_share", busy_s / on_s)
    running_mean = part.in_proportion("running_mean", summed(periods.running * periods.period_s) / lasting_s)
    power_w: list[SimulatedFigure] | list[None] = [None] * hours
    if part.simulated.joules is not None and system.idle_power_w is not None:
        joules = summed(periods.joules) + system.idle_power_w * np.maximum(on_s - busy_s, 0.0)
        power_w = part.in_proportion("energy_j", joules / lasting_s)
    came = ((part.simulated.requests.arrival_s - part.simulated.origin_s) / HOUR_S).astype(int)
    counts, steps = np.bincount(came, minlength=hours), summed(periods.steps.astype(float))
    return [
        SimulatedHour(
            each * HOUR_S,
            float(lasting_s[each]),
            int(counts[each]),
            round(float(steps[each])),
            busy_share[each],
            running_mean[each],
            power_w[each],
            _times(part, came == each),
        )
        for each in range(hours)
    ]


def _times(part: FleetPart, chosen: NDArray[np.bool_]) -> dict[str, SimulatedFigure]:
    """Figures of the times of some requests, with the profile's doubt."""
    several = chosen & (part.simulated.requests.output_tokens > 1)
    more = several[part.simulated.requests.output_tokens > 1]
    times = {
        quantity: values[more] if quantity == "tpot" else values[chosen]
        for quantity, values in part.simulated.times().items()
    }
    return {name: part.doubted(name, figure) for name, figure in times_figures(times).items()}
