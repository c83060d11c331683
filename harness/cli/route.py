"""``joulebench route``: which of several systems should serve which request."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from harness.cli import options
from harness.core.errors import UserError

Systems = Annotated[
    list[str] | None,
    Argument(metavar="SYSTEM", help=f"Two systems or more. {options.SYSTEM}", show_default=False),
]
Shares = Annotated[list[str] | None, Option(help="S=0.05: this share of the served requests goes to S. Repeatable.")]
Capacities = Annotated[
    list[str] | None, Option(help="S=3600: system S is busy for at most so many seconds. Repeatable.")
]
Slo = Annotated[
    float | None,
    Option(min=0, callback=options.finite, help="Latency objective in seconds: slower systems don't serve a request."),
]
OutputUnknown = Annotated[bool, Option("--output-unknown", help="Decide on the input length alone, by expected cost.")]
WeightSweep = Annotated[bool, Option("--weight-sweep", help="Show the trade-off for all weights from 0 to 1.")]


def route(
    systems: Systems = None,
    profile: Annotated[list[str] | None, Option(hidden=True)] = None,
    workload: options.WorkloadOption = options.DEFAULT_WORKLOAD,
    share: Shares = None,
    capacity: Capacities = None,
    slo: Slo = None,
    output_unknown: OutputUnknown = False,
    weight: options.Weight = None,
    weight_sweep: WeightSweep = False,
    scale: options.ScaleOption = options.Scale.REFERENCE,
    reference: options.Reference = None,
    price_per_kwh: options.PricePerKwh = None,
    price_per_hour: options.PricePerHour = None,
    boundary: options.Boundary = None,
    idle: options.IdleOption = options.Idle.INCLUDED,
    allow_mixed: options.AllowMixed = False,
    horizon_s: options.Horizon = None,
    input_column: options.InputColumn = None,
    output_column: options.OutputColumn = None,
    form: options.LogForm = None,
    output_tokens: options.EveryOutput = None,
    skip_bad: options.SkipBad = False,
    as_json: options.AsJson = False,
    output: options.FigurePath = None,
    export: options.Export = None,
) -> None:
    """Send every request where it costs least, within shares, capacities and latency."""
    from harness.deciding.answers import decide_routing
    from harness.deciding.exported_rule import save_rule
    from harness.deciding.trace_files import load_workload
    from harness.showing.decision_figures import write_trade_off
    from harness.showing.decisions import print_routing

    if weight_sweep and scale is not options.Scale.REFERENCE:
        raise UserError("--weight-sweep weighs energy and runtime relative to --reference: leave out --scale")
    shares, capacities = options.named_numbers("--share", share), options.named_numbers("--capacity", capacity)
    answer = decide_routing(
        [*(systems or []), *(profile or [])],
        load_workload(workload, input_column, output_column, skip_bad, output_tokens, form),
        shares=shares,
        capacities=capacities,
        slo_s=slo,
        output_unknown=output_unknown,
        weight=weight,
        scale=scale,
        reference=reference,
        prices=options.prices(price_per_kwh, price_per_hour),
        boundary=boundary,
        idle=idle,
        allow_mixed=allow_mixed,
        horizon_s=horizon_s,
    )
    files = [] if output is None else write_trade_off(answer, output)
    if export is not None:
        save_rule(answer, export)
        files.append(export)
    options.print_notes(answer.fitted)
    print_routing(answer, files, as_json, weight_sweep)
