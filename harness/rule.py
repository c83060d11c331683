"""The decision as a file that a scheduler can follow with look-ups alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from harness import routing
from harness.costs import Costs, cost_table
from harness.decision import RoutingDecision, ThresholdDecision
from harness.errors import UserError
from harness.workload import Workload, from_pairs

SCHEMA_VERSION = 1
INPUT_POINTS, OUTPUT_POINTS = 48, 2000
"""Most input and output lengths at which the boundary between systems is worked out."""


def threshold_rule(decision: ThresholdDecision, costs: Costs) -> dict[str, Any]:
    """``key`` at most ``threshold`` goes to ``at_most``, the rest to ``above``."""
    return {
        **_head("threshold", costs),
        "key": decision.key,
        "threshold": int(decision.curve.threshold[decision.best]),
        "at_most": costs.labels[0],
        "above": costs.labels[1],
    }


def routing_rule(
    decision: RoutingDecision, costs: Costs, workload: Workload, latency_limit_s: float | None
) -> dict[str, Any]:
    """Least cost as regions of request sizes, with the prices of shares and capacities already in them.

    ``by_input`` decisions list input lengths; the others list, for some input lengths, from which output length
    on each system is the cheapest (``system`` null where none meets the latency limit). Between two listed
    input lengths the lower one holds.
    """
    rule = {
        **_head("least_cost", costs),
        "cost": {
            "energy_per_j": decision.scales.energy_weight,
            "runtime_per_s": decision.scales.runtime_weight,
        },
        "latency_limit_s": latency_limit_s,
        "prices": [
            {
                "system": costs.labels[limit.system],
                "per": "request" if limit.kind == "share" else "second",
                "price": price,
            }
            for limit, price in zip(decision.limits, _prices(decision), strict=True)
        ],
    }
    if decision.input_rule is not None:
        return {**rule, "by_input": _runs("from_input_tokens", *decision.input_rule, costs)}
    return {**rule, "boundary": _boundary(decision, costs, workload, latency_limit_s)}


def save_rule(rule: dict[str, Any], path: Path) -> None:
    """Write a rule as JSON. Raises UserError."""
    try:
        path.write_text(json.dumps(rule, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}") from None


def _head(kind: str, costs: Costs) -> dict[str, Any]:
    return {
        "kind": "joulebench-rule",
        "schema_version": SCHEMA_VERSION,
        "rule": kind,
        "systems": {label: profile.name for label, profile in zip(costs.labels, costs.profiles, strict=True)},
        "boundary_of_energy": costs.boundary,
        "idle": costs.idle,
        "mixed": costs.mixed,
    }


def _prices(decision: RoutingDecision) -> tuple[float, ...]:
    return decision.assignment.prices if decision.assignment else ()


def _boundary(
    decision: RoutingDecision, costs: Costs, workload: Workload, latency_limit_s: float | None
) -> list[dict[str, Any]]:
    m = _spaced(int(workload.input_tokens.min()), int(workload.input_tokens.max()), INPUT_POINTS)
    n = _spaced(1, int(workload.output_tokens.max()), OUTPUT_POINTS)
    grid = from_pairs("grid", "", np.repeat(m, n.size), np.tile(n, m.size))
    boundary = None if costs.boundary == "sum" else costs.boundary
    at = cost_table(costs.profiles, grid, boundary, costs.idle, allow_mixed=costs.mixed)
    cost = decision.scales.cost(at.energy_j, at.runtime_s)
    for limit, price in zip(decision.limits, _prices(decision), strict=True):
        cost[limit.system] += price * limit.usage(at.runtime_s)
    choice = routing.cheapest(cost, routing.serviceable(at.runtime_s, latency_limit_s)).reshape(m.size, n.size)
    return [
        {"input_tokens": int(length), "routes": _runs("from_output_tokens", n, row, costs)}
        for length, row in zip(m, choice, strict=True)
    ]


def _spaced(low: int, high: int, points: int) -> np.ndarray:
    return np.unique(np.geomspace(low, high, points).round().astype(np.int64))


def _runs(name: str, lengths: np.ndarray, choice: np.ndarray, costs: Costs) -> list[dict[str, Any]]:
    """Where the chosen system changes along ascending lengths."""
    starts = np.flatnonzero(np.diff(choice, prepend=-2))
    return [{name: int(lengths[i]), "system": costs.labels[choice[i]] if choice[i] >= 0 else None} for i in starts]
