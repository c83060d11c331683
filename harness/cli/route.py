"""``joulebench route``: which of several systems should serve which request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options
from harness.core.errors import UserError

if TYPE_CHECKING:
    from harness.deciding.assignment import Limit
    from harness.deciding.costs import Costs


def route(
    profile: Annotated[list[str], typer.Option(help="Profile of a system: a name or file. Repeat for each.")],
    workload: options.WorkloadOption,
    share: Annotated[
        list[str] | None, typer.Option(help="P=0.05: this share of the served requests goes to P. Repeatable.")
    ] = None,
    capacity: Annotated[
        list[str] | None, typer.Option(help="P=3600: system P is busy for at most so many seconds. Repeatable.")
    ] = None,
    slo: Annotated[
        float | None,
        typer.Option(
            min=0, callback=options.finite, help="Latency objective in seconds: slower systems don't serve a request."
        ),
    ] = None,
    output_unknown: Annotated[
        bool, typer.Option("--output-unknown", help="Decide on the input length alone, by expected cost.")
    ] = False,
    weight: options.Weight = None,
    weight_sweep: Annotated[
        bool, typer.Option("--weight-sweep", help="Show the trade-off for all weights from 0 to 1.")
    ] = False,
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
    output_tokens: options.OutputTokens = None,
    skip_bad: options.SkipBad = False,
    as_json: options.AsJson = False,
    output: options.FigurePath = None,
    export: options.Export = None,
) -> None:
    """Send every request where it costs least, within shares, capacities and latency."""
    from harness.deciding import exported_rule
    from harness.deciding.decision import decide_routing, served_requests, sweep_weights
    from harness.showing import decision_figures, decisions, figures

    if len(profile) < 2:
        raise UserError("routing needs at least two profiles: give --profile twice or more")
    if weight_sweep and scale is not options.Scale.REFERENCE:
        raise UserError("--weight-sweep weighs energy and runtime relative to --reference: leave out --scale")
    requests = options.load_workload(workload, input_column, output_column, skip_bad, output_tokens)
    costs = options.load_costs(profile, requests, boundary, idle.value, allow_mixed)
    unit = 0 if reference is None else options.system_index(costs, reference)
    scales = options.choose_scales(costs, requests, scale, weight, unit, price_per_kwh, price_per_hour)
    served = served_requests(costs, requests, slo)
    limits = _limits(costs, served, bool((requests.count % 1 == 0).all()), share or [], capacity or [])
    decision = decide_routing(costs, requests, scales, limits, slo, output_unknown, horizon_s)
    facts = decisions.routing_json(decision, costs, requests)
    sweep = None
    if weight_sweep or output is not None:
        sweep = sweep_weights(costs, requests, unit)
        if weight_sweep:
            facts["weight_sweep"] = decisions.sweep_json(sweep, costs)
    files: list[Path] = []
    if output is not None and sweep is not None:
        alone = [(decision.baselines[s].energy_j, decision.baselines[s].runtime_s) for s in costs.labels]
        header = ("weight", "energy_kwh", "runtime_s", *(f"share_{label}" for label in costs.labels))
        drawn = decision_figures.trade_off_figure(sweep, costs.labels, alone)
        files += figures.write(drawn, output, header, decision_figures.trade_off_rows(sweep))
    if export is not None:
        exported_rule.save_rule(exported_rule.routing_rule(decision, costs, requests, slo), export)
        files.append(export)
    if as_json:
        options.print_json(facts)
        return
    base = decision.baselines[costs.labels[decision.alone]]
    tables = [
        decisions.routes_table(facts["routes"]),
        decisions.plans_table({"routed": decision.plan, **decision.baselines}, base),
    ]
    if weight_sweep and sweep is not None:
        tables.append(decisions.sweep_table(sweep, costs))
    lines = decisions.limit_lines(facts)
    options.print_answer(decisions.routing_words(decision, costs), lines, tables, facts, files)


def _limits(costs: Costs, served: float, whole: bool, shares: list[str], capacities: list[str]) -> tuple[Limit, ...]:
    """Shares of the ``served`` requests, in ``whole`` ones where these are; capacities in seconds."""
    from harness.deciding.assignment import Limit

    limits = []
    for text in shares:
        system, value = _named_number(costs, text, "--share")
        if value > 1:
            raise UserError(f"--share {text}: a share lies between 0 and 1")
        amount = value * served
        limits.append(Limit(system, "share", float(round(amount)) if whole else amount))
    for text in capacities:
        system, value = _named_number(costs, text, "--capacity")
        limits.append(Limit(system, "capacity", value))
    named = [(limit.system, limit.kind) for limit in limits]
    if len(set(named)) < len(named):
        raise UserError("a system can have one --share and one --capacity")
    return tuple(limits)


def _named_number(costs: Costs, text: str, option: str) -> tuple[int, float]:
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not equals or not 0 <= value < float("inf"):
        raise UserError(f"{option} {text}: write it as {option} SYSTEM=NUMBER with a number of at least 0")
    return options.system_index(costs, name), value
