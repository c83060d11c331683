"""What prefix caching changes: energy with and without it, and the threshold."""

from dataclasses import dataclass, replace

import numpy as np

from harness.core.arrays import Floats
from harness.deciding import routing, threshold
from harness.deciding.costs import Costs
from harness.deciding.decision import BestThreshold
from harness.deciding.draws import half_widths
from harness.deciding.plans import ServingPlan
from harness.deciding.workload import Workload


@dataclass(frozen=True)
class PrefixCaching:
    """The same plan where cached tokens cost nothing, and where all prompts are computed whole."""

    cached_share: float
    """Of the input tokens, that a prefix cache held."""
    energy_j: float
    """Of the plan, as everywhere in the answer."""
    energy_ci95_j: float
    energy_without_j: float
    """If the same systems served the same requests and computed all of their prompts."""
    energy_without_ci95_j: float
    threshold_without: int | None = None
    """The best threshold then; None where the answer is no threshold."""


def prefix_caching(costs: Costs, workload: Workload, requests: Floats, plan: ServingPlan) -> PrefixCaching | None:
    """Of a plan that gives each system so many ``requests``, shape (systems, sizes); None where nothing is cached, or
    no system can make use of it."""
    if costs.whole_prompts is None:
        return None
    energy_j, runtime_s = costs.whole_prompts
    whole = replace(costs, energy_j=energy_j, runtime_s=runtime_s, whole_prompts=None)
    widths = half_widths(whole, replace(workload, cached_tokens=None), [requests])
    return PrefixCaching(
        workload.cached_share,
        plan.energy_j,
        plan.energy_ci95_j,
        float((requests * energy_j).sum()),
        float(widths.energy_j[0]),
    )


def threshold_caching(
    costs: Costs, workload: Workload, found: BestThreshold, plan: ServingPlan
) -> PrefixCaching | None:
    """The same of the plan that a threshold makes."""
    if costs.whole_prompts is None:
        return None
    values = threshold.request_key(found.key, workload.input_tokens, workload.output_tokens)
    requests = routing.served_by((values > found.threshold).astype(np.intp), workload.count, 2)
    caching = prefix_caching(costs, workload, requests, plan)
    curve = threshold.totals_by_key(values, workload.count, *costs.whole_prompts).curve
    without = int(curve.threshold[curve.best(found.scales)])
    return None if caching is None else replace(caching, threshold_without=without)


def mean_cached(costs: Costs, workload: Workload) -> float | None:
    """Cached tokens of a request, in the mean, that cost nothing; None where costs are of whole prompts."""
    if costs.whole_prompts is None:
        return None
    return workload.cached_share * float(np.average(workload.input_tokens, weights=workload.count))
