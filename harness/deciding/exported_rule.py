"""The decision as a file that a scheduler can follow with look-ups alone."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.files import write_atomically
from harness.deciding import routing
from harness.deciding.answers import RoutingAnswer, ThresholdAnswer
from harness.deciding.costs import Costs
from harness.deciding.decision import RoutingDecision

RULE_VERSION = 1
INPUT_POINTS, OUTPUT_POINTS = 256, 2000
"""Most input and output lengths at which the boundary between systems is worked out."""


def save_rule(answer: ThresholdAnswer | RoutingAnswer, path: str | os.PathLike[str]) -> None:
    """Write the rule of an answer as JSON. Raises UserError.

    A threshold: ``key`` at most ``threshold`` goes to ``at_most``, the rest to ``above``.

    Routes: least cost as regions of request sizes, with the prices of shares and capacities already in them. Where
    output lengths are unknown, ``by_input`` lists input lengths. Else ``boundary`` lists, for some input lengths, from
    which output length on each system is the cheapest (``system`` null where none meets the latency limit). Between
    two listed input lengths the lower one holds; the first is 1. ``agreement`` is the share of the plan's requests,
    and of its energy, that the rule routes as the plan does.
    """
    rule = _threshold_rule(answer) if isinstance(answer, ThresholdAnswer) else _routing_rule(answer)
    write_atomically(Path(path), json.dumps(rule, indent=1) + "\n")


def _threshold_rule(answer: ThresholdAnswer) -> dict[str, Any]:
    decision, (small, large) = answer.decision, answer.costs.labels
    rule = {"key": decision.key, "threshold": decision.threshold, "at_most": small, "above": large}
    return {**_head("threshold", answer.costs), **rule}


def _routing_rule(answer: RoutingAnswer) -> dict[str, Any]:
    costs, workload, decision = answer.costs, answer.workload, answer.decision
    per = {"share": "request", "capacity": "second"}
    rule = {
        **_head("least_cost", costs),
        "cost": {"energy_per_j": decision.scales.energy_weight, "runtime_per_s": decision.scales.runtime_weight},
        "latency_limit_s": answer.slo_s,
        "prices": [
            {"system": costs.labels[limit.system], "per": per[limit.kind], "price": price}
            for limit, price in zip(decision.limits, _prices(decision), strict=True)
        ],
    }
    if decision.input_rule is not None:
        lengths, choice = decision.input_rule
        lengths = np.append(1, lengths[1:])
        chosen = choice[np.searchsorted(lengths, workload.input_tokens, side="right") - 1]
        routes = {"by_input": _runs("from_input_tokens", lengths, choice, costs)}
    else:
        m, n, grid = _choices(answer)
        row = np.searchsorted(m, workload.input_tokens, side="right") - 1
        chosen = grid[row, np.searchsorted(n, workload.output_tokens, side="right") - 1]
        boundary = [
            {"input_tokens": int(length), "routes": _runs("from_output_tokens", n, row, costs)}
            for length, row in zip(m, grid, strict=True)
        ]
        routes = {"boundary": boundary}
    same = np.arange(len(costs.labels))[:, None] == chosen
    planned = {"requests": decision.requests, "energy": decision.requests * costs.energy_j}
    agreement = {name: float(amount[same].sum() / amount.sum()) for name, amount in planned.items()}
    return {**rule, "agreement": agreement, **routes}


def _head(kind: str, costs: Costs) -> dict[str, Any]:
    return {
        "kind": "joulebench-rule",
        "schema_version": RULE_VERSION,
        "rule": kind,
        "systems": {label: profile.name for label, profile in zip(costs.labels, costs.profiles, strict=True)},
        "boundary_of_energy": costs.boundary,
        "energy_methods": costs.energy_methods,
        "idle": costs.idle,
        "mixed": costs.mixed,
    }


def _prices(decision: RoutingDecision) -> tuple[float, ...]:
    return decision.assignment.prices if decision.assignment else ()


def _choices(answer: RoutingAnswer) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp]]:
    """Input lengths, output lengths, and the system for each two of them; −1 where none meets the limit."""
    decision, workload = answer.decision, answer.workload
    m, n = _spaced(workload.input_tokens, INPUT_POINTS), _spaced(workload.output_tokens, OUTPUT_POINTS)
    energy_j, runtime_s = answer.costs.at(np.repeat(m, n.size), np.tile(n, m.size))
    cost = decision.scales.cost(energy_j, runtime_s)
    for limit, price in zip(decision.limits, _prices(decision), strict=True):
        cost[limit.system] += price * limit.usage(runtime_s)
    choice = routing.cheapest(cost, routing.serviceable(runtime_s, answer.slo_s))
    return m, n, choice.reshape(m.size, n.size)


def _spaced(tokens: NDArray[np.int64], points: int) -> NDArray[np.int64]:
    """From 1 to the longest, each as far from the next by a factor."""
    return np.unique(np.geomspace(1, int(tokens.max()), points).round().astype(np.int64))


def _runs(name: str, lengths: np.ndarray, choice: np.ndarray, costs: Costs) -> list[dict[str, Any]]:
    """Where the chosen system changes along ascending lengths."""
    starts = np.flatnonzero(np.diff(choice, prepend=-2))
    return [{name: int(lengths[i]), "system": costs.labels[choice[i]] if choice[i] >= 0 else None} for i in starts]
