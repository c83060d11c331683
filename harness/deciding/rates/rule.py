"""A decision at an arrival rate as a file that a scheduler can follow with look-ups alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import UserError
from harness.core.files import refuse_other_format, write_atomically
from harness.deciding.exported_rule import rule_head, rule_regions, rule_saving, size_grid
from harness.deciding.rates.plans import AtRate, RoutingAtRate, ThresholdAtRate
from harness.deciding.rates.routes import chosen_systems
from harness.deciding.rule_schema import AnyRule, LeastCostRule, RuleAgreement, RuleAtRate, RuleLoad, ThresholdRule


def save_rate_rule(answer: ThresholdAtRate | RoutingAtRate, path: str | os.PathLike[str]) -> None:
    """Write the rule of an answer at a rate, as ``save_rule`` does of others. Raises UserError without a plan."""
    refuse_other_format(Path(path), ".json")
    if answer.plans.plan is None:
        raise UserError("there is no rule to export: no plan serves all requests at this rate")
    rule = _threshold_rule(answer) if isinstance(answer, ThresholdAtRate) else _routing_rule(answer)
    write_atomically(Path(path), json.dumps(rule.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")


def _threshold_rule(answer: ThresholdAtRate) -> AnyRule:
    small, large = (system.label for system in answer.fleet.systems)
    chosen, u = answer.threshold, answer.uncertainty
    assert chosen is not None
    return ThresholdRule(
        rule="threshold",
        key=answer.key,  # type: ignore[arg-type]
        threshold=chosen,
        threshold_low=u.threshold_low if u else chosen,
        threshold_high=u.threshold_high if u else chosen,
        plateau_low=u.plateau_low if u else chosen,
        plateau_high=u.plateau_high if u else chosen,
        at_most=small,
        above=large,
        **_head(answer),
    )


def _routing_rule(answer: RoutingAtRate) -> AnyRule:
    fleet, workload = answer.fleet, answer.workload
    assert answer.prices is not None
    assert answer.requests is not None
    m, n = size_grid(workload)
    grid = chosen_systems(fleet, answer.prices, np.repeat(m, n.size), np.tile(n, m.size)).reshape(m.size, n.size)
    row = np.searchsorted(m, workload.input_tokens, side="right") - 1
    chosen = grid[row, np.searchsorted(n, workload.output_tokens, side="right") - 1]
    same = np.arange(len(fleet.systems))[:, None] == chosen
    planned = {"requests": answer.requests, "energy": answer.requests * answer.costs.energy_j}
    agreement = {name: min(1.0, float(amount[same].sum() / amount.sum())) for name, amount in planned.items()}
    return LeastCostRule(
        rule="least_cost",
        latency_limit_s=None,
        prices=[],
        agreement=RuleAgreement(**agreement),
        regions=rule_regions(m, n, grid, answer.costs.labels),
        by_input=None,
        **_head(answer),
    )


def _head(answer: AtRate) -> dict[str, Any]:
    plans, found = answer.plans, answer.plans.effects
    assert plans.plan is not None
    saving = None
    if found is not None and plans.against is not None:
        saving = rule_saving(plans.against, found.saving, found.cost_saving, found.e2e_ratio)
    head = rule_head(answer.costs, answer.workload, answer.scales, saving, plans.too_far)
    systems = zip(answer.fleet.systems, plans.plan.systems, strict=True)
    return head | {
        "at_rate": RuleAtRate(
            rate_per_s=answer.fleet.rate_per_s,
            arrivals="poisson" if answer.arriving.log is None else "trace",
            slo_s=answer.slo_s,
            capacity_per_s=answer.by_rate.capacity_per_s,
            pays_from_per_s=answer.by_rate.pays_from_per_s,
            systems={
                load.label: RuleLoad(
                    replicas=load.replicas,
                    off_when_idle=system.fleet.off_when_idle,
                    rate_per_s=load.rate_per_s,
                    concurrency=load.concurrency,
                    capacity_per_s=load.capacity_per_s,
                    e2e_s=load.e2e_s,
                )
                for system, load in systems
            },
        )
    }
