"""``joulebench threshold``: up to which size requests should go to the small system."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options
from harness.core.errors import UserError

if TYPE_CHECKING:
    from harness.deciding.workload import Workload


class Key(StrEnum):
    """What the threshold is compared with."""

    INPUT = "input"
    OUTPUT = "output"
    TOTAL = "total"
    PRODUCT = "product"


class Accounting(StrEnum):
    """How the cost of a request is counted."""

    QUERY = "query"
    PAPER = "paper"


def threshold(
    small: Annotated[str, typer.Option(help="Profile of the small system: a name or file.")],
    large: Annotated[str, typer.Option(help="Profile of the large system.")],
    workload: options.WorkloadOption,
    key: Annotated[Key, typer.Option(help="What decides: input, output, total or product of tokens.")] = Key.INPUT,
    weight: options.Weight = None,
    scale: options.ScaleOption = options.Scale.REFERENCE,
    reference: options.Reference = None,
    price_per_kwh: options.PricePerKwh = None,
    price_per_hour: options.PricePerHour = None,
    accounting: Annotated[
        Accounting, typer.Option(help="query: whole requests. paper: the published arithmetic.")
    ] = Accounting.QUERY,
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
    """Find the token count up to which requests should go to the small system, and what that saves."""
    requests = options.load_workload(workload, input_column, output_column, skip_bad, output_tokens)
    if accounting is Accounting.PAPER:
        _refuse_meaningless(
            weight=weight not in (None, 1.0),
            scale=scale is not options.Scale.REFERENCE,
            reference=reference is not None,
            price_per_kwh=price_per_kwh is not None,
            price_per_hour=price_per_hour is not None,
            boundary=boundary not in (None, "cpu+gpu"),
            idle=idle is not options.Idle.INCLUDED,
            horizon=horizon_s is not None,
            output_tokens=output_tokens is not None,
            export=export is not None,
        )
        _published((small, large), requests, key, allow_mixed, as_json, output)
        return

    from harness.deciding import exported_rule
    from harness.deciding.decision import decide_threshold
    from harness.showing import decision_figures, decisions, figures

    costs = options.load_costs((small, large), requests, boundary, idle.value, allow_mixed)
    unit = 1 if reference is None else options.system_index(costs, reference)
    scales = options.choose_scales(costs, requests, scale, weight, unit, price_per_kwh, price_per_hour)
    decision = decide_threshold(costs, requests, key.value, scales, horizon_s)
    facts = decisions.threshold_json(decision, costs, requests)
    files: list[Path] = []
    if output is not None:
        panel = decision_figures.threshold_panel(decision, costs)
        files += figures.write(
            decision_figures.threshold_figure([panel], key.value),
            output,
            *decision_figures.panel_table([(accounting.value, panel)]),
        )
    if export is not None:
        exported_rule.save_rule(exported_rule.threshold_rule(decision, costs), export)
        files.append(export)
    if as_json:
        options.print_json(facts)
        return
    plans = {"with threshold": decision.plan, **decision.baselines}
    table = decisions.plans_table(plans, decision.baselines[costs.labels[1]])
    lines = decisions.threshold_details(decision)
    options.print_answer(decisions.threshold_words(decision, costs), lines, [table], facts, files)


def _refuse_meaningless(**given: bool) -> None:
    """Raise UserError for options that the published arithmetic can't heed."""
    named = ", ".join(f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given)
    if named:
        raise UserError(f"--accounting paper counts CPU and GPU energy alone, as published: leave out {named}")


def _published(
    names: tuple[str, str], workload: Workload, key: Key, allow_mixed: bool, as_json: bool, output: Path | None
) -> None:
    """The published arithmetic instead of whole requests."""
    from harness.deciding.paper_accounting import paper_curve
    from harness.modelling import comparable
    from harness.showing import decision_figures, decisions, figures

    profiles = options.load_profiles(names)
    comparison = comparable.check(profiles, "cpu+gpu", allow_mixed)
    small, large = (profile.identity.system for profile in profiles)
    result = paper_curve(workload, small, large, key.value)
    facts = decisions.paper_json(result, workload, key.value, comparison)
    files: list[Path] = []
    if output is not None:
        panel = decision_figures.paper_panel(result)
        files += figures.write(
            decision_figures.threshold_figure([panel], key.value),
            output,
            *decision_figures.panel_table([(Accounting.PAPER.value, panel)]),
        )
    if as_json:
        options.print_json(facts)
        return
    table = decisions.paper_table(result)
    options.print_answer(decisions.paper_words(result), [], [table], facts, files)
