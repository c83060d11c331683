"""A sensor's response to a load of known steps, as a model whose parameters' posterior is worked out on a grid. Pure.

A reading at an update is taken to be the power ``lag`` before it, averaged over ``averaging`` and passed through a
first-order low-pass of time constant ``filter``. All mean delays, spreads and mixtures of averaging and filter are
weighed by how well the load's known course, seen through them, explains the readings (a Bayesian posterior on a grid:
Gelman et al., Bayesian Data Analysis, 3rd ed., section 10.3), so that what the readings can't tell apart has a wide
interval.

The load's own behaviour isn't known exactly: its power may drift, warm up, ramp after a rise and hang on after a fall.
These are parts of the model with amplitudes of some tenths of the step (a Gaussian prior).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.energy.nodes import NS

_FINEST_CELL_S, _CELLS_A_PERIOD = 0.001, 50
_LONGEST_DELAY_S = 2.0
_MOST_UPDATES = 400
_SEEN = 10.0
"""Log-odds by which the load must explain the readings better than a drift does for its timing to be asked for."""
_OWN_S = (0.03, 0.1, 0.3)
"""Time constants of the load's own ramps after a rise and of what hangs on after a fall."""
_STAGES_S = (0.06, 0.15)
"""How long a second stage of a rise or a fall waits: boards raise their clocks late, and queued work runs out."""
_WARM_S = 2.0
_OWN_SHARE = 0.2
"""Standard deviation of the amplitude of each of those, as a share of the step."""
_BROAD = 30.0
_FIRST_NOISE = 0.05
"""Share of the step that the readings' noise is taken for before it is known."""
_UNSURE_FORM = 0.5
"""How much a reading counts, since the form of the load's own ramps is known only so well."""
_FINEST_SPREAD_S, _WIDEST_SPREAD_S = 0.0007, 1.0
_PURE_BOX, _PURE_FILTER = 0.4, 0.2
"""How likely a sensor only averages, or only filters, before anything is seen."""
_SHORT_SHARE = 0.05
_CLIMBS = 3
"""How many of the first grid's best models are looked around."""
_MOST_GRIDS = 8
"""How often the grid is closed in, or widened, until it fits what explains the readings."""
_POINTS = (18, 13, 6)
_NEGLIGIBLE = 12.0
"""Log-odds to the best beyond which a model is left out of the next, finer grid."""


@dataclass(frozen=True)
class LoadSteps:
    """How much of a load ran: ``levels[i]`` of it, 0 to 1, from ``times_ns[i]`` (CLOCK_MONOTONIC) to the next."""

    times_ns: NDArray[np.int64]
    """Shape (k,), rising."""
    levels: Floats
    """Shape (k,); before the first as at it."""

    @property
    def edges(self) -> int:
        """How often the load passed half of its height."""
        return int(np.count_nonzero(np.diff(self.levels > 0.5)))


_Axes = tuple[Floats, Floats, Floats]
"""Mean delays and spreads, in s, and mixes."""


class StepModel:
    """What explains the readings: a level, its drift, the load and its own ramps, all but the first two seen through
    a sensor with some mean delay, spread and shape."""

    def __init__(self, times_s: Floats, power_w: Floats, load: LoadSteps, origin_ns: int, step_w: float) -> None:
        """``times_s`` are those of updates after ``origin_ns``, ``power_w`` what they show in steps of ``step_w``."""
        use = slice(None, None, max(1, -(-times_s.size // _MOST_UPDATES)))
        self._times_s, self._power_w = times_s[use], power_w[use]
        edges_s = (load.times_ns - origin_ns) / NS
        self.cell_s = max(_FINEST_CELL_S, float(np.median(np.diff(self._times_s))) / _CELLS_A_PERIOD)
        # Spreads far below a period can't be told apart, and are not likelier for being many on a logarithmic grid.
        self._short_s = float(np.median(np.diff(self._times_s))) * _SHORT_SHARE
        self._start_s = min(float(self._times_s[0]), float(edges_s[0])) - 10.0 * self.cell_s
        cells = int((float(self._times_s[-1]) - self._start_s) / self.cell_s) + 2
        self._signals = _signals(load, edges_s, self._start_s + self.cell_s * np.arange(cells + 1, dtype=np.float64))
        middle = self._times_s - self._times_s.mean()
        self._plain = np.column_stack((np.ones_like(middle), middle / max(float(np.ptp(middle)), 1e-9)))
        self._scale_w = float(np.quantile(self._power_w, 0.95) - np.quantile(self._power_w, 0.05)) or 1.0
        own = self._signals.shape[1] - 1
        self._prior_w = self._scale_w * np.array([_BROAD, _BROAD, _BROAD, *[_OWN_SHARE] * own])
        self._centred = self._power_w - float(np.median(self._power_w))
        floor = max(step_w, 1e-4 * self._scale_w) ** 2 / 12.0
        self._floor = floor * self._times_s.size
        self._noise = (_FIRST_NOISE * self._scale_w) ** 2
        self._weight = 1.0

    def sees_step(self) -> bool:
        """Whether the load explains the readings far better than drift alone does."""
        axes = (
            np.arange(0.0, _LONGEST_DELAY_S, 0.01),
            np.geomspace(_FINEST_SPREAD_S, _WIDEST_SPREAD_S, 15),
            np.linspace(0.0, math.pi / 2.0, 4),
        )
        found = self._grid(axes)
        self._learn_noise(_highest(axes, found))
        slices = [((*axes[:2], axes[2][m : m + 1]), found[:, :, m : m + 1]) for m in range(axes[2].size)]
        starts = sorted((_highest(*each) for each in slices), key=self._height)
        self._best = max(map(self._climbed, starts[-_CLIMBS:]), key=self._height)
        self._learn_noise(self._best)
        plain = self._evidence_of(self._plain[None] * self._prior_w[:2])
        return self._height(self._best) - float(plain[0]) > _SEEN

    def posterior(self) -> tuple[_Axes, Floats]:
        """Delays, spreads and mixes that explain the readings, and the share of belief in each combination."""
        delay, spread, _ = self._best
        axes = (
            np.linspace(max(delay - 0.005, 0.0), delay + 0.005, _POINTS[0]),
            spread * np.geomspace(0.8, 1.25, _POINTS[1]),
            np.linspace(0.0, math.pi / 2.0, _POINTS[2]),
        )
        spreads = math.log(_FINEST_SPREAD_S), math.log(_WIDEST_SPREAD_S)
        found = self._grid(axes)
        for _ in range(_MOST_GRIDS):
            kept = found > found.max() - _NEGLIGIBLE
            before = axes
            axes = (
                _around(axes[0], kept.any(axis=(1, 2)), 0.0, _LONGEST_DELAY_S),
                np.exp(_around(np.log(axes[1]), kept.any(axis=(0, 2)), *spreads)),
                _around(axes[2], kept.any(axis=(0, 1)), 0.0, math.pi / 2.0),
            )
            found = self._grid(axes)
            if all(0.6 < np.ptp(now) / np.ptp(was) < 1.05 for now, was in zip(axes[:2], before[:2], strict=True)):
                break
        shares = np.exp(found - found.max())
        return axes, shares / shares.sum()

    def _climbed(self, start: tuple[float, float, float]) -> tuple[float, float, float]:
        """The most likely delay, spread and mix near a start."""
        from scipy.optimize import minimize

        mix = start[2]
        free = 0.0 < mix < math.pi / 2.0 - 1e-9  # a sensor that only averages, or only filters, stays one
        first: Floats = np.array([start[0], math.log(start[1]), mix])[: 3 if free else 2]

        def point(at: Floats) -> tuple[float, float, float]:
            return float(at[0]), math.exp(float(at[1])), float(at[2]) if free else mix

        def depth(at: Floats) -> float:
            return min(-self._height(point(at)), 1e9)

        span = np.vstack((first, first + np.diag([0.006, 0.3, 0.3])[: first.size, : first.size]))
        bounds = [(0.0, _LONGEST_DELAY_S), (math.log(_FINEST_SPREAD_S), math.log(_WIDEST_SPREAD_S)), (0.0, math.pi / 2)]
        settings = {"initial_simplex": span, "maxfev": 40 * first.size, "xatol": 1e-4, "fatol": 0.05}
        climb: Any = minimize
        climbed = climb(depth, first, method="Nelder-Mead", bounds=bounds[: first.size], options=settings)
        return point(climbed.x)

    def _height(self, at: tuple[float, float, float]) -> float:
        delay, spread, mix = (np.array([value]) for value in at)
        return float(self._grid((delay, spread, mix))[0, 0, 0])

    def _learn_noise(self, at: tuple[float, float, float]) -> None:
        """Take the noise from what a model leaves of the readings.

        Neighbouring readings err alike where they average over the same time: then they count for fewer.
        """
        residual = self._residual(*at)
        self._noise = (float(residual @ residual) + self._floor) / max(residual.size - self._prior_w.size, 1)
        alike = float(residual[1:] @ residual[:-1]) / max(float(residual @ residual), 1e-300)
        alike = min(max(alike, 0.0), 0.9)
        self._weight = _UNSURE_FORM * (1.0 - alike) / (1.0 + alike)

    def _grid(self, axes: _Axes) -> Floats:
        """Log posterior, up to a constant, of all combinations; shape (delays, spreads, mixes)."""
        delays_s, spreads_s, mixes = axes
        prior = _log_prior(mixes)
        found = np.full((delays_s.size, spreads_s.size, mixes.size), -np.inf)
        for s, spread_s in enumerate(spreads_s):
            for m, mix in enumerate(mixes):
                averaging_s, filter_s = shape_of(spread_s, mix)
                lags = delays_s - averaging_s / 2.0 - filter_s
                allowed = lags >= -self.cell_s
                if allowed.any():
                    seen = math.log(spread_s / (spread_s + self._short_s))
                    found[allowed, s, m] = prior[m] + seen + self._evidence(lags[allowed], averaging_s, filter_s)
        return found

    def _columns(self, lags_s: Floats, averaging_s: float, filter_s: float) -> Floats:
        """Load and its own ramps as the sensor would show them; shape (lags, updates, signals)."""
        signals = self._signals
        if filter_s > self.cell_s / 4.0:
            signals = _low_passed(signals.T, filter_s, self.cell_s).T
        total = np.cumsum(signals, axis=0) * self.cell_s
        box_s = max(averaging_s, self.cell_s)
        ends = (self._times_s[None, :] - lags_s[:, None] - self._start_s) / self.cell_s - 1.0
        return (_at(total, ends) - _at(total, ends - box_s / self.cell_s)) / box_s

    def _design(self, lags_s: Floats, averaging_s: float, filter_s: float) -> Floats:
        shown = self._columns(lags_s, averaging_s, filter_s)
        plain = np.broadcast_to(self._plain, (lags_s.size, *self._plain.shape))
        return np.concatenate((plain, shown), axis=2) * self._prior_w

    def _evidence(self, lags_s: Floats, averaging_s: float, filter_s: float) -> Floats:
        """Log marginal likelihood at each lag, amplitudes integrated out under their priors."""
        return self._evidence_of(self._design(lags_s, averaging_s, filter_s))

    def _evidence_of(self, design: Floats) -> Floats:
        gram = design.transpose(0, 2, 1) @ design + self._noise * np.eye(design.shape[2])
        along = self._centred @ design
        amplitudes = np.linalg.solve(gram, along[..., None])[..., 0]
        misfit = self._floor + float(self._centred @ self._centred) - np.einsum("li,li->l", along, amplitudes)
        count = self._centred.size
        occam = 0.5 * np.linalg.slogdet(gram / self._noise)[1]
        return np.asarray(
            -0.5 * self._weight * count * np.log(np.maximum(misfit, 1e-300)) - self._weight * occam, dtype=np.float64
        )

    def _residual(self, delay_s: float, spread_s: float, mix: float) -> Floats:
        """What one model leaves of the readings."""
        averaging_s, filter_s = shape_of(spread_s, mix)
        design = self._design(np.array([delay_s - averaging_s / 2.0 - filter_s]), averaging_s, filter_s)[0]
        gram = design.T @ design + self._noise * np.eye(design.shape[1])
        return np.asarray(self._centred - design @ np.linalg.solve(gram, design.T @ self._centred))


def _log_prior(mixes: Floats) -> Floats:
    """How likely each mixture is before anything is seen: many sensors only average, some only filter."""
    ends = np.where(mixes == 0.0, _PURE_BOX, np.where(mixes > math.pi / 2.0 - 1e-9, _PURE_FILTER, 0.0))
    between = ends == 0.0
    shared = (1.0 - _PURE_BOX - _PURE_FILTER) / max(int(between.sum()), 1)
    return np.log(np.where(between, shared, ends))


def shape_of(spread_s: float, mix: float) -> tuple[float, float]:
    """Averaging and filter whose response spreads power over so long, as a standard deviation; ``mix`` is an angle."""
    return math.sqrt(12.0) * spread_s * max(math.cos(mix), 0.0), spread_s * math.sin(mix)


def _at(total: Floats, cells: Floats) -> Floats:
    """Linear interpolation between rows at any positions; shape (*positions, columns)."""
    cells = np.clip(cells, 0.0, total.shape[0] - 1.001)
    whole = cells.astype(np.int64)
    part = (cells - whole)[..., None]
    return np.asarray(total[whole] * (1.0 - part) + total[whole + 1] * part)


def _signals(load: LoadSteps, edges_s: Floats, times_s: Floats) -> Floats:
    """The load, its ramps after rises, what hangs on after falls, and its warmth; shape (cells, signals)."""
    cell_s = float(times_s[1] - times_s[0])
    steps = np.concatenate(([0.0], np.cumsum(np.diff(edges_s) * load.levels[:-1])))
    run = np.interp(times_s, edges_s, steps)
    run += np.maximum(times_s - edges_s[-1], 0.0) * load.levels[-1]
    run += np.minimum(times_s - edges_s[0], 0.0) * load.levels[0]
    level = np.diff(run) / cell_s
    level -= level[0]  # what was there before is part of the level of the readings
    change = np.diff(level, prepend=0.0)
    rises, falls = np.maximum(change, 0.0), np.minimum(change, 0.0)
    signals = [level]
    for own_s in _OWN_S:
        # A ramp ends with the busy half in which it began, and what hangs on with the idle one.
        signals.append(_low_passed(rises, own_s, cell_s) * own_s / cell_s * level)
        signals.append(_low_passed(falls, own_s, cell_s) * own_s / cell_s * (1.0 - level))
    for stage_s in _STAGES_S:
        late = np.concatenate((np.zeros(round(stage_s / cell_s)), level))[: level.size]
        signals.append(level * (1.0 - late))
        signals.append((1.0 - level) * late)
    signals.append(_low_passed(level, _WARM_S, cell_s))
    return np.ascontiguousarray(np.array(signals).T)


def _low_passed(signals: Floats, constant_s: float, cell_s: float) -> Floats:
    """Means over the cells of signals through a first-order low-pass, along the last axis."""
    from scipy.signal import lfilter  # takes a third of a second to import

    keep = math.exp(-cell_s / constant_s)
    half = (1.0 - keep) / 2.0
    return np.asarray(lfilter([half, half], [1.0, -keep], signals, axis=-1), dtype=np.float64)


def _highest(axes: _Axes, found: Floats) -> tuple[float, float, float]:
    at = np.unravel_index(int(np.argmax(found)), found.shape)
    delay, spread, mix = (float(axis[int(place)]) for axis, place in zip(axes, at, strict=True))
    return delay, spread, mix


def _around(axis: Floats, kept: NDArray[np.bool_], lowest: float, highest: float) -> Floats:
    """An axis over what is kept of one with a step to spare on either side, twice as long where its end is kept."""
    at = np.flatnonzero(kept)
    step = float(axis[1] - axis[0])
    reach = float(axis[-1] - axis[0])
    low = float(axis[at[0]]) - (reach if at[0] == 0 else step)
    high = float(axis[at[-1]]) + (reach if at[-1] == axis.size - 1 else step)
    return np.linspace(max(low, lowest), min(high, highest), axis.size)
