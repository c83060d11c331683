"""Which size to measure next, and how right the fitted cost is by then. Pure.

Points alternate between the one that shrinks the error of the fitted cost most per second, over the sizes that matter,
and one drawn at random from them. The drawn ones alone say how right the fit is: each is predicted by the fit without
it, and they were chosen without regard to what was known. They have as many trials as it takes for noise not to hide
that error, in two visits. Everything follows from the seed and from what was seen, so that resuming a killed run is the
same as going on.

Every concurrency is fitted by itself, as ``fit`` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.sizes import Point
from harness.modelling.design import gains
from harness.modelling.drawn_error import Claim, Seen, fitted, held_out, observed, spread
from harness.modelling.fit import Observations
from harness.modelling.forms.base import DecodeContext, Sizes
from harness.modelling.interest import Interest

FEWEST_DRAWN = 8
"""Drawn points below which nothing is said of the error, …"""
NOISE_SHARE = 0.75
"""Noise that the mean at a drawn point may have, over the error asked for: more would hide what the fit's error is."""
MOST_TRIALS = 20
"""Of a drawn point, …"""
MOST_S = 20.0
"""… and seconds that they may take."""
VISITED_AGAIN = 6
"""Points after which a drawn one is visited again."""
FEWEST_AT_A_LEVEL = 3
"""… and those of each concurrency."""
QUANTITIES = ("runtime_s", "energy_j")
"""What must be right, where it is measured; by their names in ``Seen.trials``."""
FIRST = ((0.0, 0.0), (1.0, 0.1), (0.5, 0.5), (0.8, 0.3), (0.2, 0.6))
"""Where the first points lie between the least and the largest m and n on log axes: well spread, and cheap."""


@dataclass(frozen=True)
class Proposal:
    """What to measure next."""

    point: Point
    drawn: bool
    """Whether it was drawn at random: then it counts towards the error. Hand it back in ``Seen``."""
    trials: int
    """Number of trials to run; of a drawn point in two visits, see ``trials_by_now``."""


def trials_by_now(proposed: Proposal, later: int) -> int:
    """Of a proposed point's trials, those that it should have once so many ``later`` points were proposed.

    A drawn one is visited twice: a machine that drifts has moved on by then, so that the spread of its trials tells
    that too.
    """
    return proposed.trials if not proposed.drawn or later >= VISITED_AGAIN else (proposed.trials + 1) // 2


@dataclass(frozen=True)
class Reached:
    """How right the fitted costs are."""

    claims: Mapping[str, Claim]
    """By quantity."""
    drawn: int
    """Number of drawn points behind it."""

    @property
    def quantity(self) -> str:
        """The one that is least right."""
        return max(self.claims, key=lambda name: self.claims[name].stated)

    @property
    def error(self) -> float:
        """The claim of that one, to be compared with the error asked for: relative, a mean over the sizes."""
        return self.claims[self.quantity].stated


@dataclass(frozen=True)
class Visit:
    """What measuring one point consists of, to know how long it takes."""

    warmup_s: float = 1.0
    warmup_requests: int = 2
    trial_s: float = 1.0
    trial_requests: int = 1
    trials: int = 2
    """Two tell the noise, …"""
    long_s: float = 5.0
    """… but one is enough of a request that takes so long: others tell its noise, and it would cost most."""
    pause_s: float = 0.1
    """Between two windows."""

    def seconds(self, request_s: Floats) -> Floats:
        """How long it takes at sizes whose requests take ``request_s``."""
        warmup = self.warmups_of(request_s) * request_s
        trial = np.ceil(np.maximum(self.trial_requests, self.trial_s / request_s)) * request_s
        trials = self.trials_of(request_s)
        return np.asarray(warmup + trials * trial + (1 + trials) * self.pause_s)

    def warmups_of(self, request_s: Floats) -> Floats:
        """Requests before the first trial of a visit; one is enough where it takes long."""
        fewest = np.where(request_s >= self.long_s, min(1, self.warmup_requests), self.warmup_requests)
        return np.ceil(np.maximum(fewest, self.warmup_s / request_s))

    def trials_of(self, request_s: Floats) -> NDArray[np.int64]:
        """Number of trials of a point whose requests take so long."""
        return np.where(request_s >= self.long_s, min(1, self.trials), self.trials)


@dataclass(frozen=True, eq=False)
class Search:
    """Chooses sizes for one system. Holds no state: it is asked with all that was seen, in order."""

    interest: Interest
    kv_cache: bool
    seed: int = 0
    visit: Visit = field(default_factory=Visit)
    decode_context: DecodeContext = "grows"
    error: float = 0.02
    """The error asked for."""

    def next(self, seen: Sequence[Seen]) -> Proposal | None:
        """The next point, one that was not proposed before; None where none is left.

        Sizes that need at least what was too large are avoided. Where everything fails, none is left either.
        """
        interest = self.interest.without([each.point for each in seen if each.outcome == "too large"], self.kv_cache)
        hopeless = len(seen) >= len(FIRST) and all(each.outcome == "failed" for each in seen)
        if interest is None or hopeless:
            return None
        level = min(interest.levels, key=lambda c: sum(each.point.concurrency == c for each in seen))
        interest, taken = interest.at(level), {each.point for each in seen}
        here = self._at(level, seen)
        if len(here) < len(FIRST):
            point, draws = self._first(interest, FIRST[len(here)], taken), False
        elif draws := 2 * sum(each.drawn for each in here) <= len(here) - len(FIRST):
            point = interest.draw(self.seed, taken)
        else:
            point = self._best(interest, here, taken)
        return None if point is None else Proposal(point, draws, self.trials(point, draws, seen))

    def trials(self, point: Point, drawn: bool, seen: Sequence[Seen]) -> int:
        """Number of trials of a point proposed after what was seen."""
        here = self._at(point.concurrency, seen)
        known = {name: found for name in QUANTITIES if (found := observed(here, name)) is not None}
        if len(here) < len(FIRST) or "runtime_s" not in known:
            return self.visit.trials
        at = Sizes(np.array([float(point.input_tokens)]), np.array([float(point.output_tokens)]))
        costs = {name: self._cost(found, at) for name, found in known.items()}
        fewest = int(self.visit.trials_of(np.array([costs["runtime_s"]]))[0])
        if not drawn:
            return fewest
        noise = max(spread(here, name, costs[name]) for name in known)
        wanted = math.ceil((noise / (NOISE_SHARE * self.error)) ** 2)
        most = max(fewest, min(MOST_TRIALS, math.ceil(MOST_S / costs["runtime_s"])))
        return min(max(fewest, wanted), most)

    def _cost(self, known: Observations, at: Sizes) -> float:
        solution, _ = fitted(known, self.kv_cache, self.decode_context)
        return max(float(solution.form.cost(solution.theta, at)[0]), 1e-9)

    def reached(self, seen: Sequence[Seen]) -> Reached | None:
        """How right the costs fitted to what was seen are; None before enough points were drawn and measured.

        What was seen since the last drawn point is left out: whoever looks after every point and stops at the first
        good one would find a lucky moment more often.
        """
        drawn_at = [at for at, each in enumerate(seen, 1) if each.drawn and each.outcome == "ok"]
        seen = seen[: max(drawn_at, default=0)]
        levels = [self._at(level, seen) for level in self.interest.levels]
        drawn = [sum(each.drawn for each in here) for here in levels]
        if sum(drawn) < FEWEST_DRAWN or min(drawn) < FEWEST_AT_A_LEVEL:
            return None
        shares = [float(self.interest.weight[self.interest.c == level].sum()) for level in self.interest.levels]
        claims = {}
        for name in QUANTITIES:
            parts = [held_out(here, name, self.kv_cache, self.decode_context) for here in levels]
            if min(errors.size for errors, _ in parts) >= FEWEST_AT_A_LEVEL:
                weights = [np.full(e.size, share / e.size) for (e, _), share in zip(parts, shares, strict=True)]
                errors, noises = (np.concatenate(column) for column in zip(*parts, strict=True))
                claims[name] = Claim.of(errors, noises, np.concatenate(weights))
        return Reached(claims, sum(drawn)) if claims else None

    @staticmethod
    def _at(level: int, seen: Sequence[Seen]) -> list[Seen]:
        """What was measured at a concurrency."""
        return [each for each in seen if each.point.concurrency == level and each.outcome == "ok"]

    @staticmethod
    def _first(interest: Interest, where: tuple[float, float], taken: set[Point]) -> Point | None:
        """The candidate nearest to a place between the least and the largest sizes."""
        free = interest.candidates(taken)
        if not free:
            return None
        at = np.log([[point.input_tokens, point.output_tokens] for point in free])
        low, high = (np.log([f(interest.m), f(interest.n)]) for f in (np.min, np.max))
        wanted = low + np.asarray(where) * (high - low)
        return free[int(np.argmin(np.square(at - wanted).sum(axis=1)))]

    def _best(self, interest: Interest, here: Sequence[Seen], taken: set[Point]) -> Point | None:
        """The candidate that shrinks the error most per second, of the quantity for which it does so most."""
        free = interest.candidates(taken)
        if not free:
            return None
        at = Sizes(*np.array([(point.input_tokens, point.output_tokens) for point in free], dtype=float).T)
        gain, request_s = np.zeros(len(free)), np.ones(len(free))
        for name in QUANTITIES:
            observations = observed(here, name)
            if observations is None:
                continue
            solution, rows = fitted(observations, self.kv_cache, self.decode_context)
            if name == "runtime_s":
                request_s = np.maximum(solution.form.cost(solution.theta, at), 1e-4)
            of_quantity = gains(solution, rows, at, interest.sizes, interest.weight)
            gain = np.maximum(gain, of_quantity)
        return free[int(np.argmax(gain / self.visit.seconds(request_s)))]
