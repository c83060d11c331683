"""What the person at the terminal sees of a run: its plan, progress while it measures, tables at the end."""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from backends.base import Config, Model
from harness.core.sizes import Point
from harness.measuring import time_guess
from harness.measuring.observer import Observer
from harness.measuring.plan import Plan
from harness.measuring.planned_run import PlannedRun
from harness.measuring.schedule import Schedule, TrialSpec
from harness.runs.records import RecordedRun
from harness.runs.schema import Trial
from harness.runs.store import RunStore
from harness.runs.summary import summarise
from harness.showing.terminal import open_console, plus_minus, print_json
from harness.showing.trials import print_results


def print_plan(planned: PlannedRun, as_json: bool = False) -> None:
    """Every point in its order, with the guessed time of a request and of the point. Raises UserError."""
    plan, seen = planned.plan, planned.foreseen()
    if as_json:
        options = {"config": asdict(planned.config), "energy": asdict(planned.energy)}
        record = plan.record(None).model_dump(mode="json")
        print_json({"backend": planned.backend, "device": seen.device, **options, "plan": record})
        return
    model = seen.model
    print(f"{planned.backend}, {model.name} ({model.parameters:,} parameters, {model.dtype}) on {seen.device}")
    points = f"{len(plan.points)} points" if len(plan.points) > 1 else "1 point"
    print(f"{points} in this order, guessed at {seen.trials} trials each after one warm-up:")
    total_s = 0.0
    for point in plan.points:
        size = f"  m = {point.input_tokens:5}  n = {point.output_tokens:5}"
        request_s = seen.request_s.get(point)
        if request_s is None:
            print(f"{size}  skipped: beyond the model's context")
            continue
        point_s = time_guess.point_s(plan, request_s, seen.trials)
        total_s += point_s
        print(f"{size}  {request_s:9.3g} s a request  {point_s:9.3g} s")
    print(
        f"about {time_guess.spell(total_s)} in all; a guess from typical rates of a {seen.device}, "
        "good to a factor of three"
    )


class Display(Observer):
    """Shows a running sweep: a live line in a terminal, one plain line a trial elsewhere. To be closed."""

    def __init__(self, plan: Plan, config: Config, store: RunStore) -> None:
        self._plan, self._config, self._store = plan, config, store
        self._console = open_console()
        self._progress: Progress | None = None
        self._model: Model | None = None
        self._left = ""
        self._speed: list[float] = []
        self._remedy_told = False
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("points"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=self._console,
                # Drawing takes CPU time from what is measured.
                refresh_per_second=1,
            )
            self._task = self._progress.add_task("loading", total=len(plan.points), left="")
            self._progress.start()

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""
        if self._progress:
            self._progress.stop()

    def loading(self, model: Model) -> None:
        """Say what is loaded."""
        self._model = model
        weights = "random weights" if model.random_weights else "real weights"
        self.notice(f"loading {model.name}: {model.parameters:,} parameters, {model.dtype}, {weights}")

    def trial_starts(self, spec: TrialSpec, schedule: Schedule) -> None:
        """Show which point is measured and how long the rest may take."""
        remaining = schedule.remaining()
        self._left = f"about {time_guess.spell(self._remaining_s(remaining))} left" if remaining else "nearly done"
        if self._progress:
            done = len(self._plan.points) - len(remaining)
            text = f"m={spec.point.input_tokens} n={spec.point.output_tokens} {spec.purpose}{self._so_far(spec.point)}"
            self._progress.update(self._task, completed=done, description=text, left=self._left)

    def trial_ended(self, record: Trial) -> None:
        """Take the trial into account; without a terminal, print it."""
        if record.status == "ok" and record.runtime_s and self._model:
            self._speed.append(record.runtime_s / self._guess_s(record.point))
        if self._progress and record.status == "ok":
            return
        self.notice(self._trial_text(record))
        if record.status == "discarded" and not self._remedy_told:
            self._remedy_told = True
            self.notice(
                "a disturbed trial is measured again; where other programs are to blame stop them, or let more pass "
                "with --max-foreign-load"
            )

    def results(self) -> None:
        """The table of every point, drift and where the records are."""
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
            print(f"output can't be written any more ({error.strerror}); measuring goes on", file=sys.stderr)

    def _so_far(self, point: Point) -> str:
        records = [record for record in self._store.records if record.point == point]
        summaries = summarise(records, self._config.batch_size)
        if not summaries or summaries[0].runtime_s is None:
            return ""
        return f": {plus_minus(summaries[0].runtime_s)} s after {summaries[0].trials}"

    def _trial_text(self, record: Trial) -> str:
        text = f"m={record.input_tokens} n={record.output_tokens} {record.purpose}: "
        if record.status != "ok":
            return f"{text}{record.status}: {record.reason}"
        for what, spent_s in (("compiled", record.compile_s), ("captured", record.capture_s)):
            if spent_s is not None:
                text += f"{what} in {spent_s:.3g} s, "
        text += f"{record.runtime_s:.4g} s a request, {record.repeats} in {record.window_s:.3g} s"
        total = record.energy.total if record.energy else None
        if total and total.request_j is not None:
            text += f", {total.request_j:.4g} ± {total.request_ci95_j:.2g} J ({total.method})"
        mean = self._so_far(record.point)
        return f"{text}; mean{mean}; {self._left}" if mean else f"{text}; {self._left}"

    def _guess_s(self, point: Point) -> float:
        assert self._model
        return time_guess.request_s(
            self._model, self._config.device, point, kv_cache=self._config.kv_cache, batch_size=self._config.batch_size
        )

    def _remaining_s(self, remaining: list[tuple[Point, int]]) -> float:
        correction = statistics.median(self._speed) if self._speed else 1.0
        trials = time_guess.expected_trials(self._plan)
        return sum(
            time_guess.point_s(self._plan, correction * self._guess_s(point), max(1, trials - done))
            for point, done in remaining
        )
