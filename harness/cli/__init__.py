"""The command line: gathers the commands and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from harness.cli import (
    attribute,
    compare,
    doctor,
    export,
    figures,
    fit,
    measure,
    meter,
    paper,
    predict,
    profiles,
    report,
    route,
    rule,
    simulate,
    threshold,
    trials,
    workload,
)
from harness.cli.foreign_options import refuse_foreign, unknown
from harness.cli.help import CONTEXT, Command, Group
from harness.core.errors import INTERRUPTED, DiskFull, UserError
from harness.core.version import __version__

EXAMPLES = """
Examples:

\b
  joulebench measure --pictures
  joulebench predict m1-pro-llama-2-7b -p 128 -n 256
  joulebench threshold m1-pro-llama-2-7b swing-a100-llama-2-7b
"""

app = typer.Typer(
    cls=Group,
    context_settings=CONTEXT,
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help starts faster than rich's and leaves the sentences twice the width.
    rich_markup_mode=None,
)
SECTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Measure": (doctor.doctor, measure.measure, meter.meter, trials.trials),
    "Model": (fit.fit, predict.predict, compare.compare, attribute.attribute, export.export),
    "Decide": (threshold.threshold, route.route, simulate.simulate),
    "Draw": (figures.figures, report.report, paper.paper),
}
"""The commands as the help lists them, by heading."""
for heading, commands in SECTIONS.items():
    for command in commands:
        app.command(cls=Command, rich_help_panel=heading)(command)
app.add_typer(profiles.app, name="profiles", rich_help_panel="Model")
app.add_typer(workload.app, name="workload", rich_help_panel="Decide")
app.add_typer(rule.app, name="rule", rich_help_panel="Decide")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"joulebench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Measure what LLM inference costs in seconds and joules on this machine, and decide what runs where."""


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 stopped by a fault or nothing measured, 2 bad input, 130 interrupted.
    """
    _make_output_safe()
    try:
        refuse_foreign(sys.argv[1:])
        status = app(standalone_mode=False, prog_name="joulebench")
        sys.stdout.flush()
        if status == INTERRUPTED:
            # Typer turns an interrupt into this status and says nothing.
            raise KeyboardInterrupt
        sys.exit(status)
    except DiskFull as error:
        _fail(str(error), 1)
    except UserError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", INTERRUPTED)
    except OSError as error:
        _fail(f"{error.filename or 'the output'}: {error.strerror or error}", 1)
    except Exception as error:
        # Not at the top: most starts need nothing of the backends.
        from backends.base import InvalidConfig

        if isinstance(error, InvalidConfig):
            _fail(str(error), 2)
        # typer's own errors (a wrong option, a missing argument) know how to word themselves.
        if not hasattr(error, "format_message"):
            raise
        if said := unknown(error):
            _fail(said, 2)
        message = error.format_message()
        context = getattr(error, "ctx", None)
        if not message and context:
            print(context.get_help())
            sys.exit(2)
        command = context.command_path if context else "joulebench"
        _fail(f"{message.rstrip('.')} (see {command} --help)", getattr(error, "exit_code", 2))


def _make_output_safe() -> None:
    """Let no character that a terminal or log file can't show, and no closed stream, end a measurement."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _fail(message: str, code: int) -> None:
    print(f"joulebench: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
