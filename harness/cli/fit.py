"""``joulebench fit``: turn measurements into cost models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from harness.cli import options
from harness.core.quantities import METERS
from harness.modelling.forms import AUTO, DEFAULT, FORMS

MeterName = StrEnum("MeterName", METERS)  # type: ignore[misc]  # as the forms' names
FormName = StrEnum("FormName", [*FORMS, AUTO])  # type: ignore[misc]  # the names are those of a registry

_Meter = Annotated[
    MeterName | None,
    Option(help="Kind of meter that read the energies; for --measurements.", show_default="not known"),
]
_Where = Annotated[
    list[str] | None,
    Option(metavar="COLUMN=VALUE", help="Only rows of --measurements with this value; repeatable.", show_default=False),
]
_TableForm = Annotated[
    str | None, Option(metavar="NAME", help="Form of --measurements.", show_default="the one that its columns tell")
]
_TrustUnits = Annotated[
    bool, Option("--trust-units", help="Take energies of --measurements though no machine has such a power.")
]
_Concurrency = Annotated[
    int | None,
    Option(
        "--concurrency",
        "-c",
        metavar="C",
        min=1,
        help="Fit what was measured with so many requests in flight.",
        show_default="1, or the fewest with enough points",
    ),
]


def fit(
    runs: Annotated[list[Path] | None, Argument(metavar="RUN", help="Run directories of one system and model.")] = None,
    measurements: Annotated[
        Path | None,
        Option(help="Trials measured elsewhere: a table of ours or of a tool's, as CSV, JSON, JSON lines or Parquet."),
    ] = None,
    system: Annotated[str | None, Option(help="Name of the machine.", show_default="the device's")] = None,
    model: Annotated[str | None, Option(help="Name of the model; for --measurements.")] = None,
    kv_cache: Annotated[
        bool | None,
        Option("--kv-cache/--no-kv-cache", help="Whether the KV cache was on; for --measurements.", show_default="on"),
    ] = None,
    meter: _Meter = None,
    where: _Where = None,
    table_form: _TableForm = None,
    trust_units: _TrustUnits = False,
    concurrency: _Concurrency = None,
    form: Annotated[
        FormName, Option(help=f"Which model of the cost; {AUTO}: the one with the smaller held-out error.")
    ] = FormName(DEFAULT),
    drop_suspects: Annotated[
        bool, Option("--drop-suspects", help="Leave out points far outside the scatter of the others.")
    ] = False,
    name: Annotated[str | None, Option(help="Name of the profile.", show_default="SYSTEM-MODEL-BACKEND-DTYPE")] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Write the profile to this file.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Fit runtime and energy models to runs and report their error at points left out of the fit."""
    from harness.core.errors import UserError
    from harness.modelling.measured_table import TableChoice
    from harness.modelling.profile import check_name
    from harness.modelling.profile_fit import fit_pooled
    from harness.modelling.sources import from_csv, from_runs
    from harness.runs.records import load_run
    from harness.showing.fits import print_fit

    if bool(runs) == (measurements is not None):
        raise UserError("name one of the two: run directories (joulebench fit runs/…), or a CSV with --measurements")
    for option, text in (("--system", system), ("--model", model)):
        if text is not None and not text.strip():
            raise UserError(f"{option} is empty: name it")
    if name is not None:
        check_name(name)
    if measurements is not None:
        choice = TableChoice(options.assignments("--where", where), table_form, trust_units)
        pooled = from_csv(measurements, system, model, kv_cache, concurrency, meter, choice)
        if as_json:
            options.print_notes(pooled.table_notes)
    else:
        if (model, kv_cache, meter) != (None, None, None):
            raise UserError("--model, --no-kv-cache and --meter go with --measurements; a run knows its own")
        if where or table_form or trust_units:
            raise UserError("--where, --table-form and --trust-units go with --measurements")
        pooled = from_runs([load_run(run) for run in runs or []], system, concurrency)
    made = fit_pooled(pooled, form.value, drop_suspects, name)
    if output is not None:
        made.profile.save(output)
    print_fit(made, output, as_json)
