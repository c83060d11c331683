"""Answers as JSON, and what every answer was based on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from harness.core.wording import percent
from harness.deciding.answers import RoutingAnswer, ThresholdAnswer
from harness.deciding.costs import MOST_TOO_FAR, Costs, TooFar
from harness.deciding.decision import RoutingDecision
from harness.deciding.plans import ServingPlan
from harness.deciding.scales import Scales
from harness.deciding.uncertainty import Interval
from harness.deciding.workload import Workload
from harness.modelling.cost_function import TOO_FAR
from harness.showing.terminal import records_of

CURVE_POINTS = 2000
"""Longer curves are thinned in what is printed; the best threshold always stays."""

INDEPENDENT = (
    "this workload has separate input and output histograms, so joulebench assumes that the lengths are independent"
)


def too_far_warnings(too_far: TooFar) -> list[str]:
    """How much lies too far outside what was measured, and what follows; nothing where nothing does."""
    if not too_far.requests:
        return []
    shares = f"{_share_words(too_far.requests)} of the requests, {_share_words(too_far.energy)} of the energy"
    said = f"more than {TOO_FAR:g} octaves outside what was measured, where no interval is known: {shares}"
    if too_far.known:
        return [said]
    most = percent(MOST_TOO_FAR, digits=0)
    return [f"{said}; above {most} of the energy nothing is called significant: measure sizes nearer to them"]


def _share_words(share: float) -> str:
    return percent(share) if share >= 0.001 else "less than 0.1 %"


def context(costs: Costs, workload: Workload, scales: Scales, too_far: TooFar) -> dict[str, Any]:
    """What every decision was based on."""
    warnings = [*costs.warnings, *too_far_warnings(too_far)]
    if not workload.pairs_known:
        warnings.append(INDEPENDENT)
    if workload.dropped_rows:
        warnings.append(f"{workload.dropped_rows:,} broken rows of the workload were left out")
    if others := sum(workload.left_out.values()) - workload.dropped_rows:
        warnings.append(f"left out of the workload: {others:,} of the log's rows, which are no answered requests")
    if workload.cached_tokens is not None and (cached := float(workload.cached_tokens @ workload.count)) > 0:
        share = cached / float(workload.input_tokens @ workload.count)
        warnings.append(
            f"{percent(share)} of the input tokens were read from a prefix cache; costs are of whole prompts"
        )
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
        "too_far": {**asdict(too_far), "most_energy": MOST_TOO_FAR},
        "warnings": warnings,
    }


def workload_summary(workload: Workload) -> dict[str, Any]:
    """Name, source and size of a workload."""
    fields = ("name", "source", "requests", "pairs_known", "dropped_rows")
    return {field: getattr(workload, field) for field in fields}


def threshold_json(answer: ThresholdAnswer) -> dict[str, Any]:
    """All that is known of a threshold."""
    costs, decision = answer.costs, answer.decision
    curve, uncertain = decision.curve, decision.uncertainty
    kept = thinned(curve.threshold.size, CURVE_POINTS, [decision.best])
    return {
        **context(costs, answer.workload, decision.scales, decision.too_far),
        "fitted": list(answer.fitted),
        "key": decision.key,
        "small": costs.labels[0],
        "large": costs.labels[1],
        "slo_s": answer.slo_s,
        "meter_gain": {**asdict(decision.gain), "plausible": decision.gain.plausible},
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


def routing_json(answer: RoutingAnswer) -> dict[str, Any]:
    """All that is known of a routing."""
    costs, decision = answer.costs, answer.decision
    requests = decision.requests
    return {
        **context(costs, answer.workload, decision.scales, decision.too_far),
        "fitted": list(answer.fitted),
        "slo_s": answer.slo_s,
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
    if plan.in_time is not None:
        fields["in_time"] = {end: getattr(plan.in_time, end) for end in ("value", "low", "high")}
    if plan.marginal_energy_j is None:
        unknown = [p.name for p, power in zip(costs.profiles, costs.idle_power_w, strict=True) if power is None]
        systems = " and ".join(unknown)
        fields["reason"] = f"idle power of {systems} was not measured, so energy with the machines left on is unknown"
    elif plan.fleet_energy_j is None:
        fields["reason"] = "a system would be busy for longer than the horizon, so its plan has no energy over it"
    return fields


def interval_json(estimate: Interval) -> dict[str, Any]:
    """Value, 95 % interval, and whether the interval holds and excludes 0."""
    ends = {end: getattr(estimate, end) for end in ("value", "low", "high")}
    return {**ends, "significant": estimate.significant}


def thinned(size: int, most: int, kept: Iterable[int]) -> list[int]:
    """Indices of ``most`` entries of a curve, evenly spread, and those of ``kept`` among them."""
    evenly = np.linspace(0, size - 1, min(size, most)).round().astype(int)
    return sorted({*evenly.tolist(), *kept})


def trade_off_json(answer: RoutingAnswer) -> list[dict[str, Any]]:
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
