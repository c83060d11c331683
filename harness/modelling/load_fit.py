"""From points at several numbers of requests in flight to the models under load of a profile, or why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.core.errors import UserError
from harness.core.quantities import COMPONENTS, Component
from harness.core.sizes import request_words
from harness.modelling.fit import Observations
from harness.modelling.latency_record import latency_model
from harness.modelling.load_schema import (
    InFlightFactor,
    LoadError,
    Rival,
    ServedModel,
    UnderLoad,
)
from harness.modelling.measurements import observations
from harness.modelling.model_schema import Coefficient, MisfitRecord, ScatterRecord, SessionsRecord, stored_freedom
from harness.modelling.profile_schema import Identity, Measurement
from harness.modelling.served.fit import ServedFit, fit_served
from harness.modelling.served.held_out import LeftOutErrors
from harness.modelling.static_power import static_power
from harness.runs.run_schema import Setting

ENOUGH_IN_FLIGHT = 3
"""Numbers of requests in flight, 1 among them, of which models under load are made."""
STATIC_BATCH = "static batch"
MOST_NAMED = 3
"""Suspect points that are named."""
_NONE = "no model under load: "


@dataclass(frozen=True)
class LoadFit:
    """The models under load, or None with why there are none."""

    under_load: UnderLoad | None
    why_not: str
    """Empty where there are some, or where all points are of one number of requests in flight."""
    slots_found: bool = False
    """Whether the slots are told by the costs alone, not by the server."""


def fit_under_load(
    own: Sequence[Measurement], others: Sequence[Measurement], identity: Identity, kind: str | None
) -> LoadFit:
    """Models under load of a profile whose own points and whose points at other numbers in flight are given.

    ``kind`` is how several were in flight: a static batch, a closed loop, or None where unknown.
    """
    if not others:
        return LoadFit(None, "")
    points = sorted([*own, *others], key=lambda p: (p.input_tokens, p.output_tokens_requested, p.concurrency))
    refusal = _refusal(points, identity)
    if refusal is None and kind is not None and " or " in kind:
        refusal = f"{kind} don't cost the same: fit their runs apart"
    try:
        return _fitted(points, others, identity, kind) if refusal is None else LoadFit(None, _NONE + refusal)
    except UserError as error:
        return LoadFit(None, f"{_NONE}{error}")


def _refusal(points: Sequence[Measurement], identity: Identity) -> str | None:
    """Why points can't be fitted together; None where they can."""
    counts = sorted({point.concurrency for point in points})
    if counts[0] != 1 or len(counts) < ENOUGH_IN_FLIGHT:
        return (
            f"it takes at least {ENOUGH_IN_FLIGHT} numbers of requests in flight, 1 among them, and measured are "
            f"{', '.join(map(str, counts))} (measure -c 1,4,16)"
        )
    if not identity.kv_cache:
        return "without the KV cache its form doesn't hold"
    if identity.decode_context != "grows":
        return "its form doesn't hold where every decode step attends to a whole static cache (--compile)"
    return None


def _fitted(
    points: Sequence[Measurement], others: Sequence[Measurement], identity: Identity, kind: str | None
) -> LoadFit:
    told = slots_told(identity.settings) if kind != STATIC_BATCH else None
    notes: list[str] = []
    runtime = _one(points, "runtime", told, kind, notes)
    assert runtime is not None
    # What waits for a slot in the runtimes waits in the energies too.
    slots = runtime.slots or math.inf
    energy = _one(points, "energy", slots, kind, notes)
    components: dict[Component, ServedModel] = {
        name: model for name in COMPONENTS if (model := _one(points, name, slots, kind, []))
    }
    static = static_power(points)
    chunk_tokens = chunk_tokens_told(identity.settings)
    return LoadFit(
        UnderLoad(
            in_flight_as=kind,
            runtime=runtime,
            energy=energy,
            components=components if energy else {},
            latency=latency_model(points, kind, runtime, chunk_tokens),
            static_power_w=None if static is None else static.mean,
            static_power_ci95_w=None if static is None else static.half_width,
            chunk_tokens=chunk_tokens,
            cache_tokens=_whole(identity.settings.get("cache_tokens")),
            measurements=list(others),
            notes=notes,
        ),
        "",
        runtime.slots is not None and told is None,
    )


def _one(
    points: Sequence[Measurement], quantity: str, slots: float | None, kind: str | None, notes: list[str]
) -> ServedModel | None:
    """The served model of one quantity; None where too few numbers in flight have it. Adds to the ``notes``."""
    observed = observations(points, quantity)
    if observed is None or np.unique(observed.concurrency).size < ENOUGH_IN_FLIGHT or observed.concurrency.min() > 1:
        return None
    per_request = quantity != "runtime"
    try:
        found = fit_served(observed, per_request=per_request, slots=slots, static_batch=kind == STATIC_BATCH)
    except UserError as error:
        raise UserError(f"{quantity}: {error}") from None
    if found.suspects:
        at = [
            request_words(observed.input_tokens[i], observed.output_tokens[i], round(float(observed.concurrency[i])))
            for i in found.suspects[:MOST_NAMED]
        ]
        more = f" and {len(found.suspects) - MOST_NAMED} more" if len(found.suspects) > MOST_NAMED else ""
        notes.append(f"{quantity} under load: far from what the other points say: {'; '.join(at)}{more}")
    return served_model(found, observed)


def served_model(fitted: ServedFit, observed: Observations) -> ServedModel:
    """A fit under load as it is written in a profile."""
    function = fitted.function
    unit: Literal["s", "J"] = "J" if function.per_request else "s"
    names = function.form.coefficients(unit)
    values, deviations = function.coefficients.tolist(), fitted.standard_errors.tolist()
    residual = function.residual
    return ServedModel(
        unit=unit,
        prefill_joined=function.form.prefill_joined,
        experts_share=function.form.experts_share,
        slots=None if function.slots is None or math.isinf(function.slots) else round(function.slots),
        coefficients=[
            Coefficient(name=name, value=value, standard_error=deviation, unit=of)
            for (name, of), value, deviation in zip(names, values, deviations, strict=True)
        ],
        covariance=function.covariance.tolist(),
        freedom=stored_freedom(function.freedom),
        misfit=MisfitRecord.of(function.misfit),
        scatter=ScatterRecord.of(function.scatter) if function.scatter.factor > 0 else None,
        sessions=SessionsRecord.of(function.session),
        factors=[
            InFlightFactor(concurrency=c, factor=math.exp(log))
            for c, log in zip(residual.concurrency.tolist(), residual.log.tolist(), strict=True)
        ],
        points=[(m, n, round(c)) for m, n, c in function.loads.points.tolist()],
        mape=fitted.mape,
        held_out={
            kind: _error(left_out, observed) for kind, left_out in fitted.held_out.items() if left_out.error.size
        },
        rivals=[
            Rival(name=name, mape={kind: left_out.mape for kind, left_out in errors.items() if left_out.error.size})
            for name, errors in fitted.rivals.items()
        ],
    )


def _error(left_out: LeftOutErrors, observed: Observations) -> LoadError:
    at = observed.input_tokens, observed.output_tokens, observed.concurrency
    return LoadError.of(left_out.error, *(axis[left_out.point] for axis in at))


_CHUNKS = ("max_num_batched_tokens", "chunked_prefill_size", "n_batch")
"""What servers call the most tokens of a step: vLLM, SGLang, llama.cpp."""


def slots_told(settings: Mapping[str, Setting]) -> int | None:
    """Requests that a server said it works on at once; None where it didn't say."""
    return _whole(settings.get("most_in_flight"))


def chunk_tokens_told(settings: Mapping[str, Setting]) -> int | None:
    """The most tokens of a step that a server said; None where it didn't say, or doesn't cut prompts."""
    if settings.get("enable_chunked_prefill") is False:
        return None
    return next((tokens for name in _CHUNKS if (tokens := _whole(settings.get(name)))), None)


def _whole(value: Setting) -> int | None:
    return value if type(value) is int and value > 0 else None
