"""What energy and runtime become as λ, the weight of energy, goes from 0 to 1 within the limits of an answer."""

import numpy as np

from harness.core.arrays import Floats
from harness.deciding import routing
from harness.deciding.assignment import Limit
from harness.deciding.costs import Costs, expected_by_input
from harness.deciding.decision import assigned, make_scales, tested_halves
from harness.deciding.routing import TradeOff
from harness.deciding.scales import raw_scales
from harness.deciding.workload import Workload

SWEEP_POINTS = 1001
"""Weights λ at which the trade-off is worked out."""
LIMITED_POINTS = 21
"""The same under shares or capacities, where each weight is a linear programme of its own."""


def sweep_weights(
    costs: Costs,
    workload: Workload,
    reference: int,
    latency_limit_s: float | None = None,
    limits: tuple[Limit, ...] = (),
    by_input: bool = False,
) -> TradeOff:
    """Totals of the least-cost plan for weights from 0 to 1, relative to the mean request of a reference system.

    Each plan keeps the latency objective and the limits, or with ``by_input`` knows input lengths alone, as that of
    ``routing_decision`` does: at its weight both are the same plan. Requests that no system serves in time are left
    out. Raises UserError where the limits can't be met.
    """
    if limits:
        return _limited(costs, workload, reference, latency_limit_s, limits)
    weights = np.linspace(0, 1, SWEEP_POINTS)
    unit = make_scales("reference", None, costs, workload, reference)
    references = float(unit.energy_reference_j or 0), float(unit.runtime_reference_s or 0)
    if by_input:
        return _by_input(costs, workload, weights, references)
    allowed = None if latency_limit_s is None else routing.serviceable(costs.runtime_s, latency_limit_s)
    return routing.weight_sweep(costs.energy_j, costs.runtime_s, workload.count, weights, references, allowed)


def _limited(
    costs: Costs, workload: Workload, reference: int, latency_limit_s: float | None, limits: tuple[Limit, ...]
) -> TradeOff:
    allowed = routing.serviceable(costs.runtime_s, latency_limit_s)
    served = np.where(allowed.any(axis=0), workload.count, 0.0)
    weights = np.linspace(0, 1, LIMITED_POINTS)
    totals = []
    for weight in weights.tolist():
        scales = make_scales("reference", weight, costs, workload, reference)
        cost = scales.cost(costs.energy_j, costs.runtime_s)
        requests = assigned(costs, cost, allowed, served, limits).requests
        energy_j, runtime_s = ((requests * each).sum() for each in (costs.energy_j, costs.runtime_s))
        totals.append([energy_j, runtime_s, *(requests.sum(axis=1) / served.sum())])
    energy, runtime, *shares = np.array(totals).T
    return TradeOff(weights, energy, runtime, np.array(shares))


def _by_input(costs: Costs, workload: Workload, weights: Floats, references: tuple[float, float]) -> TradeOff:
    """Each half of the requests routed by what the other half taught, as in ``routing_decision``."""
    lengths, of_length = np.unique(workload.input_tokens, return_inverse=True)
    position = np.arange(lengths.size)
    per_request = np.stack([costs.energy_j, costs.runtime_s, np.ones_like(costs.energy_j)])
    systems = len(costs.labels)
    totals, shares = np.zeros((2, weights.size)), np.zeros((systems, weights.size))
    for tested, learned in tested_halves(workload):
        # The cost is linear in both, so that one expectation of each serves all weights.
        energy_j, runtime_s = (expected_by_input(costs, raw_scales(w), workload, learned) for w in (1.0, 0.0))
        held = np.array([[np.bincount(of_length, tested * row) for row in each] for each in per_request])
        for i, weight in enumerate(weights):
            cost = weight * energy_j / references[0] + (1 - weight) * runtime_s / references[1]
            choice = routing.cheapest(cost)
            chosen = held[:, choice, position]
            totals[:, i] += chosen[:2].sum(axis=1)
            shares[:, i] += np.bincount(choice, chosen[2], systems)
    return TradeOff(weights, totals[0], totals[1], shares / workload.count.sum())
