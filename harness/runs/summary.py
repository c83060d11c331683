"""Per-point statistics of a run's records. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.core.quantities import Method, weakest
from harness.core.sizes import Point
from harness.core.statistics import Estimate, estimate_of
from harness.runs.load_summary import LoadSummary, load_summary
from harness.runs.run_schema import Run, Session
from harness.runs.schema import Trial

TYPICAL = Point(32, 32)
"""The request that a run's headline is about where its sweeps don't say another: where the protocols' sweeps cross."""


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
    prefill_tokens_per_s: Estimate | None
    decode_tokens_per_s: Estimate | None
    """None where a request has a single output token, which comes out of prefill, and for several requests in a loop:
    while one of them waits or is in prefill it doesn't decode."""
    total_tokens_per_s: Estimate | None
    tpot_s: Estimate | None
    """Time per output token after the first; None where there is none."""
    output_tokens_per_s: Estimate | None
    """Output tokens of all requests in flight over the time they took."""
    energy_j: Estimate | None
    energy_per_output_token_j: Estimate | None
    energy_per_token_j: Estimate | None
    """Over input and output tokens."""
    tokens_per_j: Estimate | None
    """Output tokens per joule."""
    energy_method: Method | None
    energy_reason: str | None
    """Why the energy of the trials used is not known; None where it is, or where none is used."""
    trouble: str | None
    """The last failure of the point, or why its trials are disturbed, as ``status: reason``."""
    load: LoadSummary | None = None
    """What a server did with the requests; None where they were computed in a process of ours."""
    asked_tokens: tuple[int, int] | None = None
    """Input and output tokens that were asked for, where a server did not keep to them; ``point`` has the means of
    what came."""

    @property
    def asked(self) -> Point:
        """The point of the plan that this is."""
        return Point(*self.asked_tokens, self.point.concurrency) if self.asked_tokens else self.point


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
class Headline:
    """The numbers of a run that matter most: those of one typical request of it, with their 95 % intervals.

    Each is None where it was not measured. An energy whose method is ``estimated`` is a guess: show it by
    ``wording.estimated``, without its half-width, beside ``estimated_from``.
    """

    point: Point
    """Size of the typical request: where the sweeps cross, or the measured point nearest to that."""
    trials: int
    """How many trials are used at that point."""
    disturbed: int
    """Of them, those during which others used the machine: all of them, or none."""
    runtime_s: Estimate
    first_token_s: Estimate | None
    """Start of the request to its first output token."""
    decode_tokens_per_s: Estimate | None
    """Output tokens a second of all requests in flight once the first token is out; None where n = 1."""
    output_tokens_per_s: Estimate | None
    """Output tokens a second of all requests in flight, over all of their time."""
    energy_j: Estimate | None
    energy_per_output_token_j: Estimate | None
    """Energy of the request over its output tokens."""
    energy_method: Method | None
    estimated_from: str | None
    """What an estimated energy was worked out from, such as "5 W per busy core"; None for other methods."""
    energy_reason: str | None
    """Why there is no energy, in words for people; None where there is one."""
    loop: str | None
    """``closed loop`` or ``open loop``, in which a server got its requests; None for a batch in a process of ours."""
    energy_gain_ci95: float | None = None
    """Relative half-width of the gain of the meters that read ``energy_j``, which is in none of its intervals; None
    where it isn't known."""

    @property
    def speed(self) -> tuple[str, Estimate] | None:
        """``decode`` or ``output``, and such tokens per second; None where n = 1 and there are no decode steps.

        While one of several requests in a loop is in prefill it doesn't decode: all are slower than decode steps say.
        """
        if self.loop and self.point.concurrency > 1 and self.output_tokens_per_s:
            return "output", self.output_tokens_per_s
        return None if self.decode_tokens_per_s is None else ("decode", self.decode_tokens_per_s)


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


def summarise(records: Iterable[Trial], facts: Run | None = None) -> list[PointSummary]:
    """One summary per point, in the order of first measurement; an open loop is no point.

    Intervals allow for trials that were repeated until they were narrow, unless the run's ``facts`` say otherwise.
    """
    sequential = facts is None or facts.plan.stopping.get("rule") not in ("fixed-trials", "trials-by-length")
    by_point: dict[Point, list[Trial]] = {}
    for record in records:
        if record.purpose == "open loop":
            continue
        by_point.setdefault(record.asked, []).append(record)
    return [_summary(asked, trials, sequential) for asked, trials in by_point.items()]


def headline(facts: Run, trials: Sequence[Trial]) -> Headline | None:
    """The numbers of a run that matter most; None where no trial came to its end.

    They are of the request of the size where the run's sweeps cross. Where that was not measured they are of the
    measured point nearest to it, by the logarithms of both sizes.
    """
    measured = {summary.point: summary for summary in summarise(trials, facts)}
    known = {point: summary for point, summary in measured.items() if summary.runtime_s is not None}
    if not known:
        return None
    wanted = _crossing(list(dict.fromkeys(Point(m, n) for m, n, _ in facts.plan.points)))
    point = min(known, key=lambda point: (_log_distance(point, wanted), point))
    chosen = known[point]
    assert chosen.runtime_s is not None
    used = used_trials(trial for trial in trials if trial.asked == chosen.asked)
    estimated = chosen.energy_method == "estimated"
    return Headline(
        point=point,
        trials=chosen.trials,
        disturbed=chosen.disturbed,
        runtime_s=chosen.runtime_s,
        first_token_s=chosen.prefill_s,
        decode_tokens_per_s=chosen.decode_tokens_per_s,
        output_tokens_per_s=chosen.output_tokens_per_s,
        energy_j=chosen.energy_j,
        energy_per_output_token_j=chosen.energy_per_output_token_j,
        energy_method=chosen.energy_method,
        estimated_from=_price(facts, used) if estimated else None,
        energy_reason=_no_energy(facts, used, chosen) if chosen.energy_j is None else None,
        loop=chosen.load.kind if chosen.load else None,
        energy_gain_ci95=_gain(used) if chosen.energy_j is not None else None,
    )


def _gain(used: Sequence[Trial]) -> float | None:
    """The largest of the trials used; None where one of them has none."""
    gains = [
        trial.energy.total.gain_ci95 for trial in used if trial.energy and trial.energy.total.request_j is not None
    ]
    known = [gain for gain in gains if gain is not None]
    return max(known) if gains and len(known) == len(gains) else None


def _crossing(points: Sequence[Point]) -> Point:
    """Where two sweeps cross: the input and the output size that most points share; that of TYPICAL where none does."""

    def shared(sizes: Iterable[int], otherwise: int) -> int:
        (size, most), (_, next_most), *_ = [*Counter(sizes).most_common(2), (0, 0), (0, 0)]
        return size if most > max(1, next_most) else otherwise

    return Point(
        shared((point.input_tokens for point in points), TYPICAL.input_tokens),
        shared((point.output_tokens for point in points), TYPICAL.output_tokens),
    )


def _log_distance(point: Point, other: Point) -> float:
    return math.hypot(
        math.log(point.input_tokens / other.input_tokens),
        math.log(point.output_tokens / other.output_tokens),
        math.log(point.concurrency / other.concurrency),
    )


def _price(facts: Run, used: Sequence[Trial]) -> str:
    """At what power the estimate has priced CPU time."""
    if facts.energy.cpu_watts is not None:
        return f"{facts.energy.cpu_watts:g} W for the whole CPU (--cpu-watts)"
    seen = [trial.conditions.get("estimate") for trial in used]
    watts = [part.get("watts_per_processor") for part in seen if isinstance(part, Mapping)]
    priced = {part["min"] for part in watts if isinstance(part, Mapping) and isinstance(part.get("min"), int | float)}
    return f"{priced.pop():g} W per busy core" if len(priced) == 1 else "CPU time"


def _no_energy(facts: Run, used: Sequence[Trial], chosen: PointSummary) -> str:
    if facts.energy.probes == "none":
        return "no power meter was asked for (--probes none)"
    if facts.backend.settings.get("virtual_clock"):
        return "this backend's clock is virtual, and power is read in real time"
    sessions = {trial.session for trial in used}
    metered = any(session.energy.domains for number, session in enumerate(facts.sessions) if number in sessions)
    if not metered:
        return "no power meter works here; joulebench doctor says what to do"
    return chosen.energy_reason or "the power meters gave no reading"


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
    points = {record.asked for record in usable}
    loads = [record.conditions.get("foreign_cpu_load") for record in disturbed if "CPU" in (record.reason or "")]
    shares = [load for load in loads if isinstance(load, float)]
    named = Counter(name for record in disturbed for name in names_of(record.conditions.get("foreign_programs")))
    return Disturbance(
        trials=len(disturbed),
        of_trials=len(usable),
        points=len(points - {record.asked for record in usable if record.counts}),
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
    point = repeated[0].asked
    first = [record for record in counted if record.purpose == "measure" and record.asked == point]
    before, after = estimate_of(_runtimes(first), sequential=True), estimate_of(_runtimes(repeated))
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


def _summary(asked: Point, trials: Sequence[Trial], sequential: bool) -> PointSummary:
    used = used_trials(trials)
    point = _size(asked, used)
    disturbed = sum(record.status == "disturbed" for record in used)
    # Where undisturbed trials are used, the disturbed ones explain nothing.
    explained = ("ok",) if disturbed or not used else ("ok", "disturbed")
    failures = [record for record in trials if record.status not in explained]
    energy_j, method = _energy(used, sequential)
    m, n, c = point.input_tokens, point.output_tokens, point.concurrency
    served = any(record.load for record in used)
    runtime_s, prefill_s, decode_s = (
        estimate_of([s for record in used if (s := getattr(record, field)) is not None], sequential=sequential)
        for field in ("runtime_s", "prefill_s", "decode_s")
    )
    return PointSummary(
        point=point,
        trials=len(used),
        disturbed=disturbed,
        repeats=used[-1].repeats if used else None,
        runtime_s=runtime_s,
        prefill_s=prefill_s,
        decode_s=decode_s,
        prefill_tokens_per_s=None if served else _speed(c * m, prefill_s),
        decode_tokens_per_s=None if served and c > 1 else _speed(c * (n - 1), decode_s),
        total_tokens_per_s=_speed(c * (m + n), runtime_s),
        tpot_s=decode_s.over(n - 1) if decode_s and n > 1 else None,
        output_tokens_per_s=_speed(c * n, runtime_s),
        energy_j=energy_j,
        energy_per_output_token_j=energy_j.over(n) if energy_j else None,
        energy_per_token_j=energy_j.over(m + n) if energy_j else None,
        tokens_per_j=_speed(n, energy_j),
        energy_method=method,
        energy_reason=_energy_reason(used) if energy_j is None else None,
        trouble=f"{failures[-1].status}: {failures[-1].reason}" if failures else None,
        load=load_summary([record.load for record in used if record.load is not None], sequential),
        asked_tokens=None if point == asked else (asked.input_tokens, asked.output_tokens),
    )


def _size(asked: Point, used: Sequence[Trial]) -> Point:
    """Mean size of the requests that came of a point, rounded: a server may produce others than it was asked for."""
    if not used:
        return asked
    m, n = (round(statistics.fmean(getattr(t, name) for t in used)) for name in ("input_tokens", "output_tokens"))
    return Point(m, n, asked.concurrency)


def _speed(tokens: int, cost: Estimate | None) -> Estimate | None:
    """Tokens over their mean time or energy, with its relative interval. A mean of speeds would be that of the luckiest
    trials, and contradict the time beside it."""
    if not tokens or cost is None or not cost.mean:
        return None
    speed = tokens / cost.mean
    return Estimate(speed, None if cost.half_width is None else speed * cost.half_width / cost.mean)


def _energy_reason(used: Sequence[Trial]) -> str | None:
    """Why the energy of the last of these trials is not known."""
    figures = [record.energy.total for record in used if record.energy]
    return next((figure.reason for figure in reversed(figures) if figure.reason), None)


def _energy(used: Sequence[Trial], sequential: bool) -> tuple[Estimate | None, Method | None]:
    """Mean energy over trials. Its interval adds the sensor's own uncertainty, which repetition can't remove."""
    figures = [record.energy.total for record in used if record.energy]
    known = [(f.request_j, f.request_ci95_j or 0.0) for f in figures if f.request_j is not None]
    # One trial does not show its scatter: without that the sensors' part would pass for the whole.
    sensors_j = statistics.fmean(ci95_j for _, ci95_j in known) if len(known) > 1 else None
    energy_j = estimate_of([joules for joules, _ in known], sensors_j, sequential)
    return energy_j, weakest(figure.method for figure in figures if figure.request_j is not None)
