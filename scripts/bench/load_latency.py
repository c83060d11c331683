"""How right times to first and between tokens under load are at sizes and numbers in flight that were left out."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from load_tables import Judged, LoadGroup

from harness.core.arrays import Floats
from harness.modelling.fit import MIN_POINTS, Observations
from harness.modelling.served.held_out import KINDS, errors_left_out, folds_in_flight
from harness.modelling.served.latency import LatencyPoints, fit_latency
from harness.modelling.served.rivals import RIVALS
from harness.modelling.served.station import Batching


def judge_ttft(group: LoadGroup) -> list[Judged]:
    """Times to first token."""
    return _judge(group, of_first=True)


def judge_tpot(group: LoadGroup) -> list[Judged]:
    """Times per output token after the first."""
    return _judge(group, of_first=False)


def _judge(group: LoadGroup, of_first: bool) -> list[Judged]:
    points, batching = latency_points(group)
    if len(points) < MIN_POINTS or np.unique(points.concurrency).size < 2:
        return []
    # Simple rivals are of whole requests: the time per output token enters as all of decoding.
    observed = _observed(points, points.ttft_s if of_first else points.tpot_s * (points.output_tokens - 1))
    rivals = {name: errors_left_out(observed, rival, folds_in_flight(observed)) for name, rival in RIVALS.items()}
    rows = np.stack([*points.at, points.ttft_s, points.tpot_s], axis=1).tolist()
    ours = _errors_left_out(tuple(map(tuple, rows)), batching)[0 if of_first else 1]
    return [Judged(kind, ours[kind], {name: of[kind].error for name, of in rivals.items()}) for kind in KINDS]


@lru_cache(maxsize=1)
def _errors_left_out(
    rows: tuple[tuple[float, ...], ...], batching: Batching | None
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Of times to first token and of those after it, by kind: both come of the same fits, so the last are kept."""
    points = LatencyPoints(*np.array(rows).T)
    found: tuple[dict[str, Floats], dict[str, Floats]] = ({}, {})
    for fold in folds_in_flight(_observed(points, points.ttft_s)):
        judged = points.only(fold.judged)
        predicted = fit_latency(points.only(~fold.out), batching).times(*judged.at)
        for errors, ours, measured in zip(found, predicted, (judged.ttft_s, judged.tpot_s), strict=True):
            errors[fold.kind] = np.append(errors.get(fold.kind, np.empty(0)), ours / measured - 1)
    first, after = ({kind: errors.get(kind, np.empty(0)) for kind in KINDS} for errors in found)
    return first, after


def _observed(points: LatencyPoints, cost: Floats) -> Observations:
    return Observations(
        points.input_tokens, points.output_tokens, cost, np.zeros(len(points)), concurrency=points.concurrency
    )


def latency_points(group: LoadGroup) -> tuple[LatencyPoints, Batching | None]:
    """The points with both times, and how they were batched where the table tells: a batch has phases."""
    measured = dict(group.measured)
    batching: Batching | None = None
    if "ttft_s" not in measured and {"t_pp_s", "t_tg_s"} <= measured.keys():
        batching = "static batch"
        measured["ttft_s"] = measured["t_pp_s"]
        measured["tpot_s"] = measured["t_tg_s"] / np.maximum(group.n - 1, 1)
    none = np.full(len(group.c), np.nan)
    times = measured.get("ttft_s", none), measured.get("tpot_s", none)
    points = LatencyPoints(group.m, group.n, group.c, *times)
    with np.errstate(invalid="ignore"):
        return points.only((times[0] > 0) & (times[1] > 0) & (group.n > 1)), batching
