"""``joulebench measure``: run a plan and leave a run directory."""

from __future__ import annotations

import shlex
import signal
import sys
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from harness.cli.options import MeasureOptions, takes
from harness.core.errors import INTERRUPTED

if TYPE_CHECKING:
    from harness.measuring.planned_run import PlannedRun

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@takes(MeasureOptions)
def measure(output: Path | None, dry_run: bool, pictures: bool, **options: Any) -> None:
    """Measure this machine: sweeps of real inference, recorded trial by trial."""
    from harness.measuring.planned_run import prepare
    from harness.showing.progress import print_plan

    given = {name: value.value if isinstance(value, StrEnum) else value for name, value in options.items()}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    planned = prepare(**{name: value for name, value in given.items() if value is not None})
    if dry_run:
        print_plan(planned)
        return
    directory = output or planned.directory
    _run(planned, directory)
    _finish(directory, (options["fixed_input"], options["fixed_output"]) if pictures else None)


def _finish(directory: Path, drawn: tuple[int, int] | None) -> None:
    """Draw a run, with its sweeps at the ``drawn`` lengths, and say what to type next, or why nothing was measured."""
    from harness.runs.records import load_run
    from harness.showing.run_results import nothing_measured
    from harness.showing.terminal import open_console
    from harness.showing.trials import print_next

    if drawn is not None:
        from harness.showing.pictures import draw_all

        for text in draw_all(directory, *drawn):
            print(text, flush=True)
    run = load_run(directory)
    if not any(trial.usable for trial in run.trials):
        print(f"joulebench: {nothing_measured(run)}", file=sys.stderr)
        raise typer.Exit(1)
    print_next(run, open_console())


def _run(planned: PlannedRun, directory: Path) -> None:
    """Measure, show it, and end every way it can end in one clear line."""
    from harness.measuring.model_host import SweepStopped
    from harness.measuring.sweep import run_sweep
    from harness.runs.store import RunStore, StorageError
    from harness.showing.progress import Display
    from harness.showing.terminal import program

    for number in _SIGNALS:
        # nohup has hang-ups ignored, and means it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    resume = f"resume with: {shlex.join([*program(), *sys.argv[1:]])}"
    with RunStore(directory) as store, closing(Display(planned.plan, planned.config, store)) as display:
        for notice in store.notices:
            display.notice(notice)
        try:
            run_sweep(planned, store, display)
        except KeyboardInterrupt:
            display.close()
            kept = f"{len(store.records)} trials are kept in {directory}" if store.run else "nothing was measured yet"
            print(f"interrupted; {kept}; {resume}", file=sys.stderr)
            # Not typer.Exit, whose status for an interrupt says that nothing was said yet.
            sys.exit(INTERRUPTED)
        except (SweepStopped, StorageError) as error:
            display.close()
            kept = f"{len(store.records)} trials are kept"
            print(f"joulebench: stopped: {error}; {kept}; {resume}", file=sys.stderr)
            raise typer.Exit(1) from None
        display.results()


def _interrupt(number: int, _frame: object) -> NoReturn:
    # A second signal must not interrupt the ending.
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt
