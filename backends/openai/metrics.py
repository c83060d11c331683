"""What servers say of themselves in Prometheus' text format, in one small vocabulary for all kinds of servers.

Pure: no clock, no connection. ``docs/servers.md`` has the vocabulary and, by kind, the server's own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COUNTERS = (
    *("prompt_tokens_total", "cached_tokens_total", "generation_tokens_total", "requests_total", "preemptions_total"),
    *("prefill_s_total", "decode_s_total", "queue_s_total", "ttft_s_total", "ttft_requests_total"),
)
"""Names of ``server_figures`` that only grow while the server lives."""
GAUGES = ("requests_running", "requests_waiting")
"""Names of ``server_figures`` that say how things are now."""
MOST_CACHED_PER_REQUEST = 1
"""Input tokens that a server may take from its cache for a prompt that it never saw: the begin-of-sequence token."""


@dataclass(frozen=True)
class Series:
    """A sample's name at the server, and the labels that it must carry."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


Names = Mapping[str, tuple[Series, ...]]
"""By the name in ``server_figures``, what servers of a kind call it, newest first: the first one there is taken."""


def series(*names: str, **labels: str) -> tuple[Series, ...]:
    """Series of these names that carry these labels, whatever others they have."""
    return tuple(Series(name, tuple(labels.items())) for name in names)


def figures(text: str, names: Names) -> dict[str, float]:
    """The figures in a server's Prometheus text; those of several engines or ranks are added up.

    What the server doesn't tell is left out, and never 0. Raises ValueError where ``text`` is no such text.
    """
    sums: dict[Series, float] = {}
    wanted = {one for alternatives in names.values() for one in alternatives}
    for name, labels, value in samples(text, tuple({one.name for one in wanted})):
        for one in wanted:
            if one.name == name and set(one.labels) <= labels.items() and math.isfinite(value):
                sums[one] = sums.get(one, 0.0) + value
    return {
        figure: next(sums[one] for one in alternatives if one in sums)
        for figure, alternatives in names.items()
        if any(one in sums for one in alternatives)
    }


def samples(text: str, names: tuple[str, ...]) -> list[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample of these names. Raises ValueError where ``text`` can't be read.

    The other lines, hundreds of histogram buckets among them, are dropped before anything is parsed: it runs while a
    window is measured. Without their types, names stay as the server writes them.
    """
    from prometheus_client.parser import text_string_to_metric_families

    kept = [line for line in text.splitlines() if line.startswith(names) and _name(line) in names]
    families = text_string_to_metric_families("\n".join([*kept, ""]))
    try:
        return [(sample.name, sample.labels, float(sample.value)) for family in families for sample in family.samples]
    except OverflowError:
        raise ValueError("a sample's value is beyond all numbers") from None


def _name(line: str) -> str:
    return line.split("{", 1)[0].split(" ", 1)[0]


def judge(
    before: Mapping[str, float],
    during: Sequence[Mapping[str, float]],
    after: Mapping[str, float],
    concurrency: int | None = None,
) -> list[str]:
    """Why a window must be marked, in words; nothing where its figures say that all was as it should be.

    ``during`` were read between the two others, ``concurrency`` is how many requests were ours. Figures that the
    server doesn't tell mark nothing.
    """
    lower = [name for name in COUNTERS if name in before and name in after and after[name] < before[name]]
    if lower:
        return [f"the server's counters went back ({', '.join(lower)}): it was restarted"]
    marks = []
    preemptions = grown("preemptions_total", before, after)
    if preemptions:
        marks.append(f"the server preempted requests {preemptions:.0f} times: its cache for keys and values was full")
    seen = (before, *during, after)
    waiting = max(figures.get("requests_waiting", 0.0) for figures in seen)
    if waiting:
        marks.append(f"up to {waiting:.0f} requests waited in the server")
    cached, requests = grown("cached_tokens_total", before, after), grown("requests_total", before, after)
    if cached and cached > MOST_CACHED_PER_REQUEST * max(requests or concurrency or 1, 1):
        marks.append(f"the server took {cached:.0f} input tokens from its prefix cache")
    running = max(figures.get("requests_running", 0.0) for figures in seen)
    if concurrency is not None and running > concurrency:
        marks.append(f"{running:.0f} requests ran at once and {concurrency} are ours: others use the server")
    return marks


def judge_cached(cached_tokens: Sequence[int | None]) -> list[str]:
    """Why the replies of a window mark it: more than one input token of a request came out of the prefix cache."""
    hit = [tokens for tokens in cached_tokens if tokens is not None and tokens > MOST_CACHED_PER_REQUEST]
    if not hit:
        return []
    return [f"{len(hit)} of {len(cached_tokens)} prompts were partly in the prefix cache, up to {max(hit)} tokens"]


def grown(name: str, before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """By how much a counter grew; None where the server doesn't tell it.

    Servers show some counters from their first event on: one that is new afterwards started at 0.
    """
    return after[name] - before.get(name, 0.0) if name in after else None
