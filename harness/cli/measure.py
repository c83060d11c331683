"""``joulebench measure``: run a plan and leave a run directory."""

from __future__ import annotations

import shlex
import signal
import sys
from contextlib import closing, nullcontext, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from harness.cli.measure_options import MeasureOptions
from harness.cli.options import takes
from harness.core.errors import INTERRUPTED
from harness.core.files import refuse_unwritable, write_atomically

if TYPE_CHECKING:
    from harness.measuring.planned_run import PlannedRun
    from harness.runs.records import RecordedRun

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@takes(MeasureOptions)
def measure(
    output: Path | None, dry_run: bool, pictures: bool, as_json: bool, export_json: Path | None, **options: Any
) -> None:
    """Measure this machine, or a server: sweeps of real inference, recorded trial by trial."""
    from harness.measuring.planned_run import prepare
    from harness.showing.progress import plan_json, print_plan

    planned = prepare(**_given(options))
    if export_json is not None:
        refuse_unwritable(export_json)
    if dry_run:
        if export_json is not None:
            write_atomically(export_json, plan_json(planned))
        print_plan(planned, as_json)
        return
    directory = output or planned.directory
    # With --json, stdout has the result alone.
    aside = redirect_stdout(sys.stderr) if as_json else nullcontext()
    with aside:
        _run(planned, directory)
        if pictures:
            from harness.showing.pictures import draw_all

            for text in draw_all(directory, options["fixed_input"], options["fixed_output"]):
                print(text, flush=True)
    from harness.runs.records import load_run
    from harness.showing.run_summary import run_summary

    run = load_run(directory)
    if export_json is not None:
        write_atomically(export_json, run_summary(run))
    if as_json:
        print(run_summary(run), end="")
    with aside:
        _say_next(run)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """What was given, by the names of ``prepare``, other programs' ways of saying it included. Raises UserError."""
    from harness.cli.foreign_options import device_of_layers, one_size, refuse_warmups, refuse_zero

    plain: dict[str, Any] = {
        name: value.value if isinstance(value, StrEnum) else value for name, value in options.items()
    }
    input_len, output_len, layers = (plain.pop(name) for name in ("input_len", "output_len", "gpu_layers"))
    refuse_warmups(plain.pop("warmup"))
    refuse_zero(plain["input_tokens"], plain["output_tokens"])
    if plain["arrivals"] is not None:
        from harness.deciding.arrivals import read_arrivals

        plain["arrivals"] = read_arrivals(plain["arrivals"])
    if plain["traffic"] is not None:
        from harness.deciding.trace_files import load_workload

        found = load_workload(str(plain["traffic"]))
        columns = (column.tolist() for column in (found.input_tokens, found.output_tokens, found.count))
        plain["traffic"] = tuple(zip(*columns, strict=True))
    plain["server_flags"] = tuple(plain["server_flags"] or ())
    plain["points"] = (*(plain["points"] or ()), *one_size(input_len, output_len))
    if plain["calibration"] is not None:
        plain["calibration"] = tuple(plain["calibration"])
    if layers is not None:
        plain["device"] = device_of_layers(layers, plain["device"], plain["backend"] or "transformers")
    return {name: value for name, value in plain.items() if value is not None}


def _say_next(run: RecordedRun) -> None:
    """What to type next; where nothing was measured why, and exit code 1."""
    from harness.showing.run_results import nothing_measured
    from harness.showing.terminal import open_console
    from harness.showing.trials import print_next

    if not any(trial.usable or trial.usable_load for trial in run.trials):
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
