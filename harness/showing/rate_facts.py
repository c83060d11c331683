"""Answers at an arrival rate as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from harness.deciding.rates.fleet import MOST_LOAD
from harness.deciding.rates.plans import AtRate, PlanAtRate, RoutingAtRate, ThresholdAtRate
from harness.serving.simulated_queue import OneByOne
from harness.showing.decision_facts import CURVE_POINTS, context, interval_json, thinned
from harness.showing.terminal import records_of


def threshold_rate_json(answer: ThresholdAtRate) -> dict[str, Any]:
    """All that is known of a threshold at a rate."""
    curve, split, uncertain = answer.curve, answer.curve.split, answer.uncertainty
    small, large = (system.label for system in answer.fleet.systems)
    columns = {
        "threshold": curve.threshold,
        "small_share": curve.small_share,
        "energy_request_j": np.where(split.saturated, np.nan, split.energy_j),
        "e2e_s": split.e2e_s,
        "cost": curve.cost,
    }
    kept = thinned(curve.threshold.size, CURVE_POINTS, [] if answer.best is None else [answer.best])
    facts = _facts(answer) | {"key": answer.key, "small": small, "large": large}
    facts["best"] = None
    if answer.best is not None:
        facts["best"] = {
            "threshold": answer.threshold,
            "threshold_low": uncertain and uncertain.threshold_low,
            "threshold_high": uncertain and uncertain.threshold_high,
            "plateau": uncertain and [uncertain.plateau_low, uncertain.plateau_high],
            "small_share": float(curve.small_share[answer.best]),
            **_effects(answer),
        }
    return facts | {"curve": records_of({name: values[kept] for name, values in columns.items()})}


def routing_rate_json(answer: RoutingAtRate) -> dict[str, Any]:
    """All that is known of a routing at a rate."""
    return {**_facts(answer), "decided_on": "input and output tokens", **_effects(answer)}


def _facts(answer: AtRate) -> dict[str, Any]:
    plans, bursts = answer.plans, answer.burstiness
    return {
        **context(answer.costs, answer.workload, answer.scales, plans.too_far),
        "fitted": list(answer.fitted),
        "notes": list(answer.notes),
        "rate_per_s": answer.fleet.rate_per_s,
        "arrivals": "poisson" if answer.arriving.log is None else "trace",
        "burstiness": bursts and {**asdict(bursts), "bursty": bursts.bursty},
        "slo_s": answer.slo_s,
        "most_load": MOST_LOAD,
        "fleet": [_system(each) for each in answer.fleet.systems],
        "saturated": answer.saturated,
        "figures_from": "simulation" if answer.by_simulation else "closed form",
        "why_simulation": answer.by_simulation or None,
        "plan": plans.plan and _plan(plans.plan),
        "baselines": {name: _plan(plan) for name, plan in plans.baselines.items()},
        "compared_with": plans.against,
        "simulated": _simulated(answer),
        "by_rate": _by_rate(answer),
    }


def _system(system: Any) -> dict[str, Any]:
    engine = system.fleet.engine
    limits = () if isinstance(engine, OneByOne) else ("slots", "chunk_tokens", "kv_tokens")
    return {
        "system": system.label,
        "replicas": system.fleet.replicas,
        "off_when_idle": system.fleet.off_when_idle,
        "idle_power_w": engine.idle_power_w,
        "one_at_a_time": isinstance(engine, OneByOne),
        **{name: getattr(engine, name) for name in limits},
    }


def _plan(plan: PlanAtRate) -> dict[str, Any]:
    facts = asdict(plan)
    facts["energy_request_j"], facts["energy_request_ci95_j"] = facts.pop("energy_j"), facts.pop("energy_ci95_j")
    if plan.saturated:
        over = [system.label for system in plan.systems if system.saturated]
        facts["reason"] = f"{' and '.join(over)}: saturated, so that requests wait ever longer"
    return facts


def _effects(answer: AtRate) -> dict[str, Any]:
    found = answer.plans.effects
    if found is None:
        return {"saving": None, "cost_saving": None, "e2e_ratio": None}
    ratio = {end: getattr(found.e2e_ratio, end) for end in ("value", "low", "high")}
    return {"saving": interval_json(found.saving), "cost_saving": interval_json(found.cost_saving), "e2e_ratio": ratio}


def _simulated(answer: AtRate) -> dict[str, Any] | None:
    run = answer.simulated
    if run is None:
        return None
    facts = asdict(run)
    facts["energy_request_j"] = facts.pop("energy_j")
    return facts


def _by_rate(answer: AtRate) -> dict[str, Any]:
    curve, labels = answer.by_rate, [system.label for system in answer.fleet.systems]
    columns = {"rate_per_s": curve.rate_per_s, "energy_request_j": curve.energy_j, "e2e_s": curve.e2e_s}
    columns |= {f"share_{label}": share for label, share in zip(labels, curve.shares, strict=True)}
    columns |= {f"alone_{label}_request_j": alone for label, alone in zip(labels, curve.alone_j, strict=True)}
    if curve.threshold is not None:
        columns["threshold"] = curve.threshold
    rows = records_of(columns)
    for row in rows:
        row["saturated"] = row["rate_per_s"] > curve.capacity_per_s
    return {
        "capacity_per_s": curve.capacity_per_s,
        "second_machine_pays_from_per_s": curve.pays_from_per_s,
        "curve": rows,
    }
