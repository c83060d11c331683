"""What prefix caching changes at an arrival rate, by the closed form."""

from dataclasses import dataclass, replace

import numpy as np

from harness.core.arrays import Floats
from harness.deciding.rates.plans import AtRate, RoutingAtRate, ThresholdAtRate
from harness.deciding.routing import served_by
from harness.deciding.threshold import request_key


@dataclass(frozen=True)
class CachingAtRate:
    """The same plan where cached tokens cost nothing, and where all prompts are computed whole."""

    cached_share: float
    """Of the input tokens, that a prefix cache held."""
    energy_share_without: float | None
    """Mean energy of a request without the cache over that with it; None where a system would then be saturated."""


def caching_at_rate(answer: AtRate) -> CachingAtRate | None:
    """Of the plan of an answer; None without one, where nothing is cached, or where no system can make use of it."""
    requests = _requests(answer)
    if answer.costs.whole_prompts is None or requests is None:
        return None
    whole = replace(answer.fleet, workload=replace(answer.workload, cached_tokens=None))
    with_it, without = (fleet.of_plans([requests]) for fleet in (answer.fleet, whole))
    known = not (with_it.saturated[0] or without.saturated[0])
    return CachingAtRate(
        answer.workload.cached_share, float(without.energy_j[0] / with_it.energy_j[0]) if known else None
    )


def _requests(answer: AtRate) -> Floats | None:
    """Of each size by each system, shape (systems, sizes)."""
    if isinstance(answer, RoutingAtRate):
        return answer.requests
    if not isinstance(answer, ThresholdAtRate) or answer.threshold is None:
        return None
    values = request_key(answer.key, answer.workload.input_tokens, answer.workload.output_tokens)
    return served_by((values > answer.threshold).astype(np.intp), answer.workload.count, 2)
