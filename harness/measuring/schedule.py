"""Which trial comes next, worked out from the plan and the records so far. Pure.

Because the next step depends on nothing but what is recorded, resuming a killed run is the same as going on. That holds
for sizes that are chosen while measuring too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

from harness.core.sizes import Point
from harness.measuring.plan import Plan
from harness.measuring.stopping import FixedTrials, Samples, StoppingRule
from harness.modelling.adaptive import Proposal, Reached, Search, Visit, trials_by_now
from harness.modelling.drawn_error import Seen
from harness.modelling.forms.base import DecodeContext
from harness.runs.schema import Purpose, Trial

MAX_ERRORS = 3
"""Trials of one point that may fail one after the other before the point is given up."""

MAX_DISTURBED = 3
"""Disturbed trials of one point after which it is left as it is: they are kept and marked."""

MAX_CHOSEN = 80
"""Sizes that are chosen while measuring at most, at each number of requests in flight: further ones hardly help."""

DRIFT_TRIALS = 3
"""Trials of the first point that are repeated at the end."""


@dataclass
class _State:
    """What is known about one point (or about the drift check at the end)."""

    samples: dict[str, list[float]] = field(default_factory=lambda: {"runtime_s": []})
    disturbed_samples: dict[str, list[float]] = field(default_factory=lambda: {"runtime_s": []})
    ci95: dict[str, list[float]] = field(default_factory=dict)
    """Half-widths that the sensors leave in each of the trials, by quantity."""
    ended: bool = False
    """Whether no further trial follows although the stopping rule is not satisfied."""
    skip_reason: str | None = None
    too_large: bool = False
    """Whether it ran out of memory or time."""
    errors: int = 0
    disturbed: int = 0


class Schedule:
    """The state of a run: feed it every record in order, ask it for the next trial.

    ``context_length`` is the longest m + n of the model, and ``most_in_flight`` the number of requests that its server
    works on at once, beyond which they wait; None where it is not known. Points beyond them are skipped.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        kv_cache: bool,
        context_length: int | None,
        most_in_flight: int | None = None,
        decode_context: DecodeContext = "grows",
    ) -> None:
        self._plan = plan
        self._search: Search | None = None
        self._reached: tuple[tuple[int, int], Reached | None] = ((0, 0), None)
        if plan.adaptive:
            visit = Visit(trial_s=plan.min_window_s, trials=plan.stopping.max_trials)
            interest = plan.adaptive.interest(context_length, most_in_flight)
            self._search = Search(interest, kv_cache, plan.seed, visit, decode_context, plan.adaptive.error)
        self._kv_cache = kv_cache
        self._states = {point: _State() for point in plan.points}
        self._drift = _State()
        self._first: Point | None = None
        self._warm: tuple[Point, int, int] | None = None
        self._disturbed_in_a_row = 0
        loads = plan.open_loop.loads if plan.open_loop else ()
        self._open_loops: dict[float | None, _State] = {rate_per_s: _State() for rate_per_s in loads}
        for point, state in self._states.items():
            tokens = point.input_tokens + point.output_tokens
            if context_length is not None and tokens > context_length:
                state.skip_reason = f"{tokens} tokens are more than the model's context of {context_length}"
            elif most_in_flight is not None and point.concurrency > most_in_flight:
                state.skip_reason = (
                    f"{point.concurrency} requests in flight are more than the {most_in_flight} that the server "
                    "works on at once"
                )

    def add(self, record: Trial) -> None:
        """Take one record into account, also one of a point that is no longer asked for."""
        point = record.asked
        if record.purpose == "measure":
            self._drift = _State()  # the plan has grown since: drift is looked at once more
        if record.purpose == "open loop":
            self._add_open_loop(record)
            return
        drifts = record.purpose == "drift" or (record.purpose == "warmup" and self._all_done())
        state = self._drift if drifts else self._states.get(point, _State())
        if record.status == "ok":
            self._warm = (point, record.session, record.worker)
            if record.purpose != "warmup":
                self._disturbed_in_a_row = 0
                self._first = self._first or point
                _add_sample(state, record)
        elif record.status == "error":
            state.errors += 1
            state.ended = state.errors >= MAX_ERRORS
        elif record.status == "disturbed":
            self._warm = (point, record.session, record.worker)
            self._disturbed_in_a_row += 1
            state.disturbed += 1
            _add_values(state.disturbed_samples, record)
            state.ended = state.disturbed >= self._most_disturbed()
        else:
            state.ended = True
            state.too_large = record.status in ("oom", "timeout")
            if record.status == "oom":
                self._skip_larger(point)

    def _add_open_loop(self, record: Trial) -> None:
        state = self._open_loops.get(record.rate_per_s, _State())
        if record.usable_load:
            state.samples["runtime_s"].append(record.runtime_s or 0.0)
        state.errors = state.errors + 1 if record.status == "error" else 0
        state.ended = record.status in ("oom", "timeout", "skipped") or state.errors >= MAX_ERRORS

    def _most_disturbed(self) -> int:
        """Disturbed trials after which a point is left as it is.

        Where others have come to stay no trial is taken again: a run takes no longer then than on a machine at rest.
        """
        they_stay = self._disturbed_in_a_row >= MAX_DISTURBED
        return min(MAX_DISTURBED, self._plan.stopping.max_trials) if they_stay else MAX_DISTURBED

    def _skip_larger(self, failed: Point) -> None:
        for point, state in self._states.items():
            if point != failed and not self._done(point) and needs_at_least(point, failed, self._kv_cache):
                state.skip_reason = f"needs at least the memory of {failed.words()}, which ran out of it"

    @property
    def plan(self) -> Plan:
        """The plan, with the sizes that were chosen since."""
        return self._plan

    def next(self, session: int, worker: int, spent_s: float = 0.0) -> TrialSpec | None:
        """The next trial for this worker process; None when the run is complete.

        A worker that is new to a point warms up on it first: the first trial of a point is never counted. Where sizes
        are chosen while measuring, ``plan`` may have grown by one afterwards; ``spent_s`` is what the session has
        taken so far.
        """
        for point in self._plan.points:
            if not self._done(point):
                return self._spec(point, self._states[point], "measure", session, worker)
        if chosen := self._choose(spent_s):
            return self._spec(chosen, self._states[chosen], "measure", session, worker)
        for rate_per_s, state in self._open_loops.items():
            if not (state.ended or len(state.samples["runtime_s"]) >= self._open_trials()):
                assert self._plan.open_loop
                return TrialSpec(self._plan.open_loop.mean_size(), "open loop", rate_per_s=rate_per_s)
        first = self.first_measured()
        if first is None or self._drift.ended or len(self._drift.samples["runtime_s"]) >= DRIFT_TRIALS:
            return None
        return self._spec(first, self._drift, "drift", session, worker)

    def _choose(self, spent_s: float) -> Point | None:
        """A further size to measure; None where none is wanted or left."""
        wanted = self._plan.adaptive
        if (
            self._search is None
            or wanted is None
            or len(self._plan.points) >= MAX_CHOSEN * len(self._search.interest.levels)
        ):
            return None
        reached = self.reached()
        enough = reached is not None and reached.error <= wanted.error
        if enough or (wanted.budget_s is not None and spent_s >= wanted.budget_s):
            return None
        proposal = self._search.next(self._seen())
        if proposal is None:
            return None
        self._plan = self._plan.extended(proposal)
        self._states[proposal.point] = _State()
        # A point drawn earlier may be due again.
        return next(point for point in self._plan.points if not self._done(point))

    def reached(self) -> Reached | None:
        """How right the costs fitted so far are; None where sizes are planned, and before it can be told."""
        if self._search is None:
            return None
        seen = self._seen()
        # It takes a second of work: once for each point.
        known = sum(each.outcome == "ok" for each in seen), sum(map(self._done, self._plan.points))
        if self._reached[0] != known:
            self._reached = known, self._search.reached(seen)
        return self._reached[1]

    def _seen(self) -> list[Seen]:
        """What came of the points so far that are done, at least for the first time."""
        assert self._plan.adaptive
        drawn = set(self._plan.adaptive.drawn)
        return [_seen(p, p in drawn, self._states[p]) for p in self._plan.points if self._done(p, later=0)]

    def _open_trials(self) -> int:
        """An open loop is long, and shows by itself how far its requests scatter: once is enough unless told."""
        return self._plan.stopping.max_trials if isinstance(self._plan.stopping, FixedTrials) else 1

    def _spec(self, point: Point, state: _State, purpose: Purpose, session: int, worker: int) -> TrialSpec:
        warm = self._warm == (point, session, worker)
        return TrialSpec(point, purpose if warm or state.skip_reason else "warmup", state.skip_reason)

    def first_measured(self) -> Point | None:
        """The point of the first counted trial: the one that is repeated at the end to show drift."""
        return self._first

    def remaining(self) -> list[tuple[Point, int]]:
        """Points still to be measured, each with the trials it has so far, the disturbed ones included."""
        return [
            (point, len(state.samples["runtime_s"]) + state.disturbed)
            for point, state in self._states.items()
            if not self._done(point) and state.skip_reason is None
        ]

    def samples(self, point: Point) -> Samples:
        """What the counted trials of a point of the plan have measured so far."""
        return self._states[point].samples

    def _done(self, point: Point, later: int | None = None) -> bool:
        """Whether a point needs no trial now, or needed none once so many ``later`` points were chosen."""
        state = self._states[point]
        return state.ended or self._rule(point, later).done(state.samples)

    def _rule(self, point: Point, later: int | None) -> StoppingRule:
        adaptive, rule = self._plan.adaptive, self._plan.stopping
        wanted = dict(zip(adaptive.drawn, adaptive.drawn_trials, strict=False)).get(point) if adaptive else None
        if wanted is None:
            return rule
        if later is None:
            later = len(self._plan.points) - 1 - self._plan.points.index(point)
        now = trials_by_now(Proposal(point, True, wanted), later)
        return FixedTrials(now) if wanted > rule.max_trials else rule.with_max_trials(now)

    def _all_done(self) -> bool:
        return all(map(self._done, self._states))


def _seen(point: Point, drawn: bool, state: _State) -> Seen:
    """A point as the choice of sizes looks at it; of disturbed trials where there are no others."""
    samples = state.samples if state.samples["runtime_s"] else state.disturbed_samples
    if not samples["runtime_s"]:
        return Seen(point, drawn, outcome="too large" if state.too_large else "failed")
    ci95 = {name: fmean(half_widths) for name, half_widths in state.ci95.items()}
    return Seen(point, drawn, samples, ci95=ci95)


def _add_sample(state: _State, record: Trial) -> None:
    state.errors = 0
    _add_values(state.samples, record)
    total = record.energy.total if record.energy else None
    for part, name in (("request", "energy_j"), ("prefill", "prefill_energy_j"), ("decode", "decode_energy_j")):
        half_width = getattr(total, f"{part}_ci95_j", None)
        if half_width is not None:
            state.ci95.setdefault(name, []).append(half_width)


def _add_values(samples: dict[str, list[float]], record: Trial) -> None:
    measured = {"runtime_s": record.runtime_s, "prefill_s": record.prefill_s, "decode_s": record.decode_s}
    if record.energy is not None:
        total = record.energy.total
        measured |= {
            "energy_j": total.request_j,
            "prefill_energy_j": total.prefill_j,
            "decode_energy_j": total.decode_j,
        }
    for name, value in measured.items():
        if value is not None:
            samples.setdefault(name, []).append(value)


def needs_at_least(point: Point, other: Point, kv_cache: bool) -> bool:
    """Whether a request of size ``point`` needs at least the memory of one of size ``other``.

    With the KV cache, memory grows with the cached tokens m + n and with the m tokens of the prefill. Without
    it, every step is a forward pass over the whole sequence, so that only m + n counts. More requests need more.
    """
    if point.concurrency < other.concurrency:
        return False
    longer = point.input_tokens + point.output_tokens >= other.input_tokens + other.output_tokens
    return longer and (not kv_cache or point.input_tokens >= other.input_tokens)


@dataclass(frozen=True)
class TrialSpec:
    """The next thing to measure."""

    point: Point
    purpose: Purpose
    skip_reason: str | None = None
    """Why the point is recorded as skipped instead of being measured."""
    rate_per_s: float | None = None
    """Of an open loop with Poisson arrivals; its point is then the mean size of its requests."""
