"""How many requests a window of a point has at least and at most, from how long its requests took so far. Pure.

The window's own requests have no say in this: one that ended as soon as its requests look alike would leave out the
rare slow ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from harness.core.statistics import Z95
from harness.measuring.plan import Plan


def most_requests(request_s: float, plan: Plan) -> int:
    """Requests of so many seconds that fit into the longest window; at least 1."""
    longest_s = min(plan.max_window_s, plan.timeout_s / 2)
    return max(1, math.floor(min(longest_s / request_s, 1e9)))


def fewest_requests(request_s: Sequence[float], plan: Plan, metered: bool) -> int:
    """Requests that a window needs for its runtime, from the seconds of earlier ones of its point.

    At least two, but without a meter one that is as long as ``plan.min_window_s``; as many as make the half-width of
    their mean ``window_precision``, where they take no longer than that; and those that fill the shortest window.
    """
    mean_s = statistics.fmean(request_s)
    spread = statistics.stdev(request_s) / mean_s if len(request_s) > 1 else 0.0
    for_precision = math.ceil(min((Z95 * spread / plan.stopping.window_precision) ** 2, 1e9))
    no_longer = math.ceil(plan.min_window_s / mean_s)
    wanted = max(requests_at_least(mean_s, plan, metered), min(for_precision, no_longer))
    return min(wanted, most_requests(mean_s, plan))


def requests_at_least(request_s: float, plan: Plan, metered: bool) -> int:
    """Requests that a window has however alike they are."""
    several = 2 if metered or request_s < plan.min_window_s else 1
    return max(several, math.ceil(plan.shortest_window_s / request_s))
