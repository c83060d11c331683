"""Per-point statistics of a run's records. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.core.quantities import weakest
from harness.core.sizes import Point
from harness.core.statistics import Estimate, estimate_of
from harness.runs.run_schema import Session
from harness.runs.schema import Trial


@dataclass(frozen=True)
class PointSummary:
    """What the ``used_trials`` of one point say; estimates are per request and None when not measured."""

    point: Point
    trials: int
    disturbed: int
    """Of the trials, those during which others used the machine: all of them, or none."""
    repeats: int | None
    runtime_s: Estimate | None
    prefill_s: Estimate | None
    decode_s: Estimate | None
    tokens_per_s: Estimate | None
    energy_j: Estimate | None
    energy_method: str | None
    trouble: str | None
    """The last failure of the point, or why its trials are disturbed, as ``status: reason``."""


@dataclass(frozen=True)
class Disturbance:
    """How far others used the machine during the measured trials of a run."""

    trials: int
    """Disturbed ones, of …"""
    of_trials: int
    points: int
    """Points of which there are disturbed trials only, of …"""
    of_points: int
    cpu_shares: tuple[float, float] | None
    """Smallest and largest share of the processors that other programs took during a disturbed trial; None where that
    is not what disturbed them, or unknown."""
    programs: tuple[str, ...]
    """Those that took most of it, as ``name (pid 12)``, the most frequent first; at most three."""


@dataclass(frozen=True)
class Drift:
    """Runtime of the first point at the end of the run relative to its beginning."""

    point: Point
    change: float
    """Relative change; 0.02 is 2 % slower at the end."""
    half_width: float | None
    """Half-width of its 95 % interval."""


@dataclass(frozen=True)
class IdleDrift:
    """Idle power of one domain before and after a sweep, in W, each with its 95 % half-width."""

    domain: str
    before_w: Estimate
    after_w: Estimate

    @property
    def change_w(self) -> Estimate:
        """After minus before."""
        half_widths = [part.half_width or 0.0 for part in (self.before_w, self.after_w)]
        return Estimate(self.after_w.mean - self.before_w.mean, math.hypot(*half_widths))


def summarise(records: Iterable[Trial], batch_size: int) -> list[PointSummary]:
    """One summary per point, in the order of first measurement."""
    by_point: dict[Point, list[Trial]] = {}
    for record in records:
        by_point.setdefault(record.point, []).append(record)
    return [_summary(point, trials, batch_size) for point, trials in by_point.items()]


def used_trials(records: Iterable[Trial]) -> list[Trial]:
    """Those trials of one point that statistics use: its undisturbed ones, or else its disturbed ones."""
    usable = [record for record in records if record.usable]
    return [record for record in usable if record.counts] or usable


def disturbance(records: Iterable[Trial]) -> Disturbance | None:
    """How disturbed a run was; None where no measured trial was."""
    usable = [record for record in records if record.usable]
    disturbed = [record for record in usable if not record.counts]
    if not disturbed:
        return None
    points = {record.point for record in usable}
    loads = [record.conditions.get("foreign_cpu_load") for record in disturbed if "CPU" in (record.reason or "")]
    shares = [load for load in loads if isinstance(load, float)]
    named = Counter(name for record in disturbed for name in names_of(record.conditions.get("foreign_programs")))
    return Disturbance(
        trials=len(disturbed),
        of_trials=len(usable),
        points=len(points - {record.point for record in usable if record.counts}),
        of_points=len(points),
        cpu_shares=(min(shares), max(shares)) if shares else None,
        programs=tuple(name for name, _ in named.most_common(3)),
    )


def names_of(listed: object) -> list[str]:
    """The programs of a trial's ``conditions["foreign_programs"]``; none for what an older version recorded."""
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list | tuple) else []


def drift(records: Iterable[Trial]) -> Drift | None:
    """How the repeated first point differs from its first measurement; None when it was not repeated."""
    counted = [record for record in records if record.status == "ok" and record.runtime_s]
    # A run that has gone on with further points repeats its first point once more, at its new end.
    last = max((record.id for record in counted if record.purpose == "measure"), default=-1)
    repeated = [record for record in counted if record.purpose == "drift" and record.id > last]
    if not repeated:
        return None
    point = repeated[0].point
    first = [record for record in counted if record.purpose == "measure" and record.point == point]
    before, after = estimate_of(_runtimes(first)), estimate_of(_runtimes(repeated))
    if before is None or after is None:
        return None
    half_width = None
    if before.half_width is not None and after.half_width is not None:
        relative = math.hypot(before.half_width / before.mean, after.half_width / after.mean)
        half_width = relative * after.mean / before.mean
    return Drift(point, after.mean / before.mean - 1, half_width)


def idle_drift(session: Session) -> list[IdleDrift]:
    """Per domain, for a session with idle power read before and after; empty without."""
    before, after = (session.idle[when].domains if when in session.idle else {} for when in ("before", "after"))
    drifts = []
    for name, then in before.items():
        now = after.get(name)
        if now is not None and then.power_w is not None and now.power_w is not None:
            drifts.append(IdleDrift(name, Estimate(then.power_w, then.ci95_w), Estimate(now.power_w, now.ci95_w)))
    return drifts


def idle_power_w(session: Session) -> Estimate | None:
    """Idle power of all components in a session: the mean of before and after, or the one there is."""
    totals = [session.idle[when].total for when in ("before", "after") if when in session.idle]
    known = [(total.power_w, total.ci95_w or 0.0) for total in totals if total.power_w is not None]
    if not known:
        return None
    half_width = math.hypot(*(ci95_w for _, ci95_w in known)) / len(known)
    return Estimate(statistics.fmean(power_w for power_w, _ in known), half_width)


def _runtimes(records: Sequence[Trial]) -> list[float]:
    return [record.runtime_s for record in records if record.runtime_s is not None]


def _summary(point: Point, trials: Sequence[Trial], batch_size: int) -> PointSummary:
    used = used_trials(trials)
    disturbed = sum(record.status == "disturbed" for record in used)
    # Where undisturbed trials are used, the disturbed ones explain nothing.
    explained = ("ok",) if disturbed or not used else ("ok", "disturbed")
    failures = [record for record in trials if record.status not in explained]
    runtimes = _runtimes(used)
    energy_j, method = _energy(used)
    return PointSummary(
        point=point,
        trials=len(used),
        disturbed=disturbed,
        repeats=used[-1].repeats if used else None,
        runtime_s=estimate_of(runtimes),
        prefill_s=estimate_of([record.prefill_s for record in used if record.prefill_s is not None]),
        decode_s=estimate_of([record.decode_s for record in used if record.decode_s is not None]),
        tokens_per_s=estimate_of([batch_size * point.output_tokens / runtime_s for runtime_s in runtimes]),
        energy_j=energy_j,
        energy_method=method,
        trouble=f"{failures[-1].status}: {failures[-1].reason}" if failures else None,
    )


def _energy(used: Sequence[Trial]) -> tuple[Estimate | None, str | None]:
    """Mean energy over trials. Its interval adds the sensor's own uncertainty, which repetition can't remove."""
    figures = [record.energy.total for record in used if record.energy]
    known = [(f.request_j, f.request_ci95_j or 0.0) for f in figures if f.request_j is not None]
    # One trial does not show its scatter: without that the sensors' part would pass for the whole.
    sensors_j = statistics.fmean(ci95_j for _, ci95_j in known) if len(known) > 1 else None
    energy_j = estimate_of([joules for joules, _ in known], sensors_j)
    return energy_j, weakest(figure.method for figure in figures if figure.request_j is not None)
