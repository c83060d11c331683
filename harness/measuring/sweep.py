"""Run a plan: one worker, one trial after the other, each recorded as it ends, whatever happens to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from backends.base import Config, Model
from harness import __version__
from harness.core.errors import UserError
from harness.core.sizes import Point
from harness.energy.meter import Meter
from harness.energy.readings import Window
from harness.measuring import machine, same_run
from harness.measuring.plan import Plan
from harness.measuring.schedule import Schedule, TrialSpec
from harness.measuring.worker_process import LoadRefused, TrialFailed, WorkerProcess
from harness.runs.records import SCHEMA_VERSION
from harness.runs.schema import TrialRecord
from harness.runs.store import LOG_FILE, RunStore

IDLE_S = 10.0
"""How long the idle baseline is read before and after the sweep."""

WARMUP_S = 1.0
"""Shortest warm-up window."""

LOAD_TIMEOUT_S = 3600.0
LOAD_ATTEMPTS = 3
RELOAD_PAUSE_S = 5.0


class SweepStopped(Exception):
    """The sweep can't go on; everything measured so far is kept."""


class Observer(Protocol):
    """Is told what happens, to show it."""

    def notice(self, text: str) -> None:
        """One line that the user should know."""
        ...

    def loading(self, model: Model) -> None:
        """The model is about to be loaded."""
        ...

    def trial_starts(self, spec: TrialSpec, schedule: Schedule) -> None:
        """A trial is about to run."""
        ...

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial has been recorded."""
        ...


MeterFactory = Callable[[dict[str, Any], int], Meter]
"""Opens the power sources for what was loaded (``backends.base.Loaded`` as a dict) in the worker with that pid."""


class Sweep:
    """One session of a run: from loading the model to the last trial that can be measured now."""

    def __init__(
        self,
        plan: Plan,
        backend: str,
        config: Config,
        energy: dict[str, Any],
        store: RunStore,
        open_meter: MeterFactory,
        observer: Observer,
    ) -> None:
        self._plan = plan
        self._backend = backend
        self._config = config
        self._energy = energy
        self._store = store
        self._open_meter = open_meter
        self._observer = observer
        self._session = len(store.run["sessions"]) if store.run else 0
        self._workers_started = 0
        self._worker: WorkerProcess | None = None
        self._meter: Meter | None = None
        self._request_s = 0.0

    def run(self) -> None:
        """Measure until the plan is done. Raises UserError (exit 2), SweepStopped or StorageError.

        However it ends, the worker is gone and the records are whole.
        """
        try:
            self._run()
        except KeyboardInterrupt:
            self._note_end("interrupted")
            raise
        except SweepStopped as stopped:
            self._note_end(f"stopped: {stopped}")
            raise
        finally:
            if self._worker:
                self._worker.close()
            if self._meter:
                self._meter.close()

    def _run(self) -> None:
        if self._store.run:
            same_run.refuse_other_run(self._store.directory, self._store.run, self._asked())
            schedule = self._schedule(self._store.run["model"]["context_length"])
            if schedule.next(self._session, 0) is None:
                self._observer.notice("nothing is left to measure: the run is complete")
                return
        loaded = self._load_first()
        self._meter = self._open_meter(loaded["loaded"], self._current_worker().pid)
        for notice in self._meter.notices:
            self._observer.notice(notice)
        self._begin_session(loaded)
        schedule = self._schedule(loaded["loaded"]["model"]["context_length"])
        self._note_idle("before")
        while spec := schedule.next(self._session, self._workers_started - 1):
            self._observer.trial_starts(spec, schedule)
            record = self._trial(spec)
            schedule.add(record)
            self._observer.trial_ended(record)
        if self._worker and self._worker.alive:
            self._note_idle("after")
        self._note_end("complete")

    def _schedule(self, context_length: int) -> Schedule:
        schedule = Schedule(self._plan, kv_cache=self._config.kv_cache, context_length=context_length)
        planned = set(self._plan.points)
        for record in self._store.records:
            if Point(record.input_tokens, record.output_tokens) not in planned:
                raise UserError(
                    f"{self._store.directory} is damaged: the size of trial {record.id} is not in its plan; "
                    "use another directory"
                )
            schedule.add(record)
        return schedule

    def _asked(self) -> dict[str, Any]:
        return {
            "plan": self._plan.describe(),
            "backend": {"name": self._backend, "config": asdict(self._config)},
            "machine": machine.machine(),
            "energy": self._energy,
        }

    def _load_first(self) -> dict[str, Any]:
        """Load the model for the first time in this session, refusing before the load what can be refused."""
        self._start_worker()
        try:
            model = self._current_worker().resolve(self._config, LOAD_TIMEOUT_S)
            self._plan.refuse_beyond(model["context_length"])
            self._observer.loading(Model(**model))
            return self._load()
        except LoadRefused as refusal:
            raise UserError(str(refusal)) from None
        except TrialFailed as failure:
            raise SweepStopped(f"the backend failed before the model was loaded: {failure.reason}") from None

    def _load(self) -> dict[str, Any]:
        """Load the model, in a new worker if the present one dies of it."""
        for attempt in range(1, LOAD_ATTEMPTS + 1):
            try:
                if not (self._worker and self._worker.alive):
                    self._start_worker()
                return self._current_worker().load(self._config, LOAD_TIMEOUT_S)
            except TrialFailed as failure:
                self._current_worker().close()
                self._observer.notice(f"loading the model failed ({attempt} of {LOAD_ATTEMPTS}): {failure.reason}")
                reason = failure.reason
                # What a killed process held may take a moment to be free again.
                time.sleep(RELOAD_PAUSE_S if failure.status == "oom" else 0.0)
        raise SweepStopped(f"the model can't be loaded: {reason}")

    def _reload(self) -> None:
        """Load the model into a new worker after a failed trial. Raises SweepStopped."""
        assert self._meter
        self._current_worker().close()
        try:
            self._load()
        except LoadRefused as refusal:
            raise SweepStopped(f"the model can't be loaded any more: {refusal}") from None
        self._meter.set_worker(self._current_worker().pid)

    def _start_worker(self) -> None:
        self._worker = WorkerProcess(self._backend, self._store.directory / LOG_FILE)
        self._workers_started += 1

    def _current_worker(self) -> WorkerProcess:
        assert self._worker
        return self._worker

    def _begin_session(self, loaded: dict[str, Any]) -> None:
        assert self._meter
        device = dict(loaded["loaded"])
        asked = self._asked() | {"model": device.pop("model")}
        measured = self._meter.describe()
        run = self._store.run
        if run:
            now = {"model": asked["model"], "backend": device | {"versions": loaded["versions"]}, "energy": measured}
            same_run.refuse_other_hardware(self._store.directory, run, now)
        else:
            run = {
                "schema_version": SCHEMA_VERSION,
                "tool_version": __version__,
                "created_at": _now(),
                **asked,
                "sessions": [],
            }
            run["backend"] |= device | {"versions": loaded["versions"]}
        session = {
            "started_at": _now(),
            "software": machine.software() | loaded["versions"],
            "energy": measured,
            "idle": {},
        }
        self._store.write_run(run | {"sessions": [*run["sessions"], session]})

    def _note_end(self, how: str) -> None:
        # A session that never began, because the model was not loaded yet, has no end.
        if self._store.run and len(self._store.run["sessions"]) > self._session:
            self._note_session(ended_at=_now(), ended=how)

    def _note_session(self, **facts: Any) -> None:
        run = self._store.run
        assert run
        *earlier, session = run["sessions"]
        self._store.write_run(run | {"sessions": [*earlier, session | facts]})

    def _note_idle(self, when: str) -> None:
        assert self._meter
        assert self._store.run
        if self._meter.describe()["domains"]:
            self._observer.notice(f"reading idle power for {IDLE_S:g} s {when} the sweep")
            idle = self._store.run["sessions"][-1]["idle"]
            self._note_session(idle=idle | {when: self._meter.idle(IDLE_S)})

    def _trial(self, spec: TrialSpec) -> TrialRecord:
        """Run and record one trial; a failure is a record too, and the next trial gets a new worker."""
        facts: dict[str, Any] = {
            "id": max((record.id for record in self._store.records), default=-1) + 1,
            "session": self._session,
            "worker": self._workers_started - 1,
            "purpose": spec.purpose,
            "input_tokens": spec.point.input_tokens,
            "output_tokens": spec.point.output_tokens,
            "started_at": _now(),
        }
        if spec.skip_reason:
            self._store.append(TrialRecord(**facts, status="skipped", reason=spec.skip_reason))
            return self._store.records[-1]
        assert self._meter
        self._meter.mark()
        try:
            marks = self._current_worker().run(self._plan.timeout_s, **self._window_request(spec))
        except TrialFailed as failure:
            self._store.append(TrialRecord(**facts, status=failure.status, reason=failure.reason))
            self._reload()
            return self._store.records[-1]
        self._record_window(facts, marks)
        return self._store.records[-1]

    def _window_request(self, spec: TrialSpec) -> dict[str, Any]:
        request = {
            "input_tokens": spec.point.input_tokens,
            "output_tokens": spec.point.output_tokens,
            "seed": self._plan.seed,
        }
        if spec.purpose == "warmup":
            return request | {"repeats": 1, "min_window_s": min(WARMUP_S, self.window_s())}
        return request | {"repeats": self._repeats(), "min_window_s": 0.0}

    def window_s(self) -> float:
        """Length that windows should reach, in seconds: for the slowest sensor to be sure within 1 %."""
        assert self._meter
        wanted_s = max(self._plan.min_window_s, self._meter.needed_window_s(0.01))
        return min(wanted_s, self._plan.max_window_s, self._plan.timeout_s / 2)

    def _repeats(self) -> int:
        """Requests that fill a window, from the fastest request of the point's warm-up."""
        fitting = math.floor(self._plan.max_window_s / self._request_s)
        return max(1, min(math.ceil(self.window_s() / self._request_s), fitting))

    def _record_window(self, facts: dict[str, Any], marks: dict[str, Any]) -> None:
        assert self._meter
        start_ns, prefill_end_ns, end_ns = (
            np.array(marks[key], dtype=np.int64) for key in ("start_ns", "prefill_end_ns", "end_ns")
        )
        window = Window(start_ns, prefill_end_ns, end_ns)
        single_s = (end_ns - start_ns) / 1e9
        if facts["purpose"] == "warmup":
            self._request_s = float(single_s.min())
        traces = self._meter.traces(int(start_ns[0]), int(end_ns[-1]))
        energy = self._meter.attribute(traces, window)
        conditions = self._meter.conditions(int(start_ns[0]), int(end_ns[-1]))
        discard = conditions.pop("discard", None)
        if facts["purpose"] == "warmup":
            discard = None
        window_s = float(end_ns[-1] - start_ns[0]) / 1e9
        record = TrialRecord(
            **facts,
            status="discarded" if discard else "ok",
            reason=discard,
            repeats=len(start_ns),
            window_s=window_s,
            runtime_s=window_s / len(start_ns),
            prefill_s=float((prefill_end_ns - start_ns).mean()) / 1e9,
            decode_s=float((end_ns - prefill_end_ns).mean()) / 1e9,
            runtime_sd_s=float(single_s.std(ddof=1)) if len(start_ns) > 1 else None,
            output_tokens_produced=marks["output_tokens"],
            **marks["prepared"],
            energy=energy,
            conditions=conditions,
            warnings=tuple(energy["warnings"]) if energy else (),
        )
        self._store.append(record, window, traces)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
