"""Several systems that serve one stream of requests: who gets which is given, what becomes of it is simulated. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.served.engine import Engine
from harness.serving.simulated_doubt import LEVELS, SpeedDoubt, values_of
from harness.serving.simulated_figures import BATCHES, SimulatedFigure, mean_figure, quantile_figure, ratio_figure
from harness.serving.simulated_queue import OneByOne
from harness.serving.simulation import Requests, Simulated, alone_s, simulate

HOUR_S = 3600.0
_MOST_PERIODS = 100_000
_GROWTH_TAIL = 3.0
"""How many standard deviations of a Poisson count the requests in the system must grow by to count as growing."""


@dataclass(frozen=True)
class FleetSystem:
    """Replicas of one engine, and how sure its costs are."""

    label: str
    engine: Engine | OneByOne
    replicas: int = 1
    seconds_ci95: float | None = None
    """Relative half-width of the 95 % interval of all its seconds; None where nobody knows it."""
    joules_ci95: float | None = None
    """The same of its joules."""
    idle_power_ci95_w: float | None = None
    off_when_idle: bool = False
    """Whether a replica draws nothing while nothing is in it, and is back at once when something comes."""

    @property
    def idle_power_w(self) -> float | None:
        """That a replica draws while nothing is in it; None where it is not known."""
        return 0.0 if self.off_when_idle else self.engine.idle_power_w


@dataclass(frozen=True)
class FleetPart:
    """What one system did with its requests."""

    system: FleetSystem
    simulated: Simulated
    duration_s: float
    """How long its replicas were on: from the fleet's first arrival to its last end."""
    sampled: bool
    """Whether the requests are a draw, so that sums over them vary; those of a trace are what they are."""

    @cached_property
    def figures(self) -> dict[str, SimulatedFigure]:
        """As ``values_of``, and ``power_w``, ``energy_request_j`` and ``energy_output_token_j``.

        Intervals of times hold the chance of another draw of such requests, all hold the profile's doubt.
        """
        found = times_figures(self.simulated.times())
        whole = values_of(self.simulated, self.duration_s, self.system.idle_power_w)
        found |= {name: self._over_time(name, whole[name]) for name in ("busy_share", "running_mean")}
        if "energy_j" in whole:
            found |= {name: self._over_time(name, whole["energy_j"] / per) for name, per in self._shares().items()}
        return {name: _within_bounds(name, self.doubted(name, figure)) for name, figure in found.items()}

    def _shares(self) -> dict[str, float]:
        """What the energy is divided by in each of its figures."""
        requests = self.simulated.requests
        return {
            "energy_j": 1.0,
            "power_w": self.duration_s,
            "energy_request_j": float(requests.arrival_s.size),
            "energy_output_token_j": float(requests.output_tokens.sum()),
        }

    def in_proportion(self, name: str, values: Floats) -> list[SimulatedFigure]:
        """Parts of the figure ``name`` of all requests, each with the profile's doubt in the whole."""
        whole = values_of(self.simulated, self.duration_s, self.system.idle_power_w)[name]
        doubted = self.doubted(name, SimulatedFigure(whole, whole, whole))
        factors = [(value / whole if whole else 0.0) for value in values.tolist()]
        return [_within_bounds(name, doubted.times(factor)) for factor in factors]

    @property
    def piled_up(self) -> bool:
        """Whether ever more requests waited while they came: their times then depend on how long that went on."""
        arrival, start, end = self.simulated.requests.arrival_s, self.simulated.start_s, self.simulated.end_s
        first, last = float(arrival[0]), float(arrival[-1])
        third = (last - first) / 3
        if not third:
            return False
        early, late = (
            float((np.clip(end, at, at + third) - np.clip(arrival, at, at + third)).sum() / third)
            for at in (first, last - third)
        )
        grown = late - early
        return grown > _GROWTH_TAIL * math.sqrt(early + 1) and 2 * float((start > last).sum()) > grown

    def _over_time(self, name: str, value: float) -> SimulatedFigure:
        """A mean over time or requests, or a sum over as many requests, with the spread between parts of the time in
        which they came."""
        if not self.sampled:
            return SimulatedFigure(value, value, value)
        found, requests = self.simulated, self.simulated.requests
        periods, came_s = found.periods, requests.arrival_s - found.origin_s
        whole = int(came_s[-1] / periods.period_s)
        if whole < 2 * BATCHES:
            return SimulatedFigure(value, None, None)
        idle_w = self.system.idle_power_w or 0.0
        joules = periods.joules + idle_w * (self.system.replicas * periods.period_s - periods.busy_s)
        amounts = {"busy_share": periods.busy_s, "running_mean": periods.running}.get(name, joules)[:whole]
        place = np.minimum((came_s / periods.period_s).astype(np.intp), whole)
        per: Floats = np.ones(whole)
        if name == "energy_output_token_j":
            per = _sums(place, requests.output_tokens, whole)
        elif name in ("energy_j", "energy_request_j"):
            per = _sums(place, np.ones(place.size), whole)
        spread = ratio_figure(amounts, per)
        return spread.times(value / spread.value) if spread.value else SimulatedFigure(value, value, value)

    @cached_property
    def _speed(self) -> SpeedDoubt | None:
        doubt = self.system.seconds_ci95
        return None if doubt is None else SpeedDoubt.of(self.simulated, doubt, self.system.idle_power_w)

    def doubted(self, name: str, figure: SimulatedFigure) -> SimulatedFigure:
        """A figure with the profile's doubt: of speed and, of energy, of joules and idle power."""
        if self._speed is None:
            return SimulatedFigure(figure.value, None, None)
        per = self._shares().get(name)
        figure = figure.widened(*self._speed.distances(name if per is None else "energy_j", figure.value))
        if per is None:
            return figure
        joules, idle_w = self.system.joules_ci95, self.system.idle_power_ci95_w
        idle_s = self.simulated.idle_s(self.duration_s)
        if joules is None or (idle_w is None and self.system.idle_power_w and idle_s):
            return SimulatedFigure(figure.value, None, None)
        of_steps = joules * (self.simulated.joules or 0.0) / per
        of_idle = 0.0 if self.system.off_when_idle else (idle_w or 0.0) * idle_s / per
        return figure.widened(math.hypot(of_steps, of_idle), math.hypot(of_steps, of_idle))


def times_figures(times: Mapping[str, Floats]) -> dict[str, SimulatedFigure]:
    """Mean and percentiles of times by quantity, in order of arrival; nothing for a quantity without any."""
    found: dict[str, SimulatedFigure] = {}
    for quantity, values in times.items():
        if values.size:
            found[f"{quantity}_mean_s"] = mean_figure(values)
            found |= {f"{quantity}_p{100 * level:g}_s": quantile_figure(values, level) for level in LEVELS}
    return found


def _sums(place: NDArray[np.intp], values: ArrayLike, count: int) -> Floats:
    """Sums of values by the first so many places."""
    return np.asarray(np.bincount(place, np.asarray(values), count)[:count], dtype=np.float64)


def _within_bounds(name: str, figure: SimulatedFigure) -> SimulatedFigure:
    """Nothing is busy for more than all of its time."""
    return replace(figure, high=min(1.0, figure.high)) if name == "busy_share" and figure.high is not None else figure


@dataclass(frozen=True)
class SimulatedFleet:
    """What became of a stream of requests."""

    requests: Requests
    parts: tuple[FleetPart | None, ...]
    """By system; None for one that got no request."""
    systems: tuple[FleetSystem, ...]
    unserved: int
    """Requests that no system serves."""
    duration_s: float
    """From the first arrival to the last end."""

    def energy_j(self) -> SimulatedFigure | None:
        """Of all systems, whose doubts are independent; one without requests is off. None where one's isn't known."""
        found = [part.figures.get("energy_j") for part in self.parts if part is not None]
        known = [figure for figure in found if figure is not None]
        if len(known) < len(found):
            return None
        value = sum(figure.value for figure in known)
        lows, highs = [figure.low for figure in known], [figure.high for figure in known]
        if None in lows or None in highs:
            return SimulatedFigure(value, None, None)
        below, above = (
            math.hypot(*(end - figure.value for end, figure in zip(ends, known, strict=True) if end is not None))
            for ends in (lows, highs)
        )
        return SimulatedFigure(value, value, value).widened(below, above)


def simulate_fleet(
    systems: Sequence[FleetSystem], requests: Requests, choice: NDArray[np.intp], *, sampled: bool
) -> SimulatedFleet:
    """Send each request to the system that ``choice`` has the position of, −1 for none.

    ``sampled`` is as in ``FleetPart``. Raises UserError as ``simulate`` does, and where no request is served.
    """
    if not (choice >= 0).any():
        raise UserError("no request is served by any of these systems")
    first = float(requests.arrival_s[0])
    period_s = _period_s(systems, requests)
    found = []
    for position, system in enumerate(systems):
        own = choice == position
        try:
            part = simulate(system.engine, requests.part(own), system.replicas, period_s, first) if own.any() else None
        except UserError as error:
            raise UserError(f"{system.label}: {error}") from None
        found.append(part)
    duration_s = max(float(one.end_s.max()) for one in found if one) - first
    parts = tuple(
        None if one is None else FleetPart(system, one, duration_s, sampled)
        for system, one in zip(systems, found, strict=True)
    )
    return SimulatedFleet(requests, parts, tuple(systems), int((choice < 0).sum()), duration_s)


def _period_s(systems: Sequence[FleetSystem], requests: Requests) -> float:
    """So short that there are enough periods while requests come to see how they vary, but not too many if they wait
    for each other for long; a whole number of them is an hour."""
    longest_s = max(float(alone_s(system.engine, requests).sum()) for system in systems)
    came_s = float(requests.arrival_s[-1] - requests.arrival_s[0])
    wanted = math.ceil(2 * (BATCHES + 1) * HOUR_S / came_s) if came_s > 0 else 1
    return HOUR_S / max(1, min(wanted, math.floor(_MOST_PERIODS * HOUR_S / (came_s + longest_s))))
