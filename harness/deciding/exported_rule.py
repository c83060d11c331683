"""The decision as a file that a scheduler can follow with look-ups alone."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.files import refuse_other_format, write_atomically
from harness.deciding import routing
from harness.deciding.answers import RoutingAnswer, ThresholdAnswer
from harness.deciding.costs import Costs, TooFar
from harness.deciding.decision import RoutingDecision
from harness.deciding.routing import Choice
from harness.deciding.rule_schema import (
    RULE_VERSION,
    InputRoute,
    LeastCostRule,
    OutputRoute,
    Region,
    RuleAgreement,
    RuleCost,
    RuleInterval,
    RulePrice,
    RuleSaving,
    RuleSystem,
    RuleTooFar,
    RuleWorkload,
    ThresholdRule,
)
from harness.deciding.scales import Scales
from harness.deciding.uncertainty import Interval
from harness.deciding.workload import Tokens, Workload

INPUT_POINTS, OUTPUT_POINTS = 256, 2000
"""Most input and output lengths at which the borders between systems are worked out."""


def save_rule(answer: ThresholdAnswer | RoutingAnswer, path: str | os.PathLike[str]) -> None:
    """Write the rule of an answer as JSON: what its fields mean is said in ``rule_schema``. Raises UserError.

    A threshold: ``key`` at most ``threshold`` goes to ``at_most``, the rest to ``above``.

    Routes: least cost as regions of request sizes, with the prices of shares and capacities already in them. Where
    output lengths are unknown, ``by_input`` lists input lengths. Else ``regions`` lists, for some input lengths, from
    which output length on each system is the cheapest (``system`` null where none meets the latency limit). Between
    two listed input lengths the lower one holds; the first is 1. ``agreement`` is the share of the plan's requests,
    and of its energy, that the rule routes as the plan does.
    """
    refuse_other_format(Path(path), ".json")
    rule = _threshold_rule(answer) if isinstance(answer, ThresholdAnswer) else _routing_rule(answer)
    write_atomically(Path(path), json.dumps(rule.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")


def _threshold_rule(answer: ThresholdAnswer) -> ThresholdRule:
    decision, (small, large) = answer.decision, answer.costs.labels
    u = decision.uncertainty
    saving = rule_saving(large, u.saving, u.cost_saving, u.runtime_ratio)
    intervals = {name: getattr(u, name) for name in _INTERVALS}
    rule = {"key": decision.key, "threshold": decision.threshold, "at_most": small, "above": large, **intervals}
    return ThresholdRule(rule="threshold", **_head(answer, saving), **rule)


_INTERVALS = ("threshold_low", "threshold_high", "plateau_low", "plateau_high")


def _routing_rule(answer: RoutingAnswer) -> LeastCostRule:
    costs, workload, decision = answer.costs, answer.workload, answer.decision
    regions = by_input = None
    if decision.input_rule is not None:
        lengths, choice = decision.input_rule
        lengths = np.append(1, lengths[1:])
        chosen = choice[np.searchsorted(lengths, workload.input_tokens, side="right") - 1]
        by_input = [InputRoute(from_input_tokens=m, system=costs.labels[s]) for m, s in _runs(lengths, choice)]
    else:
        m, n, grid = _choices(answer)
        row = np.searchsorted(m, workload.input_tokens, side="right") - 1
        chosen = grid[row, np.searchsorted(n, workload.output_tokens, side="right") - 1]
        regions = rule_regions(m, n, grid, costs.labels)
    same = np.arange(len(costs.labels))[:, None] == chosen
    planned = {"requests": decision.requests, "energy": decision.requests * costs.energy_j}
    # Sums of the same numbers in another order: a rounding above 1 is 1.
    agreement = {name: min(1.0, float(amount[same].sum() / amount.sum())) for name, amount in planned.items()}
    against = costs.labels[decision.alone]
    return LeastCostRule(
        rule="least_cost",
        **_head(answer, rule_saving(against, decision.saving, decision.cost_saving, decision.runtime_ratio)),
        latency_limit_s=answer.slo_s,
        prices=_rule_prices(decision, costs),
        agreement=RuleAgreement(**agreement),
        regions=regions,
        by_input=by_input,
    )


def _head(answer: ThresholdAnswer | RoutingAnswer, saving: RuleSaving) -> dict[str, Any]:
    decision = answer.decision
    return rule_head(answer.costs, answer.workload, decision.scales, saving, decision.too_far)


def rule_head(
    costs: Costs, workload: Workload, scales: Scales, saving: RuleSaving | None, too_far: TooFar
) -> dict[str, Any]:
    """What every rule holds."""
    systems = zip(costs.labels, costs.profiles, costs.energy_methods.values(), strict=True)
    m, n = workload.input_tokens, workload.output_tokens
    return {
        "kind": "joulebench-rule",
        "schema_version": RULE_VERSION,
        "systems": {
            label: RuleSystem(profile=profile.name, energy_method=method, range=profile.runtime.range)
            for label, profile, method in systems
        },
        "energy_boundary": costs.boundary,
        "idle": costs.idle,
        "mixed": costs.mixed,
        "workload": RuleWorkload(
            name=workload.name,
            requests=workload.requests,
            mean_input_tokens=float(np.average(m, weights=workload.count)),
            mean_output_tokens=float(np.average(n, weights=workload.count)),
            longest_input_tokens=int(m.max()),
            longest_output_tokens=int(n.max()),
        ),
        "cost": RuleCost.model_validate(
            {
                "scale": scales.name,
                "weight": scales.weight,
                "energy_per_j": scales.energy_weight,
                "runtime_per_s": scales.runtime_weight,
            }
        ),
        "saving": saving,
        "too_far": RuleTooFar(**asdict(too_far)),
        "at_rate": None,
    }


def rule_saving(against: str, energy: Interval, cost: Interval, runtime_ratio: Interval) -> RuleSaving:
    """What a plan saves against the system of this name."""
    found = {"energy": energy, "cost": cost, "runtime_ratio": runtime_ratio}
    intervals = {name: RuleInterval(value=each.value, low=each.low, high=each.high) for name, each in found.items()}
    return RuleSaving(against=against, significant=cost.significant, **intervals)


def _rule_prices(decision: RoutingDecision, costs: Costs) -> list[RulePrice]:
    prices = []
    for limit, price in zip(decision.limits, _prices(decision), strict=True):
        label, in_flight = costs.labels[limit.system], costs.profiles[limit.system].requests_in_flight
        if limit.kind == "share":
            prices.append(RulePrice(system=label, per="request", price=price))
        else:
            # A second of a system's time is as many seconds of runtime as requests share it.
            prices.append(RulePrice(system=label, per="second", price=price / in_flight))
    return prices


def _prices(decision: RoutingDecision) -> tuple[float, ...]:
    return decision.assignment.prices if decision.assignment else ()


def _choices(answer: RoutingAnswer) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp]]:
    """Input lengths, output lengths, and the system for each two of them; −1 where none meets the limit."""
    decision, workload = answer.decision, answer.workload
    m, n = size_grid(workload)
    energy_j, runtime_s = answer.costs.at(np.repeat(m, n.size), np.tile(n, m.size))
    cost = decision.scales.cost(energy_j, runtime_s)
    for limit, price in zip(decision.limits, _prices(decision), strict=True):
        cost[limit.system] += price * limit.usage(runtime_s / answer.costs.in_flight)
    choice = routing.cheapest(cost, routing.serviceable(runtime_s, answer.slo_s))
    return m, n, choice.reshape(m.size, n.size)


def size_grid(workload: Workload) -> tuple[Tokens, Tokens]:
    """Input and output lengths at which the borders between systems are worked out."""
    return _spaced(workload.input_tokens, INPUT_POINTS), _spaced(workload.output_tokens, OUTPUT_POINTS)


def _spaced(tokens: Tokens, points: int) -> Tokens:
    """From 1 to the longest, each as far from the next by a factor."""
    return np.unique(np.geomspace(1, int(tokens.max()), points).round().astype(np.int64))


def rule_regions(m: Tokens, n: Tokens, grid: Choice, labels: Sequence[str]) -> list[Region]:
    """Who serves which sizes, by the choice at each (m, n); −1 is nobody."""
    return [
        Region(
            from_input_tokens=int(length),
            routes=[
                OutputRoute(from_output_tokens=at, system=labels[s] if s >= 0 else None) for at, s in _runs(n, choice)
            ],
        )
        for length, choice in zip(m, grid, strict=True)
    ]


def _runs(lengths: Tokens, choice: Choice) -> list[tuple[int, int]]:
    """Where the chosen system changes along ascending lengths: (length, system)."""
    starts = np.flatnonzero(np.diff(choice, prepend=-2))
    return [(int(lengths[i]), int(choice[i])) for i in starts]
