"""Answers on the terminal: as words and tables, or as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from harness.core.wording import estimated as about
from harness.core.wording import number, percent, plus_minus, plus_minus_percent
from harness.deciding.answers import RoutingAnswer, ThresholdAnswer
from harness.deciding.costs import Costs
from harness.deciding.decision import BestThreshold, RoutingDecision, ServingPlan, ThresholdDecision
from harness.deciding.scales import JOULES_PER_KWH, SECONDS_PER_HOUR, Scales
from harness.deciding.uncertainty import Interval
from harness.deciding.workload import Workload
from harness.showing.terminal import print_all, print_json, records_of, table_of

CURVE_POINTS = 2000
"""Longer curves are thinned in what is printed; the best threshold always stays."""

INDEPENDENT = (
    "this workload has separate input and output histograms, so joulebench assumes that the lengths are independent"
)
KEY_WORDS = {
    "input": "input tokens",
    "output": "output tokens",
    "total": "tokens in all",
    "product": "input × output tokens",
}


def print_threshold(answer: ThresholdAnswer, files: Sequence[Path], as_json: bool) -> None:
    """Where the threshold is and what it saves; ``files`` are those written beside it."""
    costs, decision = answer.costs, answer.decision
    facts = _threshold_json(answer)
    if as_json:
        print_json(facts)
        return
    plans = {"with threshold": decision.plan, **decision.baselines}
    table = plans_table(plans, decision.baselines[costs.labels[1]], costs.estimated)
    _print_answer(costs, [threshold_words(answer), *_threshold_details(decision)], [table], facts, files)


def print_routing(answer: RoutingAnswer, files: Sequence[Path], as_json: bool, with_trade_off: bool = False) -> None:
    """Who serves what and what it saves; ``with_trade_off`` adds energy and runtime for weights from 0 to 1."""
    costs, decision = answer.costs, answer.decision
    facts = _routing_json(answer)
    if with_trade_off:
        facts["weight_sweep"] = _trade_off_json(answer)
    if as_json:
        print_json(facts)
        return
    plans = {"routed": decision.plan, **decision.baselines}
    alone = decision.baselines[costs.labels[decision.alone]]
    tables = [_routes_table(facts["routes"], costs.estimated), plans_table(plans, alone, costs.estimated)]
    if with_trade_off:
        tables.append(_trade_off_table(answer))
    _print_answer(costs, [routing_words(answer), *_limit_lines(facts)], tables, facts, files)


def _print_answer(
    costs: Costs, lines: Sequence[str], tables: Sequence[Table], facts: dict[str, Any], files: Sequence[Path]
) -> None:
    """What isn't comparable says so first; then the answer in words, details and tables, and what it was based on."""
    mark = [costs.mark] if costs.mark else []
    print_all([*mark, *lines, *tables, *_footnotes(facts), *(f"wrote {path}" for path in files)])


def context(costs: Costs, workload: Workload, scales: Scales) -> dict[str, Any]:
    """What every decision was based on."""
    warnings = list(costs.warnings)
    if not workload.pairs_known:
        warnings.append(INDEPENDENT)
    if workload.dropped_rows:
        warnings.append(f"{workload.dropped_rows:,} broken rows of the workload were left out")
    return {
        "accounting": "query",
        "workload": workload_summary(workload),
        "profiles": [profile.name for profile in costs.profiles],
        "systems": list(costs.labels),
        "boundary": costs.boundary,
        "energy_methods": costs.energy_methods,
        "idle": costs.idle,
        "mixed": costs.mixed,
        "scale": asdict(scales),
        "warnings": warnings,
    }


def workload_summary(workload: Workload) -> dict[str, Any]:
    """Name, source and size of a workload."""
    fields = ("name", "source", "requests", "pairs_known", "dropped_rows")
    return {field: getattr(workload, field) for field in fields}


def _threshold_json(answer: ThresholdAnswer) -> dict[str, Any]:
    costs, decision = answer.costs, answer.decision
    curve, uncertain = decision.curve, decision.uncertainty
    kept = thinned(curve.threshold.size, CURVE_POINTS, [decision.best])
    return {
        **context(costs, answer.workload, decision.scales),
        "fitted": list(answer.fitted),
        "key": decision.key,
        "small": costs.labels[0],
        "large": costs.labels[1],
        "best": {
            "threshold": decision.threshold,
            "threshold_low": uncertain.threshold_low,
            "threshold_high": uncertain.threshold_high,
            "plateau": [uncertain.plateau_low, uncertain.plateau_high],
            "small_share": float(curve.small_share[decision.best]),
            **_plan_json(decision.plan, costs),
            "saving": interval_json(uncertain.saving),
            "cost_saving": interval_json(uncertain.cost_saving),
            "runtime_ratio": uncertain.runtime_ratio.value,
            "runtime_ratio_low": uncertain.runtime_ratio.low,
            "runtime_ratio_high": uncertain.runtime_ratio.high,
        },
        "baselines": {name: _plan_json(plan, costs) for name, plan in decision.baselines.items()},
        "curve": records_of({name: totals[kept] for name, totals in vars(curve).items()}),
    }


def _routing_json(answer: RoutingAnswer) -> dict[str, Any]:
    costs, decision = answer.costs, answer.decision
    requests = decision.requests
    return {
        **context(costs, answer.workload, decision.scales),
        "fitted": list(answer.fitted),
        "decided_on": "input tokens" if decision.input_rule else "input and output tokens",
        "plan": _plan_json(decision.plan, costs),
        "routes": [
            {
                "system": label,
                "requests": float(requests[s].sum()),
                "energy_j": float(requests[s] @ costs.energy_j[s]),
                "energy_ci95_j": float(decision.energy_ci95_j[s]),
                "busy_s": float(requests[s] @ costs.busy_s[s]),
                "busy_ci95_s": float(decision.busy_ci95_s[s]),
            }
            for s, label in enumerate(costs.labels)
        ],
        "compared_with": costs.labels[decision.alone],
        "saving": interval_json(decision.saving),
        "cost_saving": interval_json(decision.cost_saving),
        "runtime_ratio": decision.runtime_ratio.value,
        "runtime_ratio_low": decision.runtime_ratio.low,
        "runtime_ratio_high": decision.runtime_ratio.high,
        "unserved_requests": decision.unserved,
        "limits": _limits_json(decision, costs),
        "whole_requests": decision.assignment.rounded if decision.assignment else None,
        "baselines": {name: _plan_json(plan, costs) for name, plan in decision.baselines.items()},
    }


def _limits_json(decision: RoutingDecision, costs: Costs) -> list[dict[str, Any]]:
    """Amounts in requests (share) or seconds (capacity), prices per request or second."""
    if decision.assignment is None:
        return []
    met = zip(decision.limits, decision.assignment.used, decision.assignment.prices, strict=True)
    return [
        {"system": costs.labels[limit.system], "kind": limit.kind, "amount": limit.amount, "used": used, "price": price}
        for limit, used, price in met
    ]


def _plan_json(plan: ServingPlan, costs: Costs) -> dict[str, Any]:
    """Totals of a plan; what is unknown is null with its reason."""
    fields = asdict(plan)
    if plan.marginal_energy_j is None:
        unknown = [p.name for p, power in zip(costs.profiles, costs.idle_power_w, strict=True) if power is None]
        systems = " and ".join(unknown)
        fields["reason"] = f"idle power of {systems} was not measured, so energy with the machines left on is unknown"
    elif plan.fleet_energy_j is None:
        fields["reason"] = "a system would be busy for longer than the horizon, so its plan has no energy over it"
    return fields


def interval_json(estimate: Interval) -> dict[str, Any]:
    """Value, 95 % interval, and whether the interval excludes 0."""
    return {**asdict(estimate), "significant": estimate.significant}


def thinned(size: int, most: int, kept: Iterable[int]) -> list[int]:
    """Indices of ``most`` entries of a curve, evenly spread, and those of ``kept`` among them."""
    evenly = np.linspace(0, size - 1, min(size, most)).round().astype(int)
    return sorted({*evenly.tolist(), *kept})


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


def _trade_off_json(answer: RoutingAnswer) -> list[dict[str, Any]]:
    """The trade-off at 101 weights, or under limits at all that were worked out."""
    sweep, labels = answer.trade_off, answer.costs.labels
    return [
        {
            "weight": float(sweep.weight[i]),
            "energy_j": float(sweep.energy_j[i]),
            "runtime_s": float(sweep.runtime_s[i]),
            "shares": {label: float(sweep.share[s, i]) for s, label in enumerate(labels)},
        }
        for i in range(0, sweep.weight.size, max(1, sweep.weight.size // 100))
    ]


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
    table = table_of("plan", "energy kWh", "saving", "runtime h", *idle_columns, no_wrap=True)
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
        table.add_row(words + late, energy, percent(round(saving, 9), signed=True), runtime, *idle)
    return table


def _energy_kwh(energy_j: float, half_width_j: float, estimated: bool) -> str:
    value, half_width = energy_j / JOULES_PER_KWH, half_width_j / JOULES_PER_KWH
    return about(value) if estimated else plus_minus(value, half_width)


def _kwh(energy_j: float | None) -> str:
    return "unknown" if energy_j is None else number(energy_j / JOULES_PER_KWH)


def _footnotes(facts: dict[str, Any]) -> Sequence[str]:
    """Boundary, idle rule and warnings: what every output must say."""
    counted = "all measured components" if facts["boundary"] == "sum" else facts["boundary"]
    workload = facts["workload"]
    base = f"workload {workload['name']}, {workload['requests']:,.0f} requests"
    base += f"; energy of {counted}, idle power {facts['idle']}"
    reasons = {plan["reason"] for plan in facts["baselines"].values() if "reason" in plan}
    return [base, *(f"warning: {warning}" for warning in facts["warnings"]), *sorted(reasons)]
