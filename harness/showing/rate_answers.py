"""Answers at an arrival rate on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.core.wording import estimated as about
from harness.core.wording import number, percent, plus_minus
from harness.deciding.rates.fleet import MOST_LOAD
from harness.deciding.rates.plans import AtRate, PlanAtRate, RoutingAtRate, ThresholdAtRate
from harness.showing.decisions import KEY_WORDS, effect_words, footnotes
from harness.showing.rate_facts import routing_rate_json, threshold_rate_json
from harness.showing.terminal import print_all, print_json, table_of

PERCENTILES = ("p50", "p90", "p95", "p99")
_SAME = 1e-9
"""Costs that differ by less are the same."""
_UNITS = ((1, "s"), (60, "min"), (3600, "h"))


def print_threshold_at_rate(answer: ThresholdAtRate, files: Sequence[Path], as_json: bool) -> None:
    """Where the threshold is at this rate and what it saves; ``files`` are those written beside it."""
    facts = threshold_rate_json(answer)
    if as_json:
        print_json(facts)
        return
    u = answer.uncertainty
    details = []
    if u is not None and (u.threshold_high or u.plateau_high):
        details = [
            f"Best threshold: {answer.threshold:,} (95 % interval {u.threshold_low:,}–{u.threshold_high:,}). "
            f"Any threshold from {u.plateau_low:,} to {u.plateau_high:,} is about as good."
        ]
    details += _caching_words(facts)
    print_all(_shown(answer, [threshold_rate_words(answer), *details], facts["warnings"], facts, files))


def print_routing_at_rate(answer: RoutingAtRate, files: Sequence[Path], as_json: bool) -> None:
    """Who serves what at this rate and what that saves."""
    facts = routing_rate_json(answer)
    if as_json:
        print_json(facts)
        return
    lines = [routing_rate_words(answer), *_caching_words(facts)]
    print_all(_shown(answer, lines, facts["warnings"], facts, files))


def _caching_words(facts: dict[str, Any]) -> list[str]:
    """What prefix caching changes; nothing where nothing is cached."""
    caching = facts["prefix_caching"]
    if caching is None:
        return []
    share = caching["energy_share_without"]
    without = "would saturate a system" if share is None else f"would need {about(share)} times the energy"
    said = f"{percent(caching['cached_share'])} of the input tokens were cached and cost nothing"
    return [f"Prefix caching: {said}; without it the same plan {without}."]


def rate_words(per_s: float, like_per_s: float | None = None) -> str:
    """``2.5/s``, or where they are few ``12/min`` or ``3/h``; in the unit of another rate."""
    like = per_s if like_per_s is None else like_per_s
    factor, unit = next(((factor, unit) for factor, unit in _UNITS if like * factor >= 1), _UNITS[-1])
    return f"{number(per_s * factor, 3)}/{unit}"


def threshold_rate_words(answer: ThresholdAtRate) -> str:
    """The answer in a sentence."""
    small, large = (system.label for system in answer.fleet.systems)
    at = f"at {rate_words(answer.fleet.rate_per_s)}"
    if answer.best is None:
        return f"{at}: {_nothing(answer)}"
    if answer.threshold == 0:
        return f"{at} all requests to {large}{_effect(answer, large)}"
    if answer.curve.small_share[answer.best] >= 1:
        return f"{at} all requests to {small}{_effect(answer, small)}"
    which = f"requests of at most {answer.threshold:,} {KEY_WORDS[answer.key]} to {small}"
    return f"{at} {which}{_effect(answer, None)}"


def routing_rate_words(answer: RoutingAtRate) -> str:
    """The answer in a sentence."""
    at, plan = f"at {rate_words(answer.fleet.rate_per_s)}", answer.plans.plan
    if plan is None:
        return f"{at}: {_nothing(answer)}"
    used = [system for system in plan.systems if system.rate_per_s > 0]
    if len(used) == 1:
        return f"{at} all requests to {used[0].label}{_effect(answer, used[0].label)}"
    return f"{at} {', '.join(f'{percent(each.share)} to {each.label}' for each in used)}{_effect(answer, None)}"


def _nothing(answer: AtRate) -> str:
    served = rate_words(answer.by_rate.capacity_per_s)
    if answer.saturated:
        return f"saturated: these systems serve at most {served} together; add machines with --replicas"
    return f"no plan keeps a mean time of {answer.slo_s:g} s: add machines with --replicas, or allow more"


def _effect(answer: AtRate, only: str | None) -> str:
    found, against, costs = answer.plans.effects, answer.plans.against, answer.costs
    if found is None or against is None:
        return ": each system alone is saturated"
    if only == against:
        return f": {_why_not_less(answer)}"
    ratio = found.e2e_ratio
    words = effect_words(answer.scales, found.cost_saving, found.saving, ratio, against, costs.estimated)
    return f": {words.replace('mean runtime', 'mean time')}"


def _why_not_less(answer: AtRate) -> str:
    """Why no plan costs less than the one system; another may cost less alone, but be too slow or too full."""
    plan, less = answer.plans.plan, []
    for label, alone in answer.plans.baselines.items():
        if plan is None or plan.cost is None or alone.cost is None or alone.cost >= plan.cost * (1 - _SAME):
            continue
        why = f"takes longer than {answer.slo_s:g} s"
        if alone.meets_slo is not False:
            why = f"would work at more than {percent(MOST_LOAD, digits=0)} of what it can serve"
        less.append(f"{label} alone costs less, but {why}")
    return "; ".join(less) or "nothing costs less"


def _shown(
    answer: AtRate, lines: Sequence[str], warnings: Sequence[str], facts: dict[str, object], files: Sequence[Path]
) -> list[str | Table]:
    costs = answer.costs
    plans = {"plan": answer.plans.plan, **answer.plans.baselines}
    shown: list[str | Table] = [costs.mark] if costs.mark else []
    shown += [*lines, _by_rate_words(answer)]
    shown.append(_plans_table({name: plan for name, plan in plans.items() if plan}, costs.estimated))
    if answer.plans.plan is not None:
        shown.append(_systems_table(answer.plans.plan))
    if answer.simulated is not None:
        shown.append(_percentiles_table(answer))
    if answer.by_simulation:
        shown.append(f"figures of the plan are those of a simulation: {answer.by_simulation}")
        if answer.plans.plan is not None and answer.plans.plan.meets_slo is False:
            shown.append(
                f"no plan that was simulated keeps a mean time of {answer.slo_s:g} s: add machines with --replicas"
            )
    if (bursts := answer.burstiness) is not None:
        shown.append(
            f"arrivals of the trace: squared coefficient of variation of gaps {number(bursts.gap_variation, 3)}, index "
            f"of dispersion {number(bursts.dispersion, 3)} over {number(bursts.window_s, 3)} s; both are 1 at random"
        )
    notes = [f"note: {note}" for note in answer.notes]
    return [*shown, *footnotes(facts), *notes, *(f"wrote {path}" for path in files)]


def _by_rate_words(answer: AtRate) -> str:
    curve = answer.by_rate
    pays = "at no rate do several systems cost less than one"
    if curve.pays_from_per_s is not None:
        pays = f"several systems cost less than one from {rate_words(curve.pays_from_per_s)} on"
    return (
        f"Together they are saturated above {rate_words(curve.capacity_per_s)}; {pays}. "
        f"Plans give a system at most {percent(MOST_LOAD, digits=0)} of what it can serve."
    )


def _plans_table(plans: dict[str, PlanAtRate], estimated: bool) -> Table:
    table = table_of("plan", "J/request", "power W", "mean time s", no_wrap=True)
    for name, plan in plans.items():
        if plan.energy_j is None:
            table.add_row(name, "saturated", "", "")
            continue
        energy = about(plan.energy_j) if estimated else plus_minus(plan.energy_j, plan.energy_ci95_j)
        time = "" if plan.e2e_s is None else plus_minus(plan.e2e_s, plan.e2e_ci95_s)
        late = " (too long)" if plan.meets_slo is False else ""
        table.add_row(name, energy, number(plan.power_w), time + late)
    return table


def _systems_table(plan: PlanAtRate) -> Table:
    table = table_of("system", "requests", "rate", "of capacity", "in flight", "busy", "power W", "mean time s")
    total = sum(system.rate_per_s for system in plan.systems)
    for system in plan.systems:
        label = system.label if system.replicas == 1 else f"{system.replicas} × {system.label}"
        if system.capacity_per_s is None:
            table.add_row(label, "none", "", "", "", "", number(system.power_w), "")
            continue
        table.add_row(
            label,
            percent(system.share),
            rate_words(system.rate_per_s, total),
            percent(system.rate_per_s / system.capacity_per_s, digits=0),
            number(system.concurrency, 3),
            percent(system.busy_share, digits=0),
            number(system.power_w),
            "" if system.e2e_s is None else number(system.e2e_s),
        )
    return table


def _percentiles_table(answer: AtRate) -> Table:
    run = answer.simulated
    assert run is not None
    table = table_of(f"{run.requests:,} requests simulated", "mean", *PERCENTILES)
    names = {"ttft": "TTFT s", "tpot": "TPOT s", "e2e": "end to end s"}
    for name, figures in run.percentiles.items():
        table.add_row(names[name], *(number(figures[level].value) for level in ("mean", *PERCENTILES)))
    return table
