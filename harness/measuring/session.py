"""The trials of one session, once the model is loaded and the meter is open."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from harness.energy.meter import Meter
from harness.energy.metered_window import MeteredWindow
from harness.energy.running_window import RunningWindow
from harness.measuring.loop_message import run_from_message
from harness.measuring.model_host import ModelHost
from harness.measuring.observer import Observer
from harness.measuring.pauses import longest_pause_s
from harness.measuring.plan import LENGTHS, WARM_LENGTHS, WARMUP_REQUESTS, WARMUP_S, Plan
from harness.measuring.schedule import Schedule, TrialSpec
from harness.measuring.trial_results import batch_marks, batch_result, loop_doubts, loop_marks, loop_result
from harness.measuring.window_length import fewest_requests, most_requests
from harness.measuring.worker_process import Look, TrialFailed
from harness.runs.load_figures import LatencyLimits, LoadFigures, load_figures
from harness.runs.run_schema import ReachedRecord, noted
from harness.runs.schema import Trial
from harness.runs.store import RunStore

IDLE_S = 10.0
"""How long the idle baseline is read before and after the sweep at most."""
_DOUBTFUL = ("oom", "timeout", "error")
"""After trials that end so nobody knows what state the worker, or a server that it started, is in: the next trial gets
a new one."""


@dataclass
class MeasuringSession:
    """Runs what the schedule says and records each trial as it ends."""

    plan: Plan
    store: RunStore
    host: ModelHost
    meter: Meter
    observer: Observer
    served: bool
    """Whether a server computes, so that trials are loops of requests and not batches in the worker."""
    request_s: list[float] = field(default_factory=list)
    """Seconds of the present point's batches so far, the first of its warm-up left out."""

    def run(self, schedule: Schedule) -> None:
        """Measure until the plan is done. Raises SweepStopped or StorageError."""
        began_s = time.monotonic()
        self._note_idle("before")
        while spec := schedule.next(self.number, self.host.number, time.monotonic() - began_s):
            self._note_chosen(schedule.plan)
            self.observer.trial_starts(spec, schedule)
            trial = self._trial(spec)
            schedule.add(trial)
            self.observer.trial_ended(trial)
            if trial.status in _DOUBTFUL:
                self.host.reload()
                self.meter.set_worker(self.host.pid, self.host.server_pids)
        self._note_reached(schedule)
        if self.host.alive:
            self._note_idle("after")

    def _note_chosen(self, plan: Plan) -> None:
        """Write a size down that was chosen since, before its first trial. Raises StorageError."""
        if plan is self.plan:
            return
        assert self.store.run
        self.plan = plan
        record = plan.record(self.store.run.plan)
        self.store.write_run(noted(self.store.run, plan=record).model_copy(update={"plan": record}))

    def _note_reached(self, schedule: Schedule) -> None:
        """Write down how right the fitted costs are. Raises StorageError."""
        reached = schedule.reached()
        if reached is None:
            return
        assert self.store.run
        records = {
            name: ReachedRecord(error=claim.error, doubt=claim.doubt, drawn=reached.drawn)
            for name, claim in reached.claims.items()
        }
        self.store.write_run(noted(self.store.run, reached=records))

    @property
    def number(self) -> int:
        """Which session of the run this is, from 0."""
        assert self.store.run
        return len(self.store.run.sessions) - 1

    def _note_idle(self, when: str) -> None:
        assert self.store.run
        # An estimate has no sensor that could read it.
        if any(domain.method != "estimated" for domain in self.meter.describe().domains.values()):
            self.observer.notice(f"reading idle power for at most {IDLE_S:g} s {when} the sweep")
            idle = self.store.run.sessions[-1].idle
            self.store.write_run(noted(self.store.run, idle=idle | {when: self.meter.idle(IDLE_S)}))

    def _trial(self, spec: TrialSpec) -> Trial:
        """Run and record one trial; a failure is a record too."""
        facts: dict[str, Any] = {
            "id": max((trial.id for trial in self.store.records), default=-1) + 1,
            "session": self.number,
            "worker": self.host.number,
            "purpose": spec.purpose,
            **asdict(spec.point),
            "rate_per_s": spec.rate_per_s,
            "started_at": now(),
        }
        if spec.skip_reason:
            return self.store.append(Trial(**facts, status="skipped", reason=spec.skip_reason))
        try:
            return self._loop(spec, facts) if self.served else self._batches(spec, facts)
        except TrialFailed as failure:
            return self.store.append(Trial(**facts, status=failure.status, reason=failure.reason))

    def _batches(self, spec: TrialSpec, facts: dict[str, Any]) -> Trial:
        """A window of batches one after the other. Raises TrialFailed or StorageError."""
        request = self._batch_request(spec)
        running = RunningWindow(self.meter, self.plan.stopping.window_precision)
        look = running if spec.purpose != "warmup" and self.meter.sensors() else None
        with self.meter.window() as window:
            answer = self._run("run", running.begin, look, **request)["window"]
            window.mark(batch_marks(answer), paused="longest_pause_s" in request)
        single_s: list[float] = ((window.marks.end_ns - window.marks.start_ns) / 1e9).tolist()
        self.request_s = single_s[1:] or single_s if spec.purpose == "warmup" else self.request_s + single_s
        measured = batch_result(answer, window, spec.point.concurrency)
        trial = Trial(**facts, **measured, **_circumstances(spec, window))
        return self.store.append(trial, window.marks, window.traces)

    def _batch_request(self, spec: TrialSpec) -> dict[str, Any]:
        request = {**asdict(spec.point), "seed": self.plan.seed}
        if spec.purpose == "warmup":
            # A long request warms up alone, as does one of more than half the time limit: two would not fit into it.
            alone_s = min(self.plan.warms_alone_s, self.plan.timeout_s / 2)
            limits = {"min_window_s": min(WARMUP_S, self._window_s()), "last_start_s": alone_s}
            return request | {"fewest": WARMUP_REQUESTS, **limits}
        metered = bool(self.meter.sensors())
        fewest = fewest_requests(self.request_s, self.plan, metered)
        if not metered:
            return request | {"fewest": fewest, "most": fewest}
        most = most_requests(fmean(self.request_s), self.plan)
        return request | {"fewest": fewest, "most": most, **self._pauses(spec)}

    def _pauses(self, spec: TrialSpec) -> dict[str, Any]:
        """The random pauses of a window whose requests beat with a sensor; empty where they don't."""
        precision = self.plan.stopping.window_precision
        longest_s = longest_pause_s(
            self.request_s,
            self.meter.sensors(),
            precision,
            min(self.meter.needed_window_s(precision), self.plan.max_window_s),
            phases=spec.point.output_tokens > 1,
        )
        # Seeded by the trial, so that those of one point differ.
        seed = self.plan.seed + len(self.store.records)
        return {"longest_pause_s": longest_s, "pause_seed": seed} if longest_s else {}

    def _loop(self, spec: TrialSpec, facts: dict[str, Any]) -> Trial:
        """A closed or an open loop of requests at a server. Raises TrialFailed or StorageError."""
        with self.meter.window() as window:
            if spec.purpose == "open loop":
                answer = self._run("open_loop", **self._open_request(spec, facts["id"]))["loop"]
            else:
                answer = self._run("closed_loop", **self._loop_request(spec, facts["id"]))["loop"]
            loop = run_from_message(answer)
            load = load_figures(loop, self._limits())
            window.mark_loop(*loop_marks(loop, load))
        measured = loop_result(load, window)
        circumstances = _circumstances(spec, window, loop_doubts(loop, load))
        trial = Trial(**{**facts, **_sizes(spec, load)}, **measured, **circumstances)
        return self.store.append(trial, window.marks, window.traces, loop.stamps)

    def _loop_request(self, spec: TrialSpec, trial: int) -> dict[str, Any]:
        request = {**asdict(spec.point), "seed": self.plan.seed, "trial": trial}
        window_s, lengths = self._window_s(), LENGTHS
        if spec.purpose == "warmup":
            window_s, lengths = min(WARMUP_S, window_s), WARM_LENGTHS
        return request | {"min_window_s": window_s, "lengths": lengths, "last_start_s": self.plan.timeout_s / 2}

    def _window_s(self) -> float:
        """Length of a loop's window, in seconds: that after which the slowest sensor's edges cost little enough."""
        wanted_s = max(self.plan.min_window_s, self.meter.needed_window_s(self.plan.stopping.window_precision))
        return min(wanted_s, self.plan.max_window_s, self.plan.timeout_s / 2)

    def _limits(self) -> LatencyLimits:
        load = self.plan.open_loop
        return LatencyLimits(load.ttft_limit_s, load.tpot_limit_s, load.e2e_limit_s) if load else LatencyLimits()

    def _open_request(self, spec: TrialSpec, trial: int) -> dict[str, Any]:
        assert self.plan.open_loop
        arrivals = self.plan.open_loop.arrivals(spec.rate_per_s, self.plan.seed + trial)
        asked = {"arrivals": [astuple(arrival) for arrival in arrivals], "seed": self.plan.seed}
        return asked if spec.rate_per_s is None else asked | {"duration_s": self.plan.open_loop.duration_s}

    def _run(
        self, do: str, begins: Callable[[], None] = lambda: None, look: Look | None = None, **asked: Any
    ) -> dict[str, Any]:
        """Ask the worker; ``begins`` is called when what it does begins. Raises TrialFailed."""

        def at_edge() -> None:
            self.meter.read_edge()
            begins()

        # How long an open loop takes was asked for; the time limit is for what comes on top.
        timeout_s = self.plan.timeout_s + (self.plan.open_loop.duration_s if self.plan.open_loop else 0.0)
        return self.host.run(timeout_s, at_edge, look, do=do, **asked)


def _sizes(spec: TrialSpec, load: LoadFigures) -> dict[str, Any]:
    """The sizes of a loop's requests where they came out otherwise than asked, by the names of a trial's fields."""
    m, n = (max(1, round(tokens / load.requests)) for tokens in (load.input_tokens, load.output_tokens))
    asked = (spec.point.input_tokens, spec.point.output_tokens)
    if spec.purpose == "open loop" or (m, n) == asked:
        return {}
    return {"input_tokens": m, "output_tokens": n, "asked_tokens": asked}


def _circumstances(spec: TrialSpec, window: MeteredWindow, doubts: Sequence[str] = ()) -> dict[str, Any]:
    """How a trial ended, what the machine was like and why it is marked, by the names of its fields."""
    disturbed = None if spec.purpose == "warmup" else window.disturbed
    return {
        "status": "disturbed" if disturbed else "ok",
        "reason": disturbed,
        "conditions": window.conditions,
        "warnings": (*window.energy.warnings, *doubts),
    }


def now() -> str:
    """UTC, ISO 8601, in milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
