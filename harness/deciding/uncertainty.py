"""How sure an answer is: intervals of savings, ratios and thresholds from draws of the totals behind them. Pure."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import exprel

from harness.core.arrays import Floats
from harness.deciding.scales import Scales
from harness.deciding.threshold import Curve, KeyTotals

_ROUNDING = 1e-12
"""Relative error of sums in different orders."""


@dataclass(frozen=True)
class Interval:
    """A value with a 95 % interval."""

    value: float
    low: float
    high: float
    known: bool = True
    """False where too much of it lies too far outside what was measured for its interval to hold."""

    @property
    def significant(self) -> bool:
        """Whether the interval holds and excludes 0."""
        return self.known and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Uncertainty:
    """What the draws say about one chosen threshold."""

    threshold_low: int
    threshold_high: int
    """95 % interval of the best threshold."""
    plateau_low: int
    plateau_high: int
    """Thresholds around the chosen one whose cost doesn't differ significantly from its own."""
    saving: Interval
    """Energy saved against the large system alone, as a fraction of it."""
    cost_saving: Interval
    """The same of the cost, which is what the threshold minimises."""
    runtime_ratio: Interval
    """Total runtime divided by that of the large system alone."""


@dataclass(frozen=True)
class SavingBand:
    """What every threshold does against the large system alone; arrays have one entry per threshold."""

    threshold: NDArray[np.int64]
    """Ascending from 0, which sends everything to the large system; at most about ``draws.GROUPS`` of them."""
    saving: Floats
    """Energy saved, as a fraction of what the large system alone needs."""
    saving_ci95: Floats
    """Half-width of its 95 % interval."""
    runtime_ratio: Floats
    """Total runtime divided by that of the large system alone."""
    runtime_ratio_low: Floats
    runtime_ratio_high: Floats
    """Ends of its 95 % interval."""


def threshold_uncertainty(
    totals: KeyTotals, draws: KeyTotals, chosen: int, scales: Scales, known: bool = True
) -> Uncertainty:
    """Intervals of what the threshold ``chosen`` does, from draws of the totals, shape (draws, 2, keys); ``known``
    is whether they hold.

    A threshold belongs to the plateau while the chosen one saves nothing significant against it. The saving
    is that of ``chosen`` on the workload it was chosen on, so it is a little optimistic: one number was fitted. Check a
    narrow saving on another trace. ``chosen`` must be 0 or one of the keys.
    """
    return curve_uncertainty(totals.curve, draws.curve, chosen, scales, known)


def curve_uncertainty(
    estimate: Curve, curve: Curve, chosen: int, scales: Scales, known: bool = True, against: int = 0
) -> Uncertainty:
    """The same from a curve and draws of it, shape (draws, thresholds). The saving is against the threshold that stands
    at ``against`` in them."""
    exact_cost, cost = (scales.cost(c.energy_j, c.runtime_s) for c in (estimate, curve))
    at = int(np.searchsorted(curve.threshold, chosen))
    drawn_best = curve.threshold[np.argmin(cost, axis=-1)]
    best_low, best_high = np.percentile(drawn_best, [2.5, 97.5], method="nearest").astype(int).tolist()
    saved, half = _saving_95(exact_cost[at], exact_cost, cost[:, [at]], cost)
    equal = saved <= half + _ROUNDING
    unequal = np.flatnonzero(~equal)
    # The unbroken run of equal ones around the chosen one lies between the nearest two that aren't.
    before, after = unequal[unequal < at], unequal[unequal > at]
    run = [before[-1] + 1 if before.size else 0, after[0] - 1 if after.size else equal.size - 1]
    plateau_low, plateau_high = curve.threshold[run].tolist()
    both = [at, against]
    saving, cost_saving = (
        replace(estimated_saving(exact[both], drawn[:, both]), known=known)
        for exact, drawn in ((estimate.energy_j, curve.energy_j), (exact_cost, cost))
    )
    runtime_ratio = estimated_ratio(estimate.runtime_s[both], curve.runtime_s[:, both])
    return Uncertainty(best_low, best_high, plateau_low, plateau_high, saving, cost_saving, runtime_ratio)


def saving_band(totals: KeyTotals, draws: KeyTotals) -> SavingBand:
    """Saving and runtime ratio at every threshold, from the totals and their draws, shape (draws, 2, keys).

    At the threshold that ``threshold_uncertainty`` is asked about, both say the same.
    """
    return curve_band(totals.curve, draws.curve)


def curve_band(exact: Curve, drawn: Curve, against: int = 0) -> SavingBand:
    """The same from a curve and draws of it, against the threshold that stands at ``against`` in them."""
    base = [against]
    saving = _saving_95(exact.energy_j, exact.energy_j[base], drawn.energy_j, drawn.energy_j[:, base])
    runtimes = exact.runtime_s, exact.runtime_s[base], drawn.runtime_s, drawn.runtime_s[:, base]
    return SavingBand(exact.threshold, *saving, *_ratio_95(*runtimes))


def estimated_saving(values: Floats, draws: Floats) -> Interval:
    """What the first of two totals saves of the second, as a fraction of it; ``draws`` has shape (draws, 2)."""
    value, half = (float(each) for each in _saving_95(values[0], values[1], draws[:, 0], draws[:, 1]))
    return Interval(value, value - half, value + half)


def _saving_95(first: Floats, second: Floats, drawn_first: Floats, drawn_second: Floats) -> tuple[Floats, Floats]:
    """1 − first / second and the half-width of its 95 % interval. Draws lie along the first axis.

    The error of the ratio is taken to first order: a draw whose second total is next to nothing would be any ratio. Of
    the interval on the logarithmic scale (see ``_ratio_95``) the longer side is stated, towards a smaller saving.
    """
    ratio = np.asarray(first / second)
    errors = (drawn_first - first - ratio * (drawn_second - second)) / second
    half = np.percentile(np.abs(errors), 95, axis=0)
    # What is left of an energy without its idle power may be next to nothing or less; then no error is relative.
    relative = np.divide(half, ratio, out=np.zeros(np.shape(half)), where=ratio > 0)
    return 1 - ratio, np.asarray(half * exprel(np.minimum(relative, 1.0)))


def estimated_ratio(values: Floats, draws: Floats) -> Interval:
    """The first of two positive totals divided by the second; ``draws`` has shape (draws, 2). See ``_ratio_95``."""
    value, low, high = (float(each) for each in _ratio_95(values[0], values[1], draws[:, 0], draws[:, 1]))
    return Interval(value, low, high)


def _ratio_95(first: Floats, second: Floats, drawn_first: Floats, drawn_second: Floats) -> tuple[Floats, ...]:
    """A ratio of positive totals with the ends of its 95 % interval, which is one on the logarithmic scale.

    The errors of the models are relative, and runtimes can't be negative: a drawn error of 20 % is taken as the factor
    exp(0.2). The interval is then positive however large the errors are, and 1/ratio has the inverse interval. For
    small errors it is the interval of the drawn ratios themselves; these go below 0, or anywhere, as soon as a
    normal error of more than about 50 % leaves less than nothing of a total. Draws lie along the first axis.
    """
    ratio = np.asarray(first / second)
    errors = drawn_first / first - drawn_second / second
    low, high = np.percentile(errors, [2.5, 97.5], axis=0)
    return ratio, ratio * np.exp(np.minimum(low, 0.0)), ratio * np.exp(np.maximum(high, 0.0))
