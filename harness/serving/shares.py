"""Who pays for a step of a serving engine: the Shapley value of its cost. Pure.

The players are the requests in the step, and a part of them would have cost what ``StepCosts`` says of a step with
them alone; its floor never more than that of the step as it was. Then the Shapley value (Shapley 1953) has a closed
form, since the cost is a sum of

- own work, which its request pays: prompt tokens, attention, d1 of the context, s of a sequence that decodes, and,
  where prompt parts are steps of their own, the floor of prefill;
- floors, which cost the same for one request as for several: each is paid in equal parts by those that need it. All
  requests of a step need the smaller of the two floors, those that decode what a decode step's floor is above it.
  Prompts that are computed while others wait to decode pay no floor where the engine's cost has none for that;
- the experts' g·x(b), which treats all that decode alike: equal parts, as everything that is symmetric.

No share is negative and the shares of a step add up to its cost. Shares are linear in the coefficients, so that they
come as multiples of each: joules and seconds have the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.modelling.served.engine import StepCosts

SHARE_TERMS: Final = (
    *("prefill_floor", "per_prefill_token", "per_prefill_token2"),
    *("floor", "per_sequence", "per_context", "experts"),
)
"""The coefficients of ``StepCosts`` that shares are multiples of, in the order of ``ServedForm.coefficients``."""


def coefficients_of(costs: StepCosts) -> Floats:
    """The coefficients in the order of ``SHARE_TERMS``."""
    return np.array([getattr(costs, name) for name in SHARE_TERMS], dtype=float)


@dataclass(frozen=True)
class FloorShares:
    """What one request of a step pays of the floors; arrays have one entry a step, multiples of a coefficient."""

    decode_floor: Floats
    """Of a, by each request that decodes."""
    decode_prefill_floor: Floats
    """Of c0, by each request that decodes; below 0 where those in prefill take it off a."""
    decode_experts: Floats
    """Of g, by each request that decodes."""
    prefill_floor: Floats
    """Of a, by each request in prefill."""
    prefill_prefill_floor: Floats
    """Of c0, by each request in prefill."""


def floor_shares(
    costs: StepCosts, decoding: Floats, prefilling: Floats, waiting: NDArray[np.bool_] | None = None
) -> FloorShares:
    """Of steps in which so many requests decode and so many others have a part of their prompt computed.

    ``waiting`` says where none decodes though some are past their prompt; by default nowhere.
    """
    d = np.maximum(decoding, 1.0)
    everyone = 1.0 / np.maximum(decoding + prefilling, 1.0)
    nothing = np.zeros_like(d)
    working = decoding > 0
    experts = np.where(working, costs.distinct_experts(decoding) / d, 0.0)
    alone = np.where(working, 1.0 / d, 0.0)
    if not costs.prefill_joined:
        return FloorShares(alone, nothing, experts, nothing, np.ones_like(d))
    mixed = working & (prefilling > 0)
    only_prefill = np.where(working if waiting is None else working | waiting, 0.0, everyone)
    if costs.prefill_floor > costs.floor:
        # A decode step's floor is the smaller one: all of a step need it.
        return FloorShares(
            np.where(mixed, everyone, alone), nothing, experts, np.where(mixed, everyone, 0.0), only_prefill
        )
    shared = np.where(mixed, everyone, 0.0)
    return FloorShares(alone, np.where(mixed, everyone - alone, 0.0), experts, nothing, shared + only_prefill)


@dataclass(frozen=True)
class StepParts:
    """What steps computed, an entry a request and step: positions ``start`` to ``end`` of the request's tokens.

    Prompt and output tokens count as one row of positions from 0: the k-th decode step of a prompt of m tokens
    computes position m + k − 1 and attends to m + k.
    """

    step: NDArray[np.int64]
    """Numbers from 0, in the order of time."""
    request: NDArray[np.int64]
    """Numbers from 0."""
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    decodes: NDArray[np.bool_]
    """Whether it decodes; else this is a part of its prompt."""


def step_shares(parts: StepParts, requests: int, costs: StepCosts) -> Floats:
    """What each of so many requests pays of all steps: shape (requests, 7), multiples of ``SHARE_TERMS``.

    Times ``coefficients_of(costs)`` they are joules, or seconds, that add up to the costs of the steps.
    """
    steps = int(parts.step.max(initial=-1)) + 1
    decoding = np.bincount(parts.step[parts.decodes], minlength=steps).astype(float)
    prefilling = np.bincount(parts.step[~parts.decodes], minlength=steps).astype(float)
    of_step = floor_shares(costs, decoding, prefilling, _past_prompt(parts, steps, requests))
    decodes, at = parts.decodes, parts.step
    prompt = (~decodes).astype(float)
    start, end = parts.start.astype(float), parts.end.astype(float)
    terms = (
        np.where(decodes, of_step.decode_prefill_floor[at], of_step.prefill_prefill_floor[at]),
        prompt * (end - start),
        prompt * (end**2 - start**2),
        np.where(decodes, of_step.decode_floor[at], of_step.prefill_floor[at]),
        decodes.astype(float),
        np.where(decodes, end, 0.0),
        np.where(decodes, of_step.decode_experts[at], 0.0),
    )
    return np.stack([np.bincount(parts.request, term, minlength=requests) for term in terms], axis=-1)


def _past_prompt(parts: StepParts, steps: int, requests: int) -> NDArray[np.bool_]:
    """Whether a request is between its prompt's last part and its last decode step, by step."""
    ended, last, first = np.full(requests, -1), np.full(requests, -1), np.full(requests, steps)
    np.maximum.at(ended, parts.request[~parts.decodes], parts.step[~parts.decodes])
    np.maximum.at(last, parts.request[parts.decodes], parts.step[parts.decodes])
    np.minimum.at(first, parts.request[parts.decodes], parts.step[parts.decodes])
    # A prompt that was computed before the first step is past from when its request is seen.
    ended = np.where(ended < 0, first - 1, ended)
    decoded = last > ended
    changes = np.bincount(ended[decoded] + 1, minlength=steps + 1) - np.bincount(last[decoded] + 1, minlength=steps + 1)
    return np.asarray(np.cumsum(changes)[:steps] > 0)
