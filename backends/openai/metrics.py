"""What servers say of themselves in Prometheus' text format, in one small vocabulary for all kinds of servers.

Pure: no clock, no connection. ``docs/servers.md`` has the vocabulary and, by kind, the server's own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

COUNTERS = (
    *("prompt_tokens_total", "cached_tokens_total", "generation_tokens_total", "requests_total", "preemptions_total"),
    *("prefill_s_total", "decode_s_total", "queue_s_total", "ttft_s_total", "ttft_requests_total"),
)
"""Names of ``server_figures`` that only grow while the server lives."""


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
