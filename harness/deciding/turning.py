"""At which ratio of the gains of two systems' meters the answer turns. Pure."""

import math
from dataclasses import dataclass

import numpy as np

from harness.deciding.costs import Costs
from harness.deciding.scales import Scales
from harness.deciding.threshold import KeyTotals


@dataclass(frozen=True)
class GainTurn:
    """What the meters' gains would have to be for another answer.

    The ratio is that of true to read energy on the small system, divided by the same on the large one: 1 where both
    meters are right, 1.1 where the small system's reads a tenth too little against the large one's.
    """

    shared: bool
    """Whether the same sensors read both systems: then the ratio is 1."""
    ratio_ci95: float
    """Relative half-width of the ratio's 95 % interval, which is around 1."""
    turns_at: float | None
    """The ratio at which the saving vanishes, or where no threshold saves, the one below which a threshold would;
    None where there is no such ratio."""

    @property
    def plausible(self) -> bool:
        """Whether the ratio at which the answer turns lies within the interval."""
        return self.turns_at is not None and abs(self.turns_at - 1) <= self.ratio_ci95


def gain_turn(costs: Costs, totals: KeyTotals, scales: Scales, best: int) -> GainTurn:
    """The turn of the answer that ``best``, an index into the curve of the totals, is."""
    shared = costs.meter_of[1] == costs.meter_of[0]
    # What each threshold moves to the small system, there and where it comes from.
    small_j, large_j = np.cumsum(totals.energy_j, axis=-1)
    small_s, large_s = np.cumsum(totals.runtime_s, axis=-1)
    priced = scales.energy_weight * small_j
    spared = scales.cost(large_j, large_s) - scales.runtime_weight * small_s
    turns_at = None
    if scales.energy_weight > 0:
        ratio = spared / priced
        found = float(ratio[best - 1] if best else ratio.max())
        turns_at = found if found > 0 and math.isfinite(found) else None
    gains = [profile.gain_ci95(costs.components) or 0.0 for profile in costs.profiles]
    ratio_ci95 = 0.0 if shared else math.hypot(*gains)
    return GainTurn(shared, ratio_ci95, turns_at)
