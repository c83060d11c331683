"""How right times to first and between tokens under load are at sizes and numbers in flight that were left out."""

from __future__ import annotations

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
    cost = points.ttft_s if of_first else points.tpot_s * (points.output_tokens - 1)
    observed = Observations(
        points.input_tokens, points.output_tokens, cost, np.zeros(len(points)), concurrency=points.concurrency
    )
    folds = folds_in_flight(observed)
    rivals = {name: errors_left_out(observed, rival, folds) for name, rival in RIVALS.items()}
    found: dict[str, list[Floats]] = {kind: [] for kind in KINDS}
    for fold in folds:
        judged = points.only(fold.judged)
        predicted = fit_latency(points.only(~fold.out), batching).times(*judged.at)
        measured = (judged.ttft_s, judged.tpot_s)
        at = 0 if of_first else 1
        found[fold.kind].append(predicted[at] / measured[at] - 1)
    return [
        Judged(kind, np.concatenate([np.empty(0), *found[kind]]), {name: of[kind].error for name, of in rivals.items()})
        for kind in KINDS
    ]


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
