"""What a window's energy misses between updates, and by the noise and rounding of readings. Pure.

From second differences, which slow changes hardly touch (von Neumann 1941 for first ones), and from slow change itself.
"""

from __future__ import annotations

import math

import numpy as np

from harness.core.arrays import Floats
from harness.core.statistics import Z95, student_95
from harness.energy.nodes import NS, Nodes, nodes_of
from harness.energy.readings import Domain, Trace

_STEP = 1.0 / math.sqrt(720.0)
"""Standard deviation of x·(1 − x)/2 for x anywhere in [0, 1]."""
_QUARTILE = 0.3186 * math.sqrt(6.0)
"""Lower quartile of second differences of noise of standard deviation 1."""


def sampling_sd(trace: Trace, start_ns: int, end_ns: int) -> float:
    """Standard deviation of a window's energy by what its sensor did not see, and by the noise of its readings, in J.

    A load that repeats exactly in step with a sensor that is blind for a part of the time isn't noticed.
    """
    domain = trace.domain
    blind = domain.blind_share
    if domain.kind == "counter" and blind == 0.0:
        return 0.0
    nodes = nodes_of(trace)
    start, end = (start_ns - nodes.origin_ns) / NS, (end_ns - nodes.origin_ns) / NS
    # Updates that lie wholly inside: one at an edge may have seen the other side of a step.
    within = (np.append(nodes.times_s[0], nodes.times_s[:-1]) >= start) & (nodes.times_s <= end)
    watts = nodes.power_w[within]
    if watts.size < 4:
        return 0.0 if watts.size < 2 else float(watts.std(ddof=1)) * (end - start) / math.sqrt(watts.size)
    spacing_s = (end - start) / watts.size
    bends = np.diff(watts, 2)
    if domain.kind == "power" and domain.period_s:
        # Of updates that come faster than polls only some are seen.
        blind = max(1.0 - (1.0 - blind) * domain.period_s / max(domain.period_s, spacing_s), 0.0)
    spread = blind * _sampling_variance(watts)
    if domain.filter_s > 0.0:
        # Of a step between two readings the low-pass remembers when it came, in part: x·(T − x)/2τ, of any x.
        steps = np.diff(np.diff(nodes.joules) / np.diff(nodes.times_s))[within[2:]]
        spread += float(np.mean(steps**2)) * (_STEP * spacing_s / domain.filter_s) ** 2
    lengths = np.diff(nodes.times_s)[within[1:]]
    unseen = float(np.sum(np.maximum(lengths / np.median(lengths) - 1.1, 0.0)))
    spread += unseen / watts.size * float(np.mean(bends**2)) / 1.5  # updates that no poll saw
    if domain.age_s > 0.0 and not nodes.regular:
        # Of two readings the first counts for longer by as much as the second for less.
        spread += float(np.mean(np.diff(watts) ** 2) * np.mean(nodes.lag_s[within] ** 2)) / 12.0 / spacing_s**2
    if domain.kind == "power" and blind < 1.0:
        spread += _noise_w(bends, float(watts.mean()), nodes.power_w[~within]) ** 2
    return math.sqrt(spread * watts.size) * spacing_s


def _sampling_variance(watts: Floats) -> float:
    """Variance of single readings that makes their mean miss the power's, in W², widened for being an estimate.

    The smaller of two that each are too large: from second differences, which grow with every step; and from what the
    readings have of slow change, as aliases of quick change would be a part of it (the lowest discrete cosines, each of
    the variance for white noise).
    """
    from scipy.fft import dct

    def widened(squares: Floats, freedom: float) -> float:
        return float(np.mean(squares)) * (student_95(max(freedom, 2.0)) / Z95) ** 2

    bent = widened(np.diff(watts, 2) ** 2 / 6.0, (watts.size - 2) / 1.5)
    if watts.size < 8:
        return bent
    order = np.arange(watts.size)
    level = watts - np.polyval(np.polyfit(order, watts, 1), order)
    slow = dct(level, norm="ortho")[1 : 1 + min(max(watts.size // 4, 5), 12)] ** 2
    return min(bent, widened(slow, slow.size - 1.0))


def _noise_w(bends: Floats, mean_w: float, outside_w: Floats) -> float:
    """Standard deviation of single readings, in W, from their second differences where these are smallest.

    Or from the rest around the window, if that gives less: noise is taken to grow with power.
    """
    inside = float(np.quantile(np.abs(bends), 0.25)) / _QUARTILE
    if outside_w.size < 8 or outside_w.mean() <= 0.0:
        return inside
    rest = float(np.quantile(np.abs(np.diff(outside_w, 2)), 0.25)) / _QUARTILE
    return min(inside, rest * mean_w / float(outside_w.mean()))


def rounding_sd(domain: Domain, nodes: Nodes, seconds: float) -> float:
    """Standard deviation of an energy because readings are rounded, in J."""
    if domain.kind == "counter":
        return domain.resolution * math.sqrt(2.0 / 12.0)
    return domain.resolution * math.sqrt(seconds * float(np.median(np.diff(nodes.times_s))) / 12.0)
