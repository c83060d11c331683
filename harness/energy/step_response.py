"""How a sensor follows a load whose steps are known: its period, lag, averaging and filter. Pure.

Readings around steps at random phases sample the response finer than the sensor's own period.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from harness.core.arrays import Floats
from harness.core.statistics import student_95
from harness.energy.nodes import NS, Unknown, unwrap
from harness.energy.readings import AS_IT_STANDS, Domain, Trace
from harness.energy.step_model import LoadSteps, StepModel

_FEWEST_UPDATES = 20
_FEWEST_EDGES = 2
_FEWEST_CHANGES = 6
_QUANTILE = 0.2
_STRETCHES = 12
"""Parts of a trace whose lengths tell how updates wander about their period."""
_AT_EACH_READ = 1.6
"""Changes that come no further apart than so many reads: every read is new."""
_SURE_PERIOD = 0.05
_SURE_DELAY, _SHORT_S = 0.25, 0.01
"""How sure a period must be, as a share of it, and a delay, as a share of the period or in s, to be taken over."""


@dataclass(frozen=True)
class Timing:
    """A time with the half-width of its 95 % interval, in s."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    value_s: Annotated[float, Ge(0.0)]
    ci95_s: Annotated[float, Ge(0.0)]


@dataclass(frozen=True)
class StepResponse:
    """What the steps of a load told of a sensor. What they don't tell is None; ``reason`` says why."""

    period: Timing | None = None
    """Between updates."""
    delay: Timing | None = None
    """From power to the update that shows it, on average: lag + averaging / 2 + filter."""
    lag: Timing | None = None
    """From the end of the averaging to the update."""
    averaging: Timing | None = None
    """Length of time whose mean a reading, or a counter's increment, tells."""
    filter: Timing | None = None
    """Time constant of a first-order low-pass."""
    seen: Timing | None = None
    """Of a counter's period the time in which it looks; None too where that is all of it as far as can be told."""
    reason: str | None = None


@dataclass(frozen=True)
class SensorCheck:
    """What is known of a sensor's timing and where from."""

    source: str
    """``measured 2026-…``, ``cached, measured 2026-…`` or ``stated by the probe``."""
    taken_over: bool = False
    """Whether the integration goes by what was measured: only where it is surer than what the probe states."""
    response: StepResponse = StepResponse()


@dataclass(frozen=True)
class _Updates:
    """A sensor's updates: their times after the first reading, and the mean power that each shows."""

    times_s: Floats
    power_w: Floats
    doubt_s: float
    """Median time between the reads that date an update."""
    period: Timing | None


def step_response(trace: Trace, load: LoadSteps) -> StepResponse:
    """What a domain's readings around the steps of a load tell of the sensor. They should reach beyond both ends."""
    try:
        updates = _updates_of(trace)
    except Unknown as unknown:
        return StepResponse(reason=str(unknown))
    if load.edges < _FEWEST_EDGES:
        return StepResponse(period=updates.period, reason="the load had no steps")
    if updates.times_s.size < _FEWEST_UPDATES:
        count = updates.times_s.size
        return StepResponse(
            period=updates.period, reason=f"{count} updates came under the load, too few for its timing"
        )
    step_w = trace.domain.resolution if trace.domain.kind == "power" else 0.0
    model = StepModel(updates.times_s, updates.power_w, load, int(trace.times_ns[0]), step_w)
    if not model.sees_step():
        return StepResponse(period=updates.period, reason="its power did not follow the load by more than its noise")
    return _summary(model, updates, trace.domain, load.edges)


def with_measured(domain: Domain, found: StepResponse) -> Domain:
    """The domain with what was measured in place of what its probe states, where that is surer.

    The delay is what readings tell best, so that the lag is what the averaging and the filter leave of it; both stay as
    stated where the readings agree. What the delay may be off is a doubt about the time of every reading.
    """
    if found.period and found.period.ci95_s <= _SURE_PERIOD * found.period.value_s:
        domain = replace(domain, period_s=found.period.value_s)
    period_s = domain.period_s or 0.0
    if not (found.delay and found.averaging and found.filter):
        return domain
    if found.delay.ci95_s > max(_SURE_DELAY * period_s, _SHORT_S):
        return domain
    if domain.kind == "counter":
        averaging_s = found.seen.value_s if found.seen else period_s
        domain = replace(domain, seen_s=found.seen.value_s if found.seen else domain.seen_s)
    else:
        stated_s = domain.averaging_s
        agrees = stated_s is not None and abs(stated_s - found.averaging.value_s) <= found.averaging.ci95_s
        averaging_s = stated_s if agrees and stated_s is not None else found.averaging.value_s
        domain = replace(domain, averaging_s=averaging_s)
    filter_s = found.filter.value_s if found.filter.value_s > found.filter.ci95_s else 0.0
    lag_s = found.delay.value_s - averaging_s / 2.0 - filter_s
    lag_s = lag_s if lag_s > found.delay.ci95_s else 0.0
    # A time that is off uniformly by up to δ either way has a standard deviation of δ/√3.
    doubt_s = math.sqrt(3.0) * found.delay.ci95_s / student_95(math.inf)
    return replace(domain, lag_s=lag_s, filter_s=filter_s, clock_s=max(domain.clock_s, doubt_s))


def _updates_of(trace: Trace) -> _Updates:
    """The updates of a trace, those that repeated a value among them. Raises Unknown."""
    known = ~np.isnan(trace.values)
    if np.count_nonzero(known) < _FEWEST_UPDATES:
        raise Unknown(trace.failure or "hardly any readings came")
    times = (trace.times_ns[known] - trace.times_ns[0]) / NS
    counter = trace.domain.kind == "counter"
    values = trace.values[known]
    if counter:
        values = unwrap(Trace(trace.domain, trace.times_ns[known], values))
    new = np.flatnonzero(np.diff(values) != 0.0) + 1
    if new.size < _FEWEST_CHANGES:
        raise Unknown("its readings hardly changed under the load")
    reads_s = np.diff(times)[new - 1]
    doubt_s = 0.0 if trace.domain.stamped else float(np.median(reads_s))
    shown = times[new] - (0.0 if trace.domain.stamped else reads_s / 2.0)
    gaps = np.diff(shown)
    if not trace.domain.stamped and float(np.median(gaps)) < _AT_EACH_READ * float(np.median(np.diff(times))):
        return _at_each_read(times, values, counter)
    period, steps = _period(gaps, doubt_s)
    if counter:
        return _Updates(shown[1:], np.diff(values[new]) / (period.value_s * steps), doubt_s, period)
    return _Updates(*_filled(shown, values[new], steps), doubt_s, period)


def _at_each_read(times_s: Floats, values: Floats, counter: bool) -> _Updates:
    between_s = float(np.median(np.diff(times_s)))
    if not counter:
        return _Updates(times_s, values, between_s, None)
    return _Updates(times_s[1:], np.diff(values) / np.diff(times_s), between_s, None)


def _period(gaps_s: Floats, doubt_s: float) -> tuple[Timing, Floats]:
    """The period, and how many of them lie between one change and the next.

    An update that repeats a value goes unseen, so that gaps are multiples of the period. Errors of dating cancel but
    for those of the first and the last change; what updates jitter adds up, and shows in the sums of stretches.
    """
    period_s = float(np.quantile(gaps_s[gaps_s > 0.4 * np.median(gaps_s)], _QUANTILE))
    period_s = float(np.median(gaps_s / np.maximum(np.round(gaps_s / period_s), 1.0)))
    steps = np.maximum(np.round(gaps_s / period_s), 1.0)
    total = float(steps.sum())
    period_s = float(gaps_s.sum()) / total
    length = -(-gaps_s.size // _STRETCHES)
    whole = gaps_s.size // length
    over = (gaps_s - period_s * steps)[: whole * length].reshape(whole, length).sum(axis=1)
    wander_s = float(np.std(over, ddof=1)) * math.sqrt(whole)
    return Timing(period_s, math.hypot(doubt_s, student_95(whole - 1) * wander_s) / total), steps


def _filled(times_s: Floats, values: Floats, steps: Floats) -> tuple[Floats, Floats]:
    """Updates with those between that repeated the value before."""
    counts = steps.astype(np.int64)
    at = np.repeat(np.arange(counts.size), counts)
    number = np.arange(at.size) - np.repeat(np.cumsum(counts) - counts, counts)
    between = times_s[at] + number * np.repeat(np.diff(times_s) / counts, counts)
    return np.append(between, times_s[-1]), np.append(values[at], values[-1])


def _summary(model: StepModel, updates: _Updates, domain: Domain, edges: int) -> StepResponse:
    """Means and intervals from the posterior; wider where few edges show how the load itself steps."""
    axes, weights = model.posterior()
    delay, spread, mix = np.meshgrid(*axes, indexing="ij")
    averaging = math.sqrt(12.0) * spread * np.cos(mix).clip(0.0)
    filtered = spread * np.sin(mix)
    lag = np.maximum(delay - averaging / 2.0 - filtered, 0.0)
    # Reads that date an update and cells of the grid smear all times by so much.
    doubt_s = updates.doubt_s / 2.0 + model.cell_s
    wider = student_95(edges) / student_95(math.inf)
    # Mixtures between two of the grid's differ by so much averaging.
    between_s = math.sqrt(12.0) * float(np.sum(spread * weights)) * float(axes[2][1] - axes[2][0]) / 2.0
    averages = _timing(averaging, weights, wider, math.hypot(doubt_s, between_s))
    return StepResponse(
        period=updates.period,
        delay=_timing(delay, weights, wider, doubt_s),
        lag=_timing(lag, weights, wider, doubt_s),
        averaging=averages,
        filter=_timing(filtered, weights, wider, doubt_s),
        seen=averages if _sees_part(averages, domain, updates.period) else None,
    )


def _timing(values: Floats, weights: Floats, wider: float, doubt_s: float) -> Timing:
    order = np.argsort(values, axis=None)
    sorted_values, share = values.ravel()[order], np.cumsum(weights.ravel()[order])
    mean = float(np.sum(values * weights))
    low, high = (float(sorted_values[min(int(np.searchsorted(share, p)), share.size - 1)]) for p in (0.025, 0.975))
    return Timing(mean, math.hypot(wider * max(high - mean, mean - low), doubt_s))


def _sees_part(averaging: Timing, domain: Domain, period: Timing | None) -> bool:
    """Whether a counter surely looks for less than its period."""
    return domain.kind == "counter" and period is not None and averaging.value_s + averaging.ci95_s < period.value_s
