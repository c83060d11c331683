"""What bounds an engine's steps, found in a log of its requests. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.served.request_log import RequestLog

PAUSE_STEPS: Final = 3.0
"""A request waited for room, not for the prompts before its own, if no prompt was under way for this many steps."""
STEADY: Final = 0.02
"""Relative spread of how many ran whenever one that had waited began: less of it tells slots from memory."""


@dataclass(frozen=True)
class EngineLimits:
    """None where there is no limit or it isn't known."""

    slots: int | None = None
    chunk_tokens: int | None = None
    kv_tokens: int | None = None


def found_limits(log: RequestLog) -> EngineLimits:
    """Slots where as many ran whenever requests had to wait, else the memory that was full when the first waited."""
    if not np.any(log.output_tokens > 1):
        return EngineLimits()
    least_s = PAUSE_STEPS * float(np.nanmedian(log.tpot_s))
    starts, ends = _pauses(log, least_s)
    # The first pause that ends after a request was queued, as far as it lies in its wait.
    at = np.searchsorted(ends, log.queued_s, "right")
    inside = at < len(ends)
    waited = np.zeros(len(log), dtype=bool)
    overlap = np.minimum(ends[at[inside]], log.scheduled_s[inside]) - np.maximum(
        starts[at[inside]], log.queued_s[inside]
    )
    waited[inside] = overlap >= least_s
    if not waited.any():
        return EngineLimits()
    begun = log.scheduled_s[waited]
    came, went = (np.searchsorted(np.sort(t), begun, "right") for t in (log.scheduled_s, log.last_token_s))
    running = came - went
    if running.std() <= STEADY * running.mean():
        return EngineLimits(slots=int(running.max()))
    first = int(np.argmax(waited))
    full = max(starts[at[first]], log.queued_s[first])
    return EngineLimits(kv_tokens=round(float(_contexts_at(log, full) + log.input_tokens[first] / 2)))


def _pauses(log: RequestLog, least_s: float) -> tuple[Floats, Floats]:
    """Start and end of the times of at least ``least_s`` in which no prompt was under way, up to the last."""
    order = np.argsort(log.scheduled_s)
    until = np.maximum.accumulate(log.first_token_s[order])[:-1]
    following = log.scheduled_s[order][1:]
    long = following - until >= least_s
    return until[long], following[long]


def _contexts_at(log: RequestLog, time_s: float) -> float:
    """Σ of the positions that the requests begun and not ended hold, tokens coming evenly from first to last."""
    present = (log.scheduled_s <= time_s) & (log.last_token_s > time_s)
    spent = np.maximum(log.last_token_s - log.first_token_s, 1e-12)
    share = np.clip((time_s - log.first_token_s) / spent, 0.0, 1.0)
    return float(np.sum((log.input_tokens + share * log.output_tokens)[present]))
