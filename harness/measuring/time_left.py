"""How long the rest of a run takes, learned from what its trials have taken so far. Pure.

A trial takes its window and what lies around it: starting, waiting for the last readings, writing. Windows follow from
the seconds of a request and from how long those of the run have lasted, against what the meter's kind lets expect.
The seconds of sizes not measured yet come from the phases of those measured: a constant and a part that grows with the
tokens, held to the shape of the guess where too little is measured to tell. Each number of requests
in flight has curves of its own; until it has any, those of the nearest one stand for it, scaled by the guess.

A closed loop takes more than its window: before it until all requests are in flight, and after it until the last one
has ended. An open loop lasts as long as its arrivals.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.core.sizes import Point
from harness.measuring.plan import LENGTHS, WARM_LENGTHS, WARMUP_REQUESTS, WARMUP_S, Plan
from harness.measuring.schedule import DRIFT_TRIALS
from harness.measuring.stopping import FixedTrials
from harness.measuring.time_guess import RequestGuess, mean_length
from harness.measuring.window_length import most_requests, requests_at_least
from harness.runs.schema import Trial

_USUAL_SPREAD = 0.025
"""Relative standard deviation of a point's trials, until there are any."""
_WEIGHT_OF_GUESS = 0.07
"""The guess may be wrong by a factor of two, a mean of trials by 5 %."""
_RAMP_AND_DRAIN = 2.0
"""Lengths of a request by which a closed loop is longer than that, about one on each side."""

_Seconds = dict[float, list[float]]
"""By tokens, what trials took."""


def expected_requests(window_s: float, request_s: float, plan: Plan) -> int:
    """How many batches a window has when its meter needs ``window_s``, which is 0 without one."""
    wanted = max(requests_at_least(request_s, plan, metered=window_s > 0), math.ceil(window_s / request_s))
    return min(wanted, most_requests(request_s, plan))


@dataclass
class TimeLeft:
    """Feed it every trial, ask it how long the rest takes."""

    plan: Plan
    guess: RequestGuess
    window_s: float
    """What the meter needs of a trial's window to be as precise as the plan wants; 0 without one."""
    loop: bool = False
    """Whether requests are in flight in a closed loop, as with a server, and not as a static batch."""
    _trials: dict[Point, list[Trial]] = field(default_factory=dict)
    _around_s: dict[bool, list[tuple[float, float]]] = field(default_factory=lambda: {True: [], False: []})
    """Of this session's trials, warm-ups apart: seconds of the window, with a loop's ramp and drain, and in all."""
    _lasted: list[tuple[float, float]] = field(default_factory=list)
    """Of trials whose windows the meter may end: seconds that they lasted, and those that were expected."""
    _open_loops: int = 0
    _last: Point | None = None
    _first: Point | None = None
    _drifts: int = 0

    def add(self, trial: Trial, spent_s: float | None) -> None:
        """Learn from a trial that took ``spent_s`` in all; None for one of an earlier session."""
        if trial.purpose == "open loop":
            # Its requests had other sizes, and others beside them: it teaches nothing of a point.
            self._open_loops += trial.usable_load
            return
        point = trial.asked
        if trial.runtime_s is not None and trial.window_s is not None:
            self._trials.setdefault(point, []).append(trial)
            if spent_s is not None:
                edges_s = trial.load.ramp_s + trial.load.drain_s if trial.load else 0.0
                self._around_s[trial.purpose == "warmup"].append((trial.window_s + edges_s, spent_s))
        if trial.usable and trial.runtime_s and trial.window_s and self.window_s > 0:
            fewest = requests_at_least(trial.runtime_s, self.plan, metered=True)
            if (expected := expected_requests(self.window_s, trial.runtime_s, self.plan)) > fewest:
                self._lasted.append((trial.window_s, expected * trial.runtime_s))
        if trial.purpose == "drift":
            self._drifts += 1
        elif trial.usable:
            self._drifts = 0
            self._first = self._first or point
        self._last = point if spent_s is not None else None

    def left_s(self, remaining: Sequence[tuple[Point, int]], idle_s: float = 0.0) -> float:
        """Seconds until the run is complete: the remaining points, each with the trials that it has, the repeated first
        point, and ``idle_s`` for reading the idle power.
        """
        request_s = self._requests_s([point for point, _ in remaining])
        trials = self._trials_needed({point for point, _ in remaining})
        left_s = idle_s + self._open_loops_s()
        for point, done in remaining:
            more = max(1, trials(request_s[point]) - done)
            left_s += self._trials_s(request_s[point], more, warm=point == self._last)
        first = self._first or (remaining[0][0] if remaining else None)
        if first is not None and self._drifts < DRIFT_TRIALS:
            warm = not remaining and first == self._last
            left_s += self._trials_s(self._known_s(first) or request_s[first], DRIFT_TRIALS - self._drifts, warm)
        return left_s

    def point_s(self, point: Point) -> float:
        """Seconds of the trials of a point of which none is done yet."""
        request_s = self._requests_s([point])[point]
        return self._trials_s(request_s, self._trials_needed({point})(request_s), warm=False)

    def _trials_s(self, request_s: float, trials: int, warm: bool) -> float:
        spent_s = trials * self._spent_s(self._trial_s(request_s), warmup=False)
        return spent_s if warm else spent_s + self._spent_s(self._warmup_s(request_s), warmup=True)

    def _trial_s(self, request_s: float) -> float:
        """Seconds of a trial's window, and in a closed loop of what comes before and after it."""
        if self.loop:
            return self._loop_s(min(self._wanted_s(), self.plan.max_window_s), LENGTHS, request_s)
        lasted, expected = (sum(both) for both in zip(*self._lasted, strict=True)) if self._lasted else (1.0, 1.0)
        return request_s * expected_requests(self.window_s * lasted / expected, request_s, self.plan)

    def _warmup_s(self, request_s: float) -> float:
        window_s = min(WARMUP_S, self._wanted_s())
        if self.loop:
            return self._loop_s(window_s, WARM_LENGTHS, request_s)
        fewest = WARMUP_REQUESTS if request_s <= min(self.plan.warms_alone_s, self.plan.timeout_s / 2) else 1
        return request_s * max(fewest, math.ceil(window_s / request_s))

    def _wanted_s(self) -> float:
        """Seconds that windows of loops and warm-ups should reach."""
        return max(self.plan.min_window_s, self.window_s)

    def _loop_s(self, window_s: float, lengths: float, request_s: float) -> float:
        # No request begins after half the time limit.
        longest_s = max(self.plan.timeout_s / 2 - request_s, 0.0)
        return min(max(window_s, lengths * request_s), longest_s) + _RAMP_AND_DRAIN * request_s

    def _open_loops_s(self) -> float:
        """Seconds of the open loops still to come, their arrivals alone."""
        load = self.plan.open_loop
        if load is None:
            return 0.0
        lasts_s = max((arrival.offset_s for arrival in load.logged), default=load.duration_s)
        each = self.plan.stopping.max_trials if isinstance(self.plan.stopping, FixedTrials) else 1
        return lasts_s * max(each * len(load.loads) - self._open_loops, 0)

    def _spent_s(self, window_s: float, warmup: bool) -> float:
        """Seconds of a trial with such a window."""
        both = self._around_s[True] + self._around_s[False]
        # On a virtual clock windows take no time; on a real one no trial takes less than its window.
        pace = min(1.0, sum(spent for _, spent in both) / sum(window for window, _ in both)) if both else 1.0
        seen = self._around_s[warmup] or both
        around_s = statistics.median(spent - pace * window for window, spent in seen) if seen else 0.0
        return pace * window_s + max(around_s, 0.0)

    def _known_s(self, point: Point) -> float | None:
        """Mean seconds of a request at a point that has been measured."""
        trials = self._trials.get(point, [])
        counted = [trial for trial in trials if trial.purpose != "warmup"] or trials
        runtimes_s = [trial.runtime_s for trial in counted if trial.runtime_s is not None]
        return statistics.fmean(runtimes_s) if runtimes_s else None

    def _requests_s(self, points: Sequence[Point]) -> dict[Point, float]:
        """Seconds of a request at each point: as measured, or from the phases measured at others."""
        known = {point: request_s for point in points if (request_s := self._known_s(point))}
        foreseen: dict[Point, float] = {}
        for concurrency in {point.concurrency for point in points if point not in known}:
            unknown = [p for p in points if p not in known and p.concurrency == concurrency]
            foreseen |= self._foreseen_s(unknown, concurrency)
        return known | foreseen

    def _foreseen_s(self, points: Sequence[Point], concurrency: int) -> dict[Point, float]:
        """Seconds of a request at points with so many in flight, from the phases of those measured."""
        prefills, steps = self._phases()
        prefill_s = _curve_at(concurrency, prefills, self.guess.prefill_s, [point.input_tokens for point in points])
        step_s = _curve_at(concurrency, steps, self.guess.step_s, [mean_length(point) for point in points])
        return {
            point: prefill_s(point.input_tokens) + (point.output_tokens - 1) * step_s(mean_length(point))
            for point in points
        }

    def _phases(self) -> tuple[dict[int, _Seconds], dict[int, _Seconds]]:
        """By requests in flight, the seconds of each trial's prefill by input tokens and of its steps by length."""
        prefills: dict[int, _Seconds] = {}
        steps: dict[int, _Seconds] = {}
        for point, trials in self._trials.items():
            for trial in trials:
                if trial.prefill_s:
                    at = prefills.setdefault(point.concurrency, {})
                    at.setdefault(point.input_tokens, []).append(trial.prefill_s)
                if trial.decode_s and point.output_tokens > 1:
                    at = steps.setdefault(point.concurrency, {})
                    at.setdefault(mean_length(point), []).append(trial.decode_s / (point.output_tokens - 1))
        return prefills, steps

    def _trials_needed(self, remaining: set[Point]) -> Callable[[float], int]:
        """By the seconds of a request, the counted trials until a point is done: from the spread of those measured, and
        from how many those that are done have taken.
        """
        counted = {p: [t.runtime_s for t in ts if t.usable and t.runtime_s] for p, ts in self._trials.items()}
        spreads = [statistics.stdev(s) / statistics.fmean(s) for s in counted.values() if len(s) > 1]
        squares = [_USUAL_SPREAD**2, *(spread**2 for spread in spreads)]
        spread = math.sqrt(statistics.fmean(squares[1:] or squares))

        def by_rule(request_s: float) -> int:
            return _trials_by_rule(self.plan, request_s, spread)

        taken = [(len(s), by_rule(statistics.fmean(s))) for p, s in counted.items() if s and p not in remaining]
        ratio = (1 + sum(real for real, _ in taken)) / (1 + sum(ruled for _, ruled in taken))
        return lambda request_s: max(1, min(round(ratio * by_rule(request_s)), self.plan.stopping.max_trials))


def _trials_by_rule(plan: Plan, request_s: float, spread: float) -> int:
    """After how many trials the stopping rule is satisfied by runtimes of that mean and relative spread."""
    most = plan.stopping.max_trials
    # Alternating by the spread gives that standard deviation, apart from the last of an odd number.
    runtimes_s = [request_s * (1 + (spread if number % 2 else -spread)) for number in range(most)]
    return 1 + bisect(range(1, most), False, key=lambda count: plan.stopping.done({"runtime_s": runtimes_s[:count]}))


def _curve_at(
    concurrency: int,
    measured: Mapping[int, _Seconds],
    guess: Callable[[float, int], float],
    asked: Sequence[float],
) -> Callable[[float], float]:
    """Seconds by tokens with so many requests in flight: from those measured so, or with the nearest number."""
    near = min(measured, key=lambda other: abs(math.log(other / concurrency)), default=concurrency)
    curve = _curve(measured.get(near, {}), lambda size: guess(size, near), asked)
    if near == concurrency:
        return curve
    return lambda size: curve(size) * guess(size, concurrency) / guess(size, near)


def _curve(
    measured: Mapping[float, Sequence[float]], guess: Callable[[float], float], asked: Sequence[float]
) -> Callable[[float], float]:
    """Seconds by tokens: a + b · tokens near what was measured and, weakly, the scaled guess at the sizes asked for.

    Between sizes measured the curve passes through them; beyond them it keeps the last one's ratio to the line.
    """
    if not measured:
        return guess
    sizes = np.array(sorted(measured))
    seconds = np.array([statistics.fmean(measured[size]) for size in sizes])
    scale = float(np.median(seconds / [guess(size) for size in sizes]))
    hinted = np.array(asked, dtype=float)
    hints = scale * np.array([guess(size) for size in hinted])
    weights = np.concatenate([1 / seconds, _WEIGHT_OF_GUESS / hints])
    constant, slope = _line(np.concatenate([sizes, hinted]), np.concatenate([seconds, hints]), weights)
    ratios = np.log(seconds / (constant + slope * sizes))

    def at(size: float) -> float:
        ratio = math.exp(float(np.interp(math.log(size), np.log(sizes), ratios)))
        return ratio * (constant + slope * size)

    return at


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The a, b ≥ 0 of the a + b · x with the smallest weighted squares."""
    rows, wanted = np.column_stack([weights, weights * x]), weights * y
    (a, b), *_ = np.linalg.lstsq(rows, wanted, rcond=None)
    if a >= 0 and b >= 0:
        return float(a), float(b)
    column = rows[:, 1] if a < 0 else rows[:, 0]
    alone = float(column @ wanted / (column @ column))
    return (0.0, alone) if a < 0 else (alone, 0.0)
