"""Answers on the terminal: as words and tables, or as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from harness.core.wording import estimated as about
from harness.core.wording import number, percent, plus_minus, plus_minus_percent
from harness.deciding.answers import RoutingAnswer, ThresholdAnswer
from harness.deciding.costs import Costs
from harness.deciding.decision import BestThreshold, ThresholdDecision
from harness.deciding.plans import ServingPlan
from harness.deciding.scales import JOULES_PER_KWH, SECONDS_PER_HOUR, Scales
from harness.deciding.uncertainty import Interval
from harness.showing.decision_facts import routing_json, threshold_json, trade_off_json
from harness.showing.terminal import print_all, print_json, table_of

KEY_WORDS = {
    "input": "input tokens",
    "output": "output tokens",
    "total": "tokens in all",
    "product": "input × output tokens",
}


def print_threshold(answer: ThresholdAnswer, files: Sequence[Path], as_json: bool) -> None:
    """Where the threshold is and what it saves; ``files`` are those written beside it."""
    costs, decision = answer.costs, answer.decision
    facts = threshold_json(answer)
    if as_json:
        print_json(facts)
        return
    plans = {"with threshold": decision.plan, **decision.baselines}
    table = plans_table(plans, decision.baselines[costs.labels[1]], costs.estimated)
    gain = gain_words(decision, costs)
    details = [*_threshold_details(decision), *([gain] if gain else []), *in_time_words(decision.plan, answer.slo_s)]
    _print_answer(costs, [threshold_words(answer), *details], [table], facts, files)


def print_routing(answer: RoutingAnswer, files: Sequence[Path], as_json: bool, with_trade_off: bool = False) -> None:
    """Who serves what and what it saves; ``with_trade_off`` adds energy and runtime for weights from 0 to 1."""
    costs, decision = answer.costs, answer.decision
    facts = routing_json(answer)
    if with_trade_off:
        facts["weight_sweep"] = trade_off_json(answer)
    if as_json:
        print_json(facts)
        return
    plans = {"routed": decision.plan, **decision.baselines}
    alone = decision.baselines[costs.labels[decision.alone]]
    tables = [_routes_table(facts["routes"], costs.estimated), plans_table(plans, alone, costs.estimated)]
    if with_trade_off:
        tables.append(_trade_off_table(answer))
    lines = [routing_words(answer), *in_time_words(decision.plan, answer.slo_s), *_limit_lines(facts)]
    _print_answer(costs, lines, tables, facts, files)


def _print_answer(
    costs: Costs, lines: Sequence[str], tables: Sequence[Table], facts: dict[str, Any], files: Sequence[Path]
) -> None:
    """What isn't comparable says so first; then the answer in words, details and tables, and what it was based on."""
    mark = [costs.mark] if costs.mark else []
    print_all([*mark, *lines, *tables, *footnotes(facts), *(f"wrote {path}" for path in files)])


def threshold_words(answer: ThresholdAnswer) -> str:
    """The answer in a sentence."""
    decision = answer.decision
    return best_words(decision, answer.costs, fleet_words(decision.plan, decision.baselines[answer.costs.labels[1]]))


def best_words(found: BestThreshold, costs: Costs, fleet: str = "") -> str:
    """The same of a threshold whose plans were not worked out; ``fleet`` are the words of ``fleet_words``, if any."""
    small, large = costs.labels
    u = found.uncertainty
    effect = effect_words(found.scales, u.cost_saving, u.saving, u.runtime_ratio, large, costs.estimated) + fleet
    if found.threshold == 0:
        return f"all requests to {large}: no threshold costs less"
    if found.best == found.curve.threshold.size - 1:
        return f"all requests to {small}: {effect}"
    return f"requests of at most {found.threshold:,} {KEY_WORDS[found.key]} to {small}: {effect}"


def effect_words(
    scales: Scales, cost: Interval, energy: Interval, runtime_ratio: Interval, base: str, estimated: bool = False
) -> str:
    """``14.2 % ± 1.9 % less energy than swing-a100 alone, mean runtime 10.3× (9.8–10.9×)``; another cost first.

    Of ``estimated`` energy the saving is an estimate too: ``≈ 14 %``.
    """
    costly = scales.name == "price" or scales.runtime_weight > 0
    energy_words = f"{share_words(energy, estimated)} {'less' if energy.value >= 0 else 'more'} energy"
    # Time alone is measured.
    cost_size = share_words(cost, estimated and scales.energy_weight > 0)
    cost_words = f"{cost_size} {'lower' if cost.value >= 0 else 'higher'} cost"
    first, rest = (cost_words, f"{energy_words}, ") if costly else (energy_words, "")
    effect = f"{first} than {base} alone, {rest}mean runtime {ratio_words(runtime_ratio)}"
    return effect if (cost if costly else energy).significant else f"no significant saving ({effect})"


def ratio_words(ratio: Interval) -> str:
    """``1.65× (1.55–1.79×)``; without an interval where there is none."""
    spread = min(ratio.value - ratio.low, ratio.high - ratio.value)
    if spread < 1e-9:
        return f"{number(ratio.value, 3)}×"
    # One or two digits of the narrower side, four decimals at most where the ratio has a digit among them; where both
    # ends are far apart, each has digits of its own.
    most = max(4, 1 - math.floor(math.log10(ratio.value)))
    decimals = min(most, max(0, math.ceil(0.5 - math.log10(spread))))
    ends = ratio.value, ratio.low, ratio.high
    known = ratio.high < 100 * ratio.low
    value, low, high = (f"{each:,.{decimals}f}" if known else number(each, 2) for each in ends)
    return f"{value}× ({low}–{high}×)"


def share_words(share: Interval, estimated: bool) -> str:
    """``8.0 % ± 3.5 %`` without its sign, ``≈ 8.0 %`` where it is of ``estimated`` energy; a rounding is nothing."""
    value, half = (round(each, 9) for each in (share.value, share.high - share.value))
    return about(100 * abs(value), "%") if estimated else plus_minus_percent(abs(value), half)


def fleet_words(plan: ServingPlan, base: ServingPlan) -> str:
    """What becomes of the saving when machines stay on, where that turns it round; empty otherwise or unknown."""
    if plan.fleet_energy_j is None or base.fleet_energy_j is None:
        return ""
    fleet = 1 - plan.fleet_energy_j / base.fleet_energy_j
    if fleet * (base.energy_j - plan.energy_j) >= 0:
        return ""
    direction = "less" if fleet > 0 else "more"
    return f", but {percent(abs(fleet))} {direction} with all its machines left on for {plan.horizon_s:,.0f} s"


def routing_words(answer: RoutingAnswer) -> str:
    """The answer in a sentence."""
    costs, decision = answer.costs, answer.decision
    served = decision.requests.sum(axis=1)
    label = costs.labels[decision.alone]
    base = decision.baselines[label]
    shares = ", ".join(
        f"{percent(share)} to {name}" for name, share in zip(costs.labels, served / served.sum(), strict=True)
    )
    if np.count_nonzero(served) == 1:
        shares = f"all requests to {costs.labels[int(served.argmax())]}"
    found = decision.cost_saving, decision.saving, decision.runtime_ratio
    effect = effect_words(decision.scales, *found, label, costs.estimated)
    if served[decision.alone] == served.sum():
        effect = f"no mix of systems {'within the limits ' if decision.limits else ''}costs less"
    late = f"; {label} alone doesn't serve all of them in time" if base.meets_slo is False else ""
    missed = f"; {decision.unserved:,.0f} requests served by no system in time" if decision.unserved else ""
    return f"{shares}: {effect}{fleet_words(decision.plan, base)}{late}{missed}"


def _threshold_details(decision: ThresholdDecision) -> list[str]:
    """How sure the threshold is."""
    u = decision.uncertainty
    if u.threshold_high == u.plateau_high == 0:
        return []
    return [
        f"Best threshold: {decision.threshold:,} (95 % interval {u.threshold_low:,}–{u.threshold_high:,}). "
        f"Any threshold from {u.plateau_low:,} to {u.plateau_high:,} is about as good."
    ]


def gain_words(found: BestThreshold, costs: Costs) -> str:
    """What the meters' gains would have to be for another answer; empty where energy is estimated or doesn't count."""
    gain, (small, large) = found.gain, costs.labels
    if costs.estimated or found.scales.energy_weight == 0:
        return ""
    if gain.shared:
        return f"The same meters read {small} and {large}, so their gain cancels."
    known = f"their gains are known to ± {percent(gain.ratio_ci95)}"
    if gain.turns_at is None:
        return f"No gain of the meters turns this answer; {known}."
    off = abs(1 - 1 / gain.turns_at)
    read = f"{percent(off)} too {'low' if gain.turns_at >= 1 else 'high'} against {large}'s"
    turned = "the saving would vanish" if found.threshold else "a threshold would save something"
    if gain.plausible:
        return f"{turned[0].upper()}{turned[1:]} if {small}'s meter read {read}: {known}."
    return f"No plausible gain of the meters alone turns this answer: {turned} if {small}'s read {read}, and {known}."


def in_time_words(plan: ServingPlan, slo_s: float | None) -> list[str]:
    """What share of the requests a plan serves within the latency objective; nothing without one."""
    if plan.in_time is None:
        return []
    return [f"Within {slo_s:g} s: {_in_time(plan.in_time)} of the requests (95 % interval), each by its probability."]


def _in_time(share: Interval) -> str:
    value, low, high = (100 * each for each in (share.value, share.low, share.high))
    # A share that may be all but nothing missed shows how much that is.
    decimals = 1 if high - low >= 0.1 else 2
    return f"{value:.{decimals}f} % ({low:.{decimals}f}–{high:.{decimals}f} %)"


def _routes_table(routes: Sequence[dict[str, Any]], estimated: bool) -> Table:
    """Who serves how much."""
    table = table_of("system", "requests", "energy kWh", "busy h")
    for row in routes:
        energy = _energy_kwh(row["energy_j"], row["energy_ci95_j"], estimated)
        busy = plus_minus(*(row[field] / SECONDS_PER_HOUR for field in ("busy_s", "busy_ci95_s")))
        table.add_row(row["system"], f"{row['requests']:,.0f}", energy, busy)
    return table


def _limit_lines(facts: dict[str, Any]) -> list[str]:
    """How far each limit is used, its price, and the online rule that follows from it."""
    units = {"share": "request", "capacity": "second"}
    lines = [
        f"{limit['kind']} of {limit['system']}: {number(limit['used'])} of {number(limit['amount'])} "
        f"{units[limit['kind']]}s used, price {number(limit['price'])} per {units[limit['kind']]}"
        for limit in facts["limits"]
    ]
    serving = [row for row in facts["routes"] if row["requests"]]
    if lines and len(serving) > 1 and not facts["whole_requests"]:
        lines.append("some sizes are split into parts of requests: the plan is in shares, not in whole requests")
    return [*lines, "online rule: least cost + price × what the request takes"] if lines else []


def _trade_off_table(answer: RoutingAnswer) -> Table:
    """The trade-off at eleven weights."""
    sweep = answer.trade_off
    table = table_of("λ", "energy kWh", "runtime h", *answer.costs.labels)
    table.columns[0].justify = "right"
    for i in range(0, sweep.weight.size, sweep.weight.size // 10):
        energy, runtime = sweep.energy_j[i] / JOULES_PER_KWH, sweep.runtime_s[i] / SECONDS_PER_HOUR
        shares = [percent(share) for share in sweep.share[:, i]]
        table.add_row(f"{sweep.weight[i]:.1f}", number(energy, 6), number(runtime, 6), *shares)
    return table


def plans_table(plans: dict[str, ServingPlan], saving_against: ServingPlan, estimated: bool = False) -> Table:
    """Totals of each plan with their 95 % intervals; the saving is energy against one of them.

    ``estimated`` energy stands without an interval.
    """
    idle_known = any(plan.fleet_energy_j is not None for plan in plans.values())
    idle_columns = ("above idle kWh", "machines on kWh") if idle_known else ()
    timely = any(plan.in_time is not None for plan in plans.values())
    in_time_column = ("in time",) if timely else ()
    table = table_of("plan", "energy kWh", "saving", "runtime h", *in_time_column, *idle_columns, no_wrap=True)
    table.columns[0].no_wrap = False
    for name, plan in plans.items():
        # Counts of sizes know no order: on average round robin and random are the same.
        if name == "round_robin":
            continue
        saving = 1 - plan.energy_j / saving_against.energy_j
        idle = [_kwh(plan.marginal_energy_j), _kwh(plan.fleet_energy_j)] if idle_known else []
        energy = _energy_kwh(plan.energy_j, plan.energy_ci95_j, estimated)
        runtime = plus_minus(plan.runtime_s / SECONDS_PER_HOUR, plan.runtime_ci95_s / SECONDS_PER_HOUR)
        words = "even split (round robin or random)" if name == "random" else name
        late = " (not all in time)" if plan.meets_slo is False else ""
        in_time = [] if plan.in_time is None else [_in_time(plan.in_time)]
        table.add_row(words + late, energy, percent(round(saving, 9), signed=True), runtime, *in_time, *idle)
    return table


def _energy_kwh(energy_j: float, half_width_j: float, estimated: bool) -> str:
    value, half_width = energy_j / JOULES_PER_KWH, half_width_j / JOULES_PER_KWH
    return about(value) if estimated else plus_minus(value, half_width)


def _kwh(energy_j: float | None) -> str:
    return "unknown" if energy_j is None else number(energy_j / JOULES_PER_KWH)


def footnotes(facts: dict[str, Any]) -> Sequence[str]:
    """Boundary, idle rule and warnings: what every output must say."""
    counted = "all measured components" if facts["boundary"] == "sum" else facts["boundary"]
    workload = facts["workload"]
    base = f"workload {workload['name']}, {workload['requests']:,.0f} requests"
    base += f"; energy of {counted}, idle power {facts['idle']}"
    reasons = {plan["reason"] for plan in facts["baselines"].values() if "reason" in plan}
    return [base, *(f"warning: {warning}" for warning in facts["warnings"]), *sorted(reasons)]
