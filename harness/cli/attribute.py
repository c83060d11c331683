"""``joulebench attribute``: what each request of a mixed load used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from harness.cli import options
from harness.core.errors import UserError

Log = Annotated[
    Path,
    Argument(
        metavar="LOG|RUN",
        help="Log of requests with sizes and times (CSV, JSON lines, Parquet), or a run with loops of requests.",
        show_default=False,
    ),
]


def attribute(
    log: Log,
    profile: Annotated[str, Option(help=options.SYSTEM)],
    energy_j: Annotated[
        float | None,
        Option("--energy", metavar="J", callback=options.finite, help="What a meter counted meanwhile, in joules."),
    ] = None,
    meter: Annotated[
        Path | None,
        Option(help="File of a meter: power or energy by time, a window's answer (JSON), a trial's trace (npz)."),
    ] = None,
    steps: Annotated[
        Path | None, Option(help="The server's own steps, as JSON lines: which request had how many tokens in each.")
    ] = None,
    by: Annotated[str | None, Option(metavar="COLUMN", help="Add up by a column of the log: user, model, key.")] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Write a CSV of a row a request.")] = None,
    boundary: options.Boundary = None,
    input_column: options.InputColumn = None,
    output_column: options.OutputColumn = None,
    time: Annotated[
        list[str] | None,
        Option(metavar="MARK=COLUMN", help="Column of the time that requests arrived, scheduled, first, last. Repeat."),
    ] = None,
    skip_bad: options.SkipBad = False,
    as_json: options.AsJson = False,
) -> None:
    """Share out the energy of a mixed load among its requests, each with a 95 % interval."""
    from harness.core.files import refuse_other_format, refuse_unwritable
    from harness.deciding.attributing.answer import attribute_requests
    from harness.deciding.attributing.loop_requests import attribute_run
    from harness.deciding.attributing.metered_energy import given_energy, read_metered
    from harness.deciding.attributing.timed_log import parse_time_columns, read_timed_log
    from harness.modelling.profile_fit import load_or_fit
    from harness.showing.attributed import print_attributed, write_attributed

    if energy_j is not None and meter is not None:
        raise UserError("give --energy or --meter, not both")
    if output is not None:
        refuse_other_format(output, ".csv")
        refuse_unwritable(output)
    loaded = load_or_fit(profile)
    options.print_notes(loaded.fitted)
    if log.is_dir():
        if any((energy_j, meter, steps, by, time, input_column, output_column)):
            raise UserError(f"{log} is a run, which has its own times and energies: leave out what is for logs")
        found = attribute_run(log, loaded.profile, boundary)
    else:
        read = read_timed_log(log, input_column, output_column, by, parse_time_columns(time or []), skip_bad)
        metered = None if meter is None else read_metered(meter, *read.span_s)
        metered = metered if energy_j is None else given_energy(energy_j)
        found = [(log.name, attribute_requests(read, loaded.profile, metered, steps, boundary))]
    if output is not None:
        write_attributed(output, found, by)
    print_attributed(found, by, [] if output is None else [output], as_json)
