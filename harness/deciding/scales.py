"""What makes joules and seconds one cost, U = λE + (1 − λ)R. What can't raises UserError. Pure."""

from dataclasses import dataclass

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError

JOULES_PER_KWH = 3.6e6
SECONDS_PER_HOUR = 3600.0

Prices = tuple[float, float]
"""Per kWh and per machine-hour."""


@dataclass(frozen=True)
class Scales:
    """Turns energy and runtime into one cost: U = energy_weight·E + runtime_weight·R."""

    name: str
    """``reference``, ``price`` or ``none``."""
    energy_weight: float
    """Cost per joule, λ included."""
    runtime_weight: float
    """Cost per second, 1 − λ included."""
    energy_reference_j: float | None = None
    """Mean energy of a request on the reference system; None for other scales."""
    runtime_reference_s: float | None = None

    @property
    def weight(self) -> float | None:
        """λ; None where prices weigh energy against time."""
        return None if self.name == "price" else round(self.energy_weight * (self.energy_reference_j or 1.0), 12)

    def cost(self, energy_j: Floats, runtime_s: Floats) -> Floats:
        """U of arrays of equal shape."""
        return self.energy_weight * energy_j + self.runtime_weight * runtime_s


def raw_scales(weight: float) -> Scales:
    """The published formula as it stands: λ joules + (1 − λ) seconds."""
    return Scales("none", _checked_weight(weight), 1 - weight)


def reference_scales(weight: float, energy_j: Floats, runtime_s: Floats, count: Floats) -> Scales:
    """λ·E/Ē + (1 − λ)·R/R̄ with the workload means Ē and R̄ of one system; arrays have one entry per pair."""
    energy = float(np.average(energy_j, weights=count))
    runtime = float(np.average(runtime_s, weights=count))
    if not (energy > 0 and runtime > 0):
        raise UserError("the reference system must have positive mean energy and runtime")
    return Scales("reference", _checked_weight(weight) / energy, (1 - weight) / runtime, energy, runtime)


def price_scales(price_per_kwh: float, price_per_hour: float) -> Scales:
    """Money or carbon: the prices weigh energy against time, so there is no λ."""
    if min(price_per_kwh, price_per_hour) < 0 or price_per_kwh + price_per_hour <= 0:
        raise UserError("prices must be at least 0 and not both 0")
    return Scales("price", price_per_kwh / JOULES_PER_KWH, price_per_hour / SECONDS_PER_HOUR)


def _checked_weight(weight: float) -> float:
    if not 0 <= weight <= 1:
        raise UserError("the weight of energy must lie between 0 and 1")
    return weight
