"""``joulebench route``: which of several systems should serve which request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from harness.cli import options, rate_options
from harness.core.errors import UserError

if TYPE_CHECKING:
    from harness.deciding.workload import Workload

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
    Option(
        min=0,
        callback=options.finite,
        help="Latency objective in seconds: slower systems don't serve a request; with --rate of the mean time.",
    ),
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
    rate: rate_options.Rate = None,
    replicas: rate_options.Replicas = None,
    slots: rate_options.Slots = None,
    chunk_tokens: rate_options.ChunkTokens = None,
    kv_tokens: rate_options.KvTokens = None,
    off_when_idle: rate_options.OffWhenIdle = False,
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
    from harness.deciding.trace_files import load_workload

    if weight_sweep and scale is not options.Scale.REFERENCE:
        raise UserError("--weight-sweep weighs energy and runtime relative to --reference: leave out --scale")
    profiles = [*(systems or []), *(profile or [])]
    sizes = options.Sizes(workload, input_column, output_column, skip_bad, output_tokens, form)
    prices = options.prices(price_per_kwh, price_per_hour)
    weighed: dict[str, Any] = {"weight": weight, "scale": scale, "reference": reference, "prices": prices}
    asked = {**weighed, "boundary": boundary, "idle": idle, "allow_mixed": allow_mixed, "slo_s": slo}
    limited = {"--share": share, "--capacity": capacity, "--output-unknown": output_unknown, "--horizon": horizon_s}
    bounds = {"--replicas": replicas, "--slots": slots, "--chunk-tokens": chunk_tokens, "--kv-tokens": kv_tokens}
    if rate is not None:
        rate_options.refuse_at_rate({**limited, "--weight-sweep": weight_sweep})
        fleet = {"limits": rate_options.limits_of(*bounds.values()), "off_when_idle": off_when_idle}
        _at_rate(profiles, sizes, rate, {**asked, **fleet}, as_json, output, export)
        return
    rate_options.refuse_without_rate({**bounds, "--off-when-idle": off_when_idle})
    asked |= {"shares": options.named_numbers("--share", share), "output_unknown": output_unknown}
    asked |= {"capacities": options.named_numbers("--capacity", capacity), "horizon_s": horizon_s}
    requests = load_workload(*sizes)
    _answer(profiles, requests, asked, as_json, weight_sweep, output, export)


def _answer(
    profiles: list[str],
    requests: Workload,
    asked: dict[str, Any],
    as_json: bool,
    weight_sweep: bool,
    output: Path | None,
    export: Path | None,
) -> None:
    from harness.deciding.answers import decide_routing
    from harness.deciding.exported_rule import save_rule
    from harness.showing.decision_figures import write_trade_off
    from harness.showing.decisions import print_routing

    answer = decide_routing(profiles, requests, **asked)
    files = [] if output is None else write_trade_off(answer, output)
    if export is not None:
        save_rule(answer, export)
        files.append(export)
    options.print_notes(answer.fitted)
    print_routing(answer, files, as_json, weight_sweep)


def _at_rate(
    profiles: list[str],
    sizes: options.Sizes,
    rate: str,
    asked: dict[str, Any],
    as_json: bool,
    output: Path | None,
    export: Path | None,
) -> None:
    from harness.deciding.rates.answers import RateOptions
    from harness.deciding.rates.routings import decide_routing_at_rate
    from harness.deciding.rates.rule import save_rate_rule
    from harness.showing.rate_answers import print_routing_at_rate
    from harness.showing.rate_figures import write_rate_curve

    answer = decide_routing_at_rate(profiles, *rate_options.arriving_of(rate, sizes), asked=RateOptions(**asked))
    files = [] if output is None else write_rate_curve(answer, output)
    if export is not None:
        save_rate_rule(answer, export)
        files.append(export)
    options.print_notes(answer.fitted)
    print_routing_at_rate(answer, files, as_json)
