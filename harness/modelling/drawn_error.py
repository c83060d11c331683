"""How right a fitted cost is, told by points that were drawn at random: each predicted by the fit without it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from harness.core.arrays import Floats
from harness.core.sizes import Point
from harness.modelling.candidates import best_candidate
from harness.modelling.fit import Observations, equations
from harness.modelling.forms.base import DecodeContext, Sizes
from harness.modelling.forms.phase import Phase
from harness.modelling.least_squares import Rows, Solution
from harness.modelling.measurements import observations
from harness.modelling.profile_schema import Measurement, Statistic
from harness.modelling.scatter import Spreads, fit_scatter

CONFIDENCE = 0.9
MOST_DOUBT = 1.5
"""Of the log of a mean square."""
HOPELESS = 1.5
"""Predicted error of a form, over that of the best one, beyond which it isn't tried again without each point."""
Outcome = Literal["ok", "failed", "too large"]
"""``too large``: out of memory or time, as any size will that needs at least as much."""


@dataclass(frozen=True)
class Seen:
    """A point that was proposed, and what came of it."""

    point: Point
    drawn: bool
    """As proposed."""
    trials: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Measured quantities by name (``runtime_s``, ``energy_j``, and their phases as in ``stopping.Samples``), one value
    per counted trial that has it."""
    spent_s: float = 0.0
    """Seconds from the proposal to the last trial's end, warm-up included."""
    ci95: Mapping[str, float] = field(default_factory=dict)
    """Half-width of the 95 % interval that sensors leave in one trial, however often it is repeated, by quantity."""
    outcome: Outcome = "ok"


@dataclass(frozen=True)
class Claim:
    """How right the fitted cost of one quantity is: relative, over the sizes that matter."""

    error: float
    """Root mean square of the leave-one-out errors at the drawn points, the noise of their trials taken off. Squares of
    independent errors add up, so that this leaves the fit's; the mean of its absolute errors is no larger."""
    stated: float
    """The same plus its doubt, what is claimed: the error lies below it with ``CONFIDENCE``."""

    @property
    def doubt(self) -> float:
        """What is added to the error."""
        return self.stated - self.error

    @classmethod
    def of(cls, errors: Floats, noises: Floats, weights: Floats) -> Claim:
        """From relative errors at drawn points, the noise of the means there, and what each point stands for.

        One standard error would be passed once in six times, and more often by whoever stops at the first good one:
        Student's quantile takes its place. It is taken to the log of the mean square: of few squares that is skewed.
        """
        weight = weights / weights.sum()
        mean, noise = float(weight @ errors**2), float(weight @ noises**2)
        if mean == 0:
            return cls(0.0, 0.0)
        left = errors**2 - noises**2
        sampling = np.sqrt(np.sum(np.square(weight * (left - weight @ left))) * left.size / (left.size - 1))
        doubt = float(stdtrit(left.size - 1, CONFIDENCE) * sampling)
        highest = mean * math.exp(min(doubt / mean, MOST_DOUBT)) - noise
        # However much noise is taken off, what is left isn't known better than that.
        return cls(math.sqrt(max(0.0, mean - noise)), math.sqrt(max(highest, doubt)))


def observed(seen: Sequence[Seen], name: str) -> Observations | None:
    """What was seen of ``runtime_s`` or ``energy_j`` at one concurrency, as a fit takes it; None where nothing was."""
    measured = [_measurement(each) for each in seen if each.trials.get("runtime_s")]
    return observations(measured, "runtime" if name == "runtime_s" else "energy")


def fitted(observed: Observations, kv_cache: bool, decode_context: DecodeContext) -> tuple[Solution, Rows]:
    """The phase form fitted to all points, and the equations behind it."""
    rows = equations(observed)
    candidates = [form.attending(decode_context) for form in Phase.candidates(kv_cache)]
    return best_candidate(candidates, rows, {}).solution, rows


def held_out(seen: Sequence[Seen], name: str, kv_cache: bool, decode_context: DecodeContext) -> tuple[Floats, Floats]:
    """Relative error at each drawn point by the fit without it, and the noise of its mean; one concurrency.

    The noise is that of the point's own trials alone, 0 of a single one: unbiased, where what others say of it need
    not be, and an error that is explained by too much noise would be hidden.
    """
    of = [each for each in seen if each.trials.get("runtime_s") and each.trials.get(name)]
    known = observed(of, name)
    drawn = np.flatnonzero([each.drawn for each in of])
    if known is None or not drawn.size:
        return np.empty(0), np.empty(0)
    candidates = [form.attending(decode_context) for form in Phase.candidates(kv_cache)]
    rows = equations(known)
    whole = best_candidate(candidates, rows, {})
    best = min(rival.predicted_error for rival in whole.rivals)
    # One point less makes no form the best that is so far off.
    candidates = [
        form
        for form, rival in zip(candidates, whole.rivals, strict=True)
        if form == form.plain or rival.predicted_error <= HOPELESS * best
    ]
    errors = []
    for point in drawn.tolist():
        solution = best_candidate(candidates, rows.without(point), whole.starts).solution
        at = Sizes(known.input_tokens[[point]], known.output_tokens[[point]])
        errors.append(float(solution.form.cost(solution.theta, at)[0] / known.cost[point] - 1))
    return np.array(errors), np.array([_noise(of[point].trials[name]) for point in drawn])


def spread(seen: Sequence[Seen], name: str, cost: float) -> float:
    """Relative standard deviation of the trials of a point that costs so much, told by those of all points; 0 where no
    point has two."""
    trials = [np.asarray(each.trials[name]) for each in seen if len(each.trials.get(name, ())) > 1]
    if not trials:
        return 0.0
    columns = zip(*((t.mean(), t.std(ddof=1), t.size - 1.0) for t in trials), strict=True)
    scatter = fit_scatter(Spreads(*map(np.array, columns)))
    return float(scatter.sd(np.array([cost]))[0]) / cost if scatter else 0.0


def _noise(trials: Sequence[float]) -> float:
    """Relative standard error of the mean."""
    return float(np.std(trials, ddof=1) / np.mean(trials) / math.sqrt(len(trials))) if len(trials) > 1 else 0.0


def _measurement(seen: Seen) -> Measurement:
    n = seen.point.output_tokens
    return Measurement(
        input_tokens=float(seen.point.input_tokens),
        output_tokens=float(n),
        output_tokens_requested=n,
        trials=len(seen.trials["runtime_s"]),
        runtime_s=_statistic(seen, "runtime_s") or _missing(),
        prefill_s=_statistic(seen, "prefill_s"),
        decode_s=_statistic(seen, "decode_s"),
        energy_j=_statistic(seen, "energy_j"),
        prefill_energy_j=_statistic(seen, "prefill_energy_j"),
        decode_energy_j=_statistic(seen, "decode_energy_j"),
        component_energy_j={},
        component_prefill_energy_j={},
        component_decode_energy_j={},
        concurrency=seen.point.concurrency,
    )


def _missing() -> Statistic:
    raise ValueError("a point without a runtime")


def _statistic(seen: Seen, name: str) -> Statistic | None:
    values = np.asarray(seen.trials.get(name, ()), dtype=float)
    if not values.size or values.mean() <= 0:
        return None
    sd = float(values.std(ddof=1)) if values.size > 1 else None
    return Statistic(mean=float(values.mean()), sd=sd, trials=int(values.size), ci95=seen.ci95.get(name))
