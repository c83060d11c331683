"""What share of requests is served within a latency objective, each with the probability that it is."""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, stdtr

from harness.core.arrays import Floats
from harness.deciding.costs import Costs
from harness.deciding.draws import DRAWS, SEED, all_draws
from harness.deciding.errors import GroupSums
from harness.deciding.octaves import Indices
from harness.deciding.uncertainty import Interval
from harness.deciding.workload import Workload

BINS_PER_UNIT = 100
"""Requests whose limit is the same multiple of their runtime, to a per cent, are drawn together."""
WIDEST = 2.0
"""Beyond this logarithm of limit over runtime all requests are drawn together: there no request is in doubt."""


def in_time_shares(costs: Costs, workload: Workload, plans: Sequence[Floats], slo_s: float) -> list[Interval]:
    """Share of the workload's requests that each plan of shape (systems, pairs) serves within ``slo_s`` seconds.

    A request counts with the probability that one new request of its size keeps the limit, by the interval of its
    runtime. The interval of the share holds what all requests of a system have in common (coefficients, misfit,
    session), and that the requests to come are others.
    """
    rng = np.random.default_rng(SEED)
    shares, drawn = np.zeros(len(plans)), np.zeros((len(plans), DRAWS))
    for system, draws in enumerate(all_draws(costs, workload, rng)):
        errors, requests = draws.errors, np.stack([plan[system] for plan in plans])
        runtime_s = costs.runtime_s[system]
        sd, freedom, scatter_s = errors.request_runtime()
        shares += requests @ _below(slo_s, runtime_s, sd, freedom)
        octaves = workload.octaves
        _, shift = draws.shifts(GroupSums(workload.count, octaves.cell, octaves.cells), scatter=False)
        relative = shift / octaves.by_cell(workload.count * runtime_s)
        drawn += _drawn(slo_s / runtime_s, scatter_s / runtime_s, octaves.cell, requests, relative)
    shares, drawn = shares / workload.requests, drawn / workload.requests
    chance = np.sqrt(shares * (1 - shares) / workload.requests)
    drawn = drawn + chance[:, None] * rng.standard_normal(drawn.shape)
    ends = np.clip(np.percentile(drawn, [2.5, 97.5], axis=1), 0.0, 1.0)
    return [
        Interval(share, min(share, low), max(share, high))
        for share, low, high in zip(np.clip(shares, 0.0, 1.0).tolist(), *ends.tolist(), strict=True)
    ]


def _below(limit_s: float, runtime_s: Floats, sd: Floats, freedom: Floats) -> Floats:
    """The probability that a new request takes at most so long, by pair."""
    margin = np.divide(limit_s - runtime_s, sd, out=np.where(runtime_s <= limit_s, np.inf, -np.inf), where=sd > 0)
    return np.where(np.isfinite(freedom), stdtr(np.where(np.isfinite(freedom), freedom, 1.0), margin), ndtr(margin))


def _drawn(limit: Floats, scatter: Floats, cell: Indices, requests: Floats, relative: Floats) -> Floats:
    """Requests in time in each draw, shape (plans, draws).

    By pair: ``limit`` is a multiple of the runtime, ``scatter`` that of single requests as a share of it. ``relative``
    are drawn errors of the runtimes of a cell, shape (draws, cells). Pairs are binned, since there may be millions.
    """
    place = np.rint(BINS_PER_UNIT * np.clip(np.log(limit), -WIDEST, WIDEST)).astype(np.intp)
    width = int(2 * BINS_PER_UNIT * WIDEST) + 1
    code = cell * width + place + width // 2
    size = relative.shape[1] * width
    pairs = np.bincount(code, minlength=size)
    used = np.flatnonzero(pairs)
    amounts = np.stack([np.bincount(code, x, size)[used] for x in requests])
    middle_limit, middle_scatter = (np.bincount(code, each, size)[used] / pairs[used] for each in (limit, scatter))
    margin = (middle_limit - 1.0) - relative[:, used // width]
    spread = np.maximum(middle_scatter, 1e-12)
    return np.asarray(amounts @ ndtr(margin / spread).T)
