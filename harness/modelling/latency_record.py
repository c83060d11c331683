"""The latency model of a profile: a station fitted to points at several numbers of requests in flight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.load_schema import Latency, LatencyModel, LoadError, ServedModel
from harness.modelling.model_schema import Coefficient
from harness.modelling.profile_schema import Measurement
from harness.modelling.served.held_out import FEWEST, KINDS, HeldOutKind, folds_at
from harness.modelling.served.latency import LEAST_POINTS, LatencyFit, LatencyPoints, fit_latency
from harness.modelling.served.station import Batching


def latency_model(
    measured: Sequence[Measurement], kind: str | None, runtime: ServedModel, chunk_tokens: int | None
) -> LatencyModel | None:
    """The model of points with time to first token and per output token; None where too few have them.

    ``kind`` is how several were in flight; where it isn't known the points tell. Slots and sessions are those of
    ``runtime``.
    """
    slots = runtime.slots
    measured = [p for p in measured if p.prefill_s is not None and p.decode_s is not None and p.output_tokens > 1]
    points = _points(measured)
    if len(points) < LEAST_POINTS or np.unique(points.concurrency).size < FEWEST + 1:
        return None
    batching: Batching | None = "static batch" if kind == "static batch" else "closed loop" if kind else None
    try:
        fitted = fit_latency(points, batching, slots=slots, chunk_tokens=chunk_tokens)
    except UserError:
        return None
    asked = np.array([point.output_tokens_requested for point in measured], dtype=float)
    errors = _errors(points, asked, fitted, slots, chunk_tokens)
    if not errors["ttft"]:
        return None
    station = fitted.station
    deviations = np.sqrt(np.maximum(np.diag(fitted.covariance), 0)).tolist()
    named = zip(station.coefficients(), fitted.coefficients.tolist(), deviations, strict=True)
    return LatencyModel(
        batching=station.batching,
        prefill_joined=station.form.prefill_joined,
        experts_share=station.form.experts_share,
        slots=station.slots,
        coefficients=[
            Coefficient(name=name, value=value, standard_error=deviation, unit=unit)
            for (name, unit), value, deviation in named
        ],
        points=[(float(m), float(n), round(c)) for m, n, c in zip(*(axis.tolist() for axis in points.at), strict=True)],
        held_out=errors,
        sessions=runtime.sessions,
    )


def _points(measured: Sequence[Measurement]) -> LatencyPoints:
    rows = [
        (
            point.input_tokens,
            point.output_tokens,
            float(point.concurrency),
            point.prefill_s.mean,
            point.decode_s.mean / (point.output_tokens - 1),
        )
        for point in measured
        if point.prefill_s is not None and point.decode_s is not None
    ]
    return LatencyPoints(*np.array(rows, dtype=float).reshape(-1, 5).T)


def _errors(
    points: LatencyPoints, asked: Floats, fitted: LatencyFit, slots: int | None, chunk_tokens: int | None
) -> dict[Latency, dict[HeldOutKind, LoadError]]:
    """Errors at what is left out of a fit of the chosen form; sizes are told apart by the output tokens ``asked`` for,
    whatever came of them."""
    station = fitted.station
    found: dict[HeldOutKind, list[tuple[NDArray[np.int64], Floats, Floats]]] = {}
    for fold in folds_at(points.input_tokens, asked, points.concurrency):
        if (~fold.out).sum() < LEAST_POINTS:
            continue
        alone = fit_latency(
            points.only(~fold.out), station.batching, forms=[station.form], slots=slots, chunk_tokens=chunk_tokens
        )
        judged = points.only(fold.judged)
        ttft, tpot = alone.times(*judged.at)
        found.setdefault(fold.kind, []).append(
            (np.flatnonzero(fold.judged), ttft / judged.ttft_s - 1, tpot / judged.tpot_s - 1)
        )
    errors: dict[Latency, dict[HeldOutKind, LoadError]] = {"ttft": {}, "tpot": {}}
    for kind in (kind for kind in KINDS if kind in found):
        at, ttft, tpot = (np.concatenate(parts) for parts in zip(*found[kind], strict=True))
        where = tuple(axis[at] for axis in points.at)
        errors["ttft"][kind], errors["tpot"][kind] = (LoadError.of(error, *where) for error in (ttft, tpot))
    return errors
