"""What the trials of one point say of its latencies under load: percentiles, phases, caches. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.core.statistics import Estimate, estimate_of
from harness.runs.load_figures import LoadFigures, Percentiles


@dataclass(frozen=True)
class Latency:
    """Percentiles of a time of single requests, in s: means over the trials, each with its 95 % interval."""

    p50_s: Estimate
    p90_s: Estimate
    p99_s: Estimate


@dataclass(frozen=True)
class LoadSummary:
    """What a server did with the requests of a point; each is None where it was not measured."""

    kind: str
    """``closed loop`` or ``open loop``."""
    ttft_s: Latency | None
    """Start of a request to its first output token."""
    tpot_s: Latency | None
    """Time per output token after the first, a value a request."""
    inter_token_s: Latency | None
    """From one piece of output to the next."""
    e2e_s: Latency | None
    """Start of a request to its last output token."""
    in_prefill: Estimate | None
    """Requests that wait for their first token at the same time."""
    coherence: Estimate | None
    """0 where the clients' phases are spread evenly, 1 where they are in step."""
    cached_tokens_max: int | None
    """Most input tokens of one request that came out of the server's prefix cache."""


def load_summary(figures: Sequence[LoadFigures], sequential: bool = False) -> LoadSummary | None:
    """The summary of the figures of a point's trials; None of none. ``sequential`` as in ``estimate``."""
    if not figures:
        return None
    cached = [one.cached_tokens_max for one in figures if one.cached_tokens_max is not None]
    coherence = [one.coherence for one in figures if one.coherence is not None]
    return LoadSummary(
        kind=figures[0].kind,
        ttft_s=_latency(figures, sequential, lambda one: one.ttft_s),
        tpot_s=_latency(figures, sequential, lambda one: one.tpot_s),
        inter_token_s=_latency(figures, sequential, lambda one: one.inter_token_s),
        e2e_s=_latency(figures, sequential, lambda one: one.e2e_s),
        in_prefill=estimate_of([one.prefill_mean for one in figures], sequential=sequential),
        coherence=estimate_of(coherence, sequential=sequential),
        cached_tokens_max=max(cached, default=None),
    )


def _latency(
    figures: Sequence[LoadFigures], sequential: bool, part: Callable[[LoadFigures], Percentiles | None]
) -> Latency | None:
    known = [found for one in figures if (found := part(one)) is not None]
    p50_s, p90_s, p99_s = (
        estimate_of([getattr(found, name) for found in known], sequential=sequential)
        for name in ("p50_s", "p90_s", "p99_s")
    )
    return Latency(p50_s, p90_s, p99_s) if p50_s and p90_s and p99_s else None
