"""Energy of the pauses between a window's requests, by regression of the readings on the time that each took. Pure."""

from __future__ import annotations

import math

import numpy as np

from harness.core.arrays import Floats
from harness.core.statistics import student_95
from harness.energy.integrate import Energy
from harness.energy.nodes import NS, Nodes, Unknown, nodes_of
from harness.energy.readings import Domain, Trace, Window

_WORTH_TAKING_OFF = 0.002
"""Share of a window from which on its gaps are pauses: what a call takes between two requests is theirs."""
_FEWEST = 6


def without_gaps(whole: Energy, trace: Trace, window: Window) -> Energy:
    """The energy of a window's requests alone, from that of the whole, in J."""
    gaps_s = (window.start_ns[1:] - window.end_ns[:-1]) / NS
    window_s = float(window.end_ns[-1] - window.start_ns[0]) / NS
    if whole.joules is None or whole.ci95_j is None or gaps_s.sum() <= _WORTH_TAKING_OFF * window_s:
        return whole
    try:
        gaps_w, ci95_w = _power_in_gaps(trace, window)
    except Unknown as unknown:
        return Energy(None, None, f"the pauses' power can't be told: {unknown}")
    gaps_j = min(max(gaps_w, 0.0), whole.joules / window_s) * float(gaps_s.sum())
    return Energy(whole.joules - gaps_j, math.hypot(whole.ci95_j, ci95_w * float(gaps_s.sum())))


def _power_in_gaps(trace: Trace, window: Window) -> tuple[float, float]:
    """Mean power in a window's pauses and its 95 % half-width, in W: least squares of prefill, decode and pause."""
    nodes = nodes_of(trace)
    edges_s = (np.column_stack((window.start_ns, window.prefill_end_ns, window.end_ns)).ravel() - nodes.origin_ns) / NS
    starts, ends, values = _parts(trace, nodes)
    inside = (starts >= edges_s[0]) & (ends <= edges_s[-1])
    starts, ends, values = starts[inside], ends[inside], values[inside]
    if values.size < _FEWEST:
        raise Unknown("too few readings in the window")
    shares = (_time_in(edges_s, ends) - _time_in(edges_s, starts)) / (ends - starts)[:, None]
    shares = shares[:, shares.any(axis=0)]
    weights = np.sqrt(ends - starts)
    solution, _, rank, _ = np.linalg.lstsq(shares * weights[:, None], values * weights, rcond=None)
    freedom = values.size - shares.shape[1]
    if rank < shares.shape[1] or freedom < 1:
        raise Unknown("the readings don't tell pauses from requests")
    residuals = (values - shares @ solution) * weights
    covariance = np.linalg.inv((shares * weights[:, None]).T @ (shares * weights[:, None]))
    sd_w = math.sqrt(float(residuals @ residuals) / freedom * float(covariance[-1, -1]))
    # Unsure times of updates draw the powers of phases towards each other (errors in variables).
    unsure = float(np.median(nodes.lag_s)) / float(np.median(ends - starts)) / math.sqrt(6.0)
    drawn = min(unsure**2 / max(float(shares[:, -1].var()), 1e-12), 1.0)
    return float(solution[-1]), math.hypot(
        student_95(freedom) * sd_w, drawn * float(values.mean() - solution[-1]) * 2.0
    )


def _parts(trace: Trace, nodes: Nodes) -> tuple[Floats, Floats, Floats]:
    """Stretches of time that readings tell of, and the mean power in each."""
    domain: Domain = trace.domain
    if domain.kind == "counter":
        steps = np.diff(nodes.times_s)
        looks = domain.seen_s or 0.0
        starts = nodes.times_s[1:] - np.minimum(steps, looks) if looks else nodes.times_s[:-1]
        return starts, nodes.times_s[1:], np.diff(nodes.joules) / steps
    times = (trace.times_ns - nodes.origin_ns) / NS
    look_s = max(domain.averaging_s or 0.0, domain.age_s, 1e-3)
    new = np.concatenate(([True], np.diff(trace.values) != 0.0))
    return times[new] - look_s, times[new], trace.values[new]


def _time_in(edges_s: Floats, times_s: Floats) -> Floats:
    """By prefill, decode and pause, the seconds that each took until these times. Shape (times, 3)."""
    kinds = np.resize([0, 1, 2], edges_s.size - 1)
    lengths = np.diff(edges_s)
    until = np.stack(
        [np.concatenate(([0.0], np.cumsum(np.where(kinds == kind, lengths, 0.0)))) for kind in range(3)], axis=1
    )
    return np.stack([np.interp(times_s, edges_s, until[:, kind]) for kind in range(3)], axis=1)
