"""What the person at the terminal sees of a run: progress while it measures, tables at the end."""

from __future__ import annotations

import statistics
import sys
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from backends.base import Config, Model
from harness import estimate
from harness.plan import Plan
from harness.schedule import Schedule
from harness.store import RunStore
from harness.summary import Estimate, drift, idle_drift, summarise
from harness.types import Point, TrialRecord, TrialSpec


class Display:
    """Shows a running sweep: a live line in a terminal, one plain line a trial elsewhere. A context manager."""

    def __init__(self, plan: Plan, config: Config, store: RunStore) -> None:
        self._plan = plan
        self._config = config
        self._store = store
        self._console = _console()
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""
        if self._progress:
            self._progress.stop()

    def notice(self, text: str) -> None:
        """One line that stays."""
        self._print(text)

    def loading(self, model: Model) -> None:
        """Say what is loaded."""
        self._model = model
        weights = "random weights" if model.random_weights else "real weights"
        self._print(f"loading {model.name}: {model.parameters:,} parameters, {model.dtype}, {weights}")

    def trial_starts(self, spec: TrialSpec, schedule: Schedule) -> None:
        """Show which point is measured and how long the rest may take."""
        remaining = schedule.remaining()
        self._left = f"about {estimate.spell(self._remaining_s(remaining))} left" if remaining else "nearly done"
        if self._progress:
            done = len(self._plan.points) - len(remaining)
            self._progress.update(self._task, completed=done, description=self._point_text(spec), left=self._left)

    def trial_ended(self, record: TrialRecord) -> None:
        """Take the trial into account; without a terminal, print it."""
        self._learn(record)
        if self._progress and record.status == "ok":
            return
        self._print(self._trial_text(record))
        if record.status == "discarded" and not self._remedy_told:
            self._remedy_told = True
            self._print(
                "a disturbed trial is measured again; where other programs are to blame stop them, or let more pass "
                "with --max-foreign-load"
            )

    def results(self) -> None:
        """The table of every point, drift and where the records are."""
        self.close()
        if self._store.run:
            print_results(self._store.records, self._store.run, self._console)
            self._print(f"{len(self._store.records)} trials are in {self._store.directory}")

    def _print(self, text: str) -> None:
        try:
            self._console.print(text, markup=False, soft_wrap=True)
            # Lines must reach a pipe or a log file as they happen.
            sys.stdout.flush()
        except OSError as error:
            # A full disk under the log, or a reader that has gone, must not cost a measurement.
            self._console.quiet = True
            print(f"output can't be written any more ({error.strerror}); measuring goes on", file=sys.stderr)

    def _point_text(self, spec: TrialSpec) -> str:
        m, n = spec.point.input_tokens, spec.point.output_tokens
        return f"m={m} n={n} {spec.purpose}{self._so_far(spec.point)}"

    def _so_far(self, point: Point) -> str:
        records = [
            record
            for record in self._store.records
            if (record.input_tokens, record.output_tokens) == (point.input_tokens, point.output_tokens)
        ]
        summaries = summarise(records, self._config.batch_size)
        if not summaries or summaries[0].runtime_s is None:
            return ""
        return f": {_plus_minus(summaries[0].runtime_s)} s after {summaries[0].trials}"

    def _trial_text(self, record: TrialRecord) -> str:
        text = f"m={record.input_tokens} n={record.output_tokens} {record.purpose}: "
        if record.status != "ok":
            return f"{text}{record.status}: {record.reason}"
        for what, spent_s in (("compiled", record.compile_s), ("captured", record.capture_s)):
            if spent_s is not None:
                text += f"{what} in {spent_s:.3g} s, "
        text += f"{record.runtime_s:.4g} s a request, {record.repeats} in {record.window_s:.3g} s"
        if record.energy and record.energy["total"]["request_j"] is not None:
            total = record.energy["total"]
            text += f", {total['request_j']:.4g} ± {total['request_ci95_j']:.2g} J ({total['method']})"
        mean = self._so_far(Point(record.input_tokens, record.output_tokens))
        return f"{text}; mean{mean}; {self._left}" if mean else f"{text}; {self._left}"

    def _learn(self, record: TrialRecord) -> None:
        if record.status == "ok" and record.runtime_s and self._model:
            point = Point(record.input_tokens, record.output_tokens)
            self._speed.append(record.runtime_s / self._guess_s(point))

    def _guess_s(self, point: Point) -> float:
        assert self._model
        return estimate.request_s(
            self._model,
            self._config.device,
            point,
            kv_cache=self._config.kv_cache,
            batch_size=self._config.batch_size,
        )

    def _remaining_s(self, remaining: list[tuple[Point, int]]) -> float:
        correction = statistics.median(self._speed) if self._speed else 1.0
        trials = estimate.expected_trials(self._plan)
        return sum(
            estimate.point_s(self._plan, correction * self._guess_s(point), max(1, trials - done))
            for point, done in remaining
        )


def print_trials(records: list[TrialRecord], run: dict[str, Any]) -> None:
    """Every trial as a table row, then the points."""
    console = _console()
    table = _table("trial", "purpose", "status", "input", "output", "repeats", "prefill s", "decode s", "runtime s")
    for heading in ("J/request", "J/prefill", "J/decode", "J/output token", "J/token"):
        table.add_column(heading, justify="right")
    table.add_column("method or reason", overflow="fold")
    batch_size = run["backend"]["config"]["batch_size"]
    for record in records:
        table.add_row(*_trial_cells(record, batch_size))
    console.print(table)
    print_results(records, run, console)


def print_results(records: list[TrialRecord], run: dict[str, Any], console: Console) -> None:
    """Every point as a table row, what went wrong, drift and idle power."""
    batch_size = run["backend"]["config"]["batch_size"]
    summaries = sorted(summarise(records, batch_size), key=lambda summary: summary.point)
    # Narrow enough for a terminal of 80 columns.
    table = _table("input", "output", "trials", "prefill\ns", "decode\ns", "tokens\n/s", "runtime\ns", "energy\nJ")
    for summary in summaries:
        table.add_row(
            str(summary.point.input_tokens),
            str(summary.point.output_tokens),
            str(summary.trials),
            *(f"{value.mean:.3g}" if value else "–" for value in (summary.prefill_s, summary.decode_s)),
            f"{summary.tokens_per_s.mean:.4g}" if summary.tokens_per_s else "–",
            *(_plus_minus(value) if value else "–" for value in (summary.runtime_s, summary.energy_j)),
        )
    console.print(table)
    if any(summary.trials == 1 for summary in summaries):
        console.print("± ?: a single trial says nothing about its own spread")
    methods = {summary.energy_method for summary in summaries if summary.energy_method}
    console.print(f"energy: {', '.join(sorted(methods)) or 'not measured'}")
    for summary in summaries:
        if summary.trouble:
            m, n = summary.point.input_tokens, summary.point.output_tokens
            console.print(f"m = {m}, n = {n}: {summary.trouble}", markup=False)
    discarded = [summary for summary in summaries if (summary.trouble or "").startswith("discarded")]
    if discarded:
        console.print(
            f"{len(discarded)} of {len(summaries)} points were not measured, because every trial was disturbed: stop "
            "other programs and measure into a new directory, or let more pass with --max-foreign-load"
        )
    shift = drift(records)
    if shift:
        interval = " ± ?" if shift.half_width is None else f" ± {shift.half_width:.1%}"
        point_text = f"m = {shift.point.input_tokens}, n = {shift.point.output_tokens}"
        console.print(f"drift: the first point ({point_text}) took {shift.change:+.1%}{interval} at the end")
    for session in run["sessions"]:
        for idle in idle_drift(session):
            watts = f"{_plus_minus(idle.before_w)} W before, {_plus_minus(idle.after_w)} W after"
            console.print(f"idle power of {idle.domain}: {watts}, change {_plus_minus(idle.change_w)} W")


class _Console(Console):
    """A console that leaves it to its user what a broken pipe means."""

    def on_broken_pipe(self) -> None:
        raise


def _console() -> Console:
    """A console; where nobody's terminal says how wide it is, wide enough for every table."""
    console = _Console(highlight=False)
    return console if console.is_terminal else _Console(highlight=False, width=200)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _trial_cells(record: TrialRecord, batch_size: int) -> list[str]:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    def joules(key: str, tokens: int = 1) -> str:
        if total.get(f"{key}_j") is None:
            return "–"
        return f"{total[f'{key}_j'] / tokens:.4g} ± {total[f'{key}_ci95_j'] / tokens:.2g}"

    total = record.energy["total"] if record.energy else {}
    outputs = batch_size * record.output_tokens
    tokens = batch_size * (record.input_tokens + record.output_tokens)
    return [
        str(record.id),
        record.purpose,
        record.status,
        str(record.input_tokens),
        str(record.output_tokens),
        "–" if record.repeats is None else str(record.repeats),
        number(record.prefill_s),
        number(record.decode_s),
        number(record.runtime_s),
        joules("request"),
        joules("prefill"),
        joules("decode"),
        joules("request", outputs),
        joules("request", tokens),
        escape(record.reason or total.get("reason") or total.get("method") or "not measured"),
    ]


def _plus_minus(value: Estimate) -> str:
    return f"{value.mean:.4g} ± {'?' if value.half_width is None else format(value.half_width, '.2g')}"
