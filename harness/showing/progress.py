"""What the person at the terminal sees of a run: its plan, progress while it measures, its results at the end."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import asdict

import psutil
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from backends.base import Config, Model
from harness.core.errors import UserError
from harness.core.sizes import Point
from harness.core.wording import estimated, number, percent, plus_minus
from harness.energy.meter import SETTLE_S, Meter
from harness.energy.probes.base import ProbeContext
from harness.measuring.adaptive_plan import AdaptivePlan
from harness.measuring.observer import Observer
from harness.measuring.plan import Plan
from harness.measuring.planned_run import Foreseen, PlannedRun
from harness.measuring.schedule import Schedule, TrialSpec
from harness.measuring.time_guess import RequestGuess, spell
from harness.measuring.time_left import TimeLeft
from harness.runs.records import RecordedRun
from harness.runs.schema import Row, Trial, output_tokens_per_s
from harness.runs.store import RunStore
from harness.runs.summary import names_of
from harness.showing.run_results import failure_text, without_numbers
from harness.showing.terminal import open_console
from harness.showing.trials import print_results

_IDLE_S = 10.0 + SETTLE_S
"""What reading the idle power once takes, until a run shows it."""
_USUAL_SIZES, _USUAL_ERROR = 20, 0.01
"""Sizes at one concurrency that an adaptive run usually takes, down to this error; half of it took 22 to 40 in
simulations."""
_QUANTITIES = {
    "runtime_s": "runtime",
    "prefill_s": "prefill time",
    "decode_s": "decode time",
    "energy_j": "energy",
    "prefill_energy_j": "prefill energy",
    "decode_energy_j": "decode energy",
}


def plan_json(planned: PlannedRun) -> str:
    """The plan as JSON: backend, device, options and points. Raises UserError."""
    options = {"config": asdict(planned.config), "energy": asdict(planned.energy)}
    record = planned.plan.record(None).model_dump(mode="json")
    content = {"backend": planned.backend, "device": planned.foreseen().device, **options, "plan": record}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def print_plan(planned: PlannedRun, as_json: bool = False) -> None:
    """Every point in its order, with the guessed time of a request and of the point. Raises UserError."""
    if as_json:
        print(plan_json(planned), end="")
        return
    plan, seen = planned.plan, planned.foreseen()
    model = seen.model
    print(f"{planned.backend}, {model.name} ({', '.join(_weights(model))}) on {seen.device}")
    if seen.device == "cpu" and model.weight_bytes is not None and not planned.served:
        print(f"the model can be loaded as far as its description tells; {_memory(model.weight_bytes)}")
    if plan.points:
        points = f"{len(plan.points)} points" if len(plan.points) > 1 else "1 point"
        print(f"{points} in this order, each with a warm-up and at most {plan.stopping.max_trials} trials:")
    window_s, idle_s = _metering(planned, seen.device)
    left = TimeLeft(plan, seen.guess, window_s, planned.served)
    if plan.adaptive:
        _print_adaptive(plan.adaptive, planned, seen, left)
        return
    loaded = any(point.concurrency > 1 for point in plan.points)
    for point in plan.points:
        size = f"  {point.input_tokens:5} in  {point.output_tokens:5} out"
        size += f"  {point.concurrency:5} in flight" if loaded else ""
        if not seen.holds(point):
            print(f"{size}  skipped: beyond the model's context")
            continue
        print(f"{size}  ≈ {number(seen.guess.request_s(point), 2):>7} s per request  ≈ {spell(left.point_s(point)):>7}")
    for rate_per_s in plan.open_loop.loads if plan.open_loop else ():
        print(f"  {_open_words(rate_per_s)}")
    whole_s = left.left_s([(point, 0) for point in plan.points if seen.holds(point)], idle_s)
    print(
        f"about {spell(whole_s)} in all, plus loading the model; guessed from typical rates of a {seen.device}, "
        "good to a factor of three"
    )


def _memory(weight_bytes: int) -> str:
    """What the weights take of the memory that is free."""
    free_bytes = psutil.virtual_memory().available
    takes, free = number(weight_bytes / 1e9, 2), number(free_bytes / 1e9, 2)
    return f"its weights take {takes} GB, {free} GB of memory are free" + (
        "" if weight_bytes <= free_bytes else ": too little"
    )


def _metering(planned: PlannedRun, device: str) -> tuple[float, float]:
    """Seconds that windows need for the power sensors of this machine, and that reading its idle power takes; for that
    the meters are opened for a moment.
    """
    energy = planned.energy
    if energy.sources == "none":
        return 0.0, 0.0
    if energy.sources.startswith("remote:") or planned.served:
        return 0.0, 2 * _IDLE_S
    try:
        with Meter.open(energy, ProbeContext(worker_pid=os.getpid(), device=device)) as meter:
            return meter.needed_window_s(planned.plan.stopping.window_precision), 2 * _IDLE_S * bool(meter.sensors())
    except UserError:
        # It is told when the run is started.
        return 0.0, 2 * _IDLE_S


def _print_adaptive(wanted: AdaptivePlan, planned: PlannedRun, seen: Foreseen, left: TimeLeft) -> None:
    """What is asked for, and a guess of its time: sizes are chosen while measuring."""
    interest = wanted.interest(seen.model.context_length)
    levels = [f"{c} in flight" for c in interest.levels if interest.levels != (1,)]
    sizes = f"{len(wanted.traffic)} sizes of your own" if wanted.traffic else _grid_words(wanted)
    print(f"sizes are chosen while measuring, from {', '.join([sizes, *levels])},")
    print(f"until the model's mean error is below {percent(wanted.error)}")
    drawn: list[Point] = []
    for _ in range(round(_USUAL_SIZES * max(1.0, math.sqrt(_USUAL_ERROR / wanted.error)))):
        drawn += filter(None, (interest.at(c).draw(planned.plan.seed, drawn) for c in interest.levels))
    # Every other size is chosen for what it costs too, and is cheaper than one that is drawn.
    whole_s = 0.75 * sum(left.point_s(point) for point in drawn)
    if wanted.budget_s is not None:
        whole_s = min(whole_s, wanted.budget_s)
    print(
        f"about {spell(whole_s)} in all for some {len(drawn)} sizes, plus loading the model; guessed from typical "
        f"rates of a {seen.device}, good to a factor of three"
    )


def _grid_words(wanted: AdaptivePlan) -> str:
    (least_m, most_m), (least_n, most_n) = wanted.inputs, wanted.outputs
    return f"{least_m} to {most_m} input and {least_n} to {most_n} output tokens"


def _weights(model: Model) -> list[str]:
    """What is known of a model's weights: a server may not say."""
    parameters = "parameters unknown" if model.parameters is None else f"{model.parameters:,} parameters"
    return [parameters, *filter(None, [model.dtype])]


def _open_words(rate_per_s: float | None) -> str:
    return "open loop, arrivals of a log" if rate_per_s is None else f"open loop, {number(rate_per_s, 3)} requests/s"


class _Countdown(ProgressColumn):
    """The time left, counted down while a trial runs."""

    def render(self, task: Task) -> Text:
        end_s = task.fields["end_s"]
        return Text("" if end_s is None else _left_text(end_s - time.monotonic()))


class Display(Observer):
    """Shows a running sweep: a live line in a terminal, one plain line a trial elsewhere. To be closed."""

    def __init__(self, plan: Plan, config: Config, store: RunStore) -> None:
        self._plan, self._config, self._store = plan, config, store
        self._console = open_console()
        self._progress: Progress | None = None
        self._model: Model | None = None
        self._time: TimeLeft | None = None
        self._schedule: Schedule | None = None
        self._since_s = 0.0
        self._number = 0  # of the point, from 1; 0 in the drift check
        self._disturbance_told = False
        self._marks_told: set[str] = set()
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                *([BarColumn(bar_width=20)] if self._console.width >= 100 else []),
                _Countdown(),
                console=self._console,
                # Drawing takes CPU time from what is measured.
                refresh_per_second=1,
            )
            total = None if plan.adaptive else len(plan.points)
            self._task = self._progress.add_task("loading", total=total, end_s=None)
            self._progress.start()

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""
        if self._progress:
            self._progress.stop()

    def loading(self, model: Model) -> None:
        """Say what is loaded."""
        self._model = model
        kind = {True: ["random weights"], False: ["real weights"], None: []}[model.random_weights]
        self.notice(f"loading {model.name}: {', '.join([*_weights(model), *kind])}")

    def trial_starts(self, spec: TrialSpec, schedule: Schedule) -> None:
        """Show which point is measured and how long the rest may take."""
        self._schedule, self._plan = schedule, schedule.plan
        if self._time is None:
            self._time = self._begin()
            self._since_s = time.monotonic()
        remaining = len(schedule.remaining())
        self._number = len(self._plan.points) - remaining + 1 if remaining else 0
        if self._progress:
            width = self._error_text() or (self._width(spec.point) if spec.purpose == "measure" else "")
            label = self._label(spec.purpose, spec.point, spec.rate_per_s, ended=False)
            text = ": ".join(filter(None, (label, width)))
            left_s = self._left_s()
            end_s = None if left_s is None else time.monotonic() + left_s
            done = len(self._plan.points) - remaining
            self._progress.update(self._task, completed=done, description=text, end_s=end_s)

    def trial_ended(self, record: Trial) -> None:
        """Take the trial into account; without a terminal, print it."""
        now_s = time.monotonic()
        if self._time is not None:
            self._time.add(record, now_s - self._since_s)
        self._since_s = now_s
        self._tell_error(record)
        disturbed = record.status == "disturbed"
        self._tell_marks(record)
        if self._progress and (record.status == "ok" or (disturbed and self._disturbance_told)):
            return
        self.notice(self._trial_text(record))
        if disturbed and not self._disturbance_told:
            self._disturbance_told = True
            self.notice(
                "Disturbed trials are kept and marked, and measured again up to 3 times a point. Close other programs, "
                "or raise --max-foreign-load."
            )

    def _tell_error(self, record: Trial) -> None:
        """How right the costs are by now, once for each size that was chosen; in a terminal the live line has it."""
        known = self._schedule is not None and self._schedule.reached() is not None
        if known and not self._progress and record.purpose == "measure":
            self.notice(self._error_text())

    def _error_text(self) -> str:
        """How right the fitted costs are, and how right they are to be; empty where that is not what ends the run."""
        if self._schedule is None or self._plan.adaptive is None:
            return ""
        wanted, reached = f"wanted: {percent(self._plan.adaptive.error)}", self._schedule.reached()
        if reached is None:
            return f"error of the model: not known yet ({wanted})"
        return f"error of the model: {_QUANTITIES[reached.quantity]} {percent(reached.error)} ({wanted})"

    def _tell_marks(self, record: Trial) -> None:
        """What a server's window is marked with, each kind once: the results count them."""
        for words in record.warnings if record.load else ():
            kind = without_numbers(words)
            if kind not in self._marks_told:
                self._marks_told.add(kind)
                self.notice(f"Marked: trial {record.id} ({record.point.words()}): {words}.")

    def results(self) -> None:
        """The numbers that matter, the table of every point, and where the records are."""
        self.close()
        if self._store.run:
            run = RecordedRun(self._store.directory, self._store.run, tuple(self._store.records))
            print_results(run, self._console)
            self.notice(f"{len(self._store.records)} trials are in {self._store.directory}")

    def notice(self, text: str) -> None:
        """One line that stays."""
        try:
            self._console.print(text, markup=False, soft_wrap=True)
            # Lines must reach a pipe or a log file as they happen.
            sys.stdout.flush()
        except OSError as error:
            # A full disk under the log, or a reader that has gone, must not cost a measurement.
            self._console.quiet = True
            print(f"Output closed ({error.strerror}); measuring continues.", file=sys.stderr)

    def _begin(self) -> TimeLeft:
        """What earlier sessions teach of the time that trials take."""
        assert self._model
        assert self._store.run
        session = self._store.run.sessions[-1]
        # It is stored for 1 %.
        window_s = session.energy.needed_window_s * 0.01 / self._plan.stopping.window_precision
        config = self._config
        guess = RequestGuess(self._model, self._store.run.backend.device, config.kv_cache)
        left = TimeLeft(self._plan, guess, window_s, self._store.run.backend.concurrency == "closed loop")
        for trial in self._store.records:
            left.add(trial, None)
        return left

    def _left_s(self) -> float | None:
        """None where nobody knows how many sizes it takes."""
        if self._plan.adaptive:
            return None
        assert self._time
        assert self._schedule
        assert self._store.run
        idle = self._store.run.sessions[-1].idle.get("before")
        idle_s = 0.0 if idle is None else (idle.duration_s or 0.0) + SETTLE_S
        return self._time.left_s(self._schedule.remaining(), idle_s)

    def _label(self, purpose: str, point: Point, rate_per_s: float | None, ended: bool) -> str:
        """Which trial of which point this is, one that has ended or the next."""
        if purpose == "open loop":
            return _open_words(rate_per_s)
        trials = [trial for trial in self._store.records if (trial.asked, trial.purpose) == (point, purpose)]
        count = "" if purpose == "warmup" else f" {len(trials) + (not ended)}"
        points = len(self._plan.points)
        of_points = "" if self._plan.adaptive else f"/{points}"
        # A point that is skipped is none of those that remain.
        place = f"{self._number or points}{of_points}" if self._number or purpose == "measure" else "drift check"
        return f"{place}  {point.words()}, {'warm-up' if purpose == 'warmup' else 'trial'}{count}"

    def _width(self, point: Point) -> str:
        """How wide the interval of a point still is, and how wide it may be."""
        assert self._schedule
        width = self._plan.stopping.width(self._schedule.samples(point))
        if width is None:
            return ""
        if width.relative:
            quantity = _QUANTITIES[width.quantity]
            return f"{quantity} ± {percent(width.half_width)} (wanted: ± {100 * width.wanted:g} %)"
        return f"runtime ± {number(width.half_width, 2)} s (wanted: ± {width.wanted:g} s)"

    def _trial_text(self, record: Trial) -> str:
        label = self._label(record.purpose, record.asked, record.rate_per_s, ended=True)
        if record.runtime_s is None:
            return "; ".join(filter(None, [f"{label}: {failure_text(record)}", self._left_text()]))
        text = ""
        for what, spent_s in (
            ("compiled", record.compile_s),
            ("captured", record.capture_s),
            ("compared with generate()", record.check_s),
        ):
            if spent_s is not None:
                text += f"{what} in {number(spent_s, 3)} s, "
        text += f"{record.input_tokens} in, {record.output_tokens} out came: " if record.asked_tokens else ""
        text += f"{number(record.runtime_s)} s per request"
        speed = output_tokens_per_s(Row(record, None))
        text += f", {number(speed)} output tokens/s" if speed and record.concurrency > 1 else ""
        total = record.energy.total if record.energy else None
        if total and total.request_j is not None:
            shown = plus_minus(total.request_j, total.request_ci95_j, "J")
            text += f", {estimated(total.request_j, 'J') if total.method == 'estimated' else shown}"
        parts = [text, self._width(record.asked) if record.purpose == "measure" else "", self._left_text()]
        if record.status != "ok":
            # Who it is stays mostly the same: the first line and the result say it.
            programs = [] if self._disturbance_told else names_of(record.conditions.get("foreign_programs"))
            named = ", ".join(programs)
            parts.insert(1, failure_text(record) + (f" ({named})" if named else ""))
        return f"{label}: {'; '.join(filter(None, parts))}"

    def _left_text(self) -> str:
        left_s = self._left_s()
        return "" if left_s is None else _left_text(left_s)


def _left_text(left_s: float) -> str:
    return f"about {spell(left_s)} left" if left_s >= 1 else "nearly done"
