"""Why a loop's trial must be marked, by what its server says of itself and of its replies."""

from __future__ import annotations

from collections.abc import Sequence

from backends.openai.metrics import COUNTERS
from harness.runs.load_figures import ServerFigures
from harness.runs.load_stamps import UNKNOWN

MOST_CACHED_PER_REQUEST = 1
"""Input tokens that a server may take from its cache for a prompt that it never saw: the begin-of-sequence token."""


def server_doubts(server: ServerFigures, concurrency: int | None = None) -> list[str]:
    """Why a loop must be marked, in words; nothing where the server's figures say that all was as it should be.

    ``concurrency`` is how many requests were ours at most; None where that is up to the server. Figures that the server
    doesn't tell mark nothing.
    """
    before, after = server.before, server.after
    lower = [name for name in COUNTERS if name in before and name in after and after[name] < before[name]]
    if lower:
        return [f"the server's counters went back ({', '.join(lower)}): it was restarted"]
    marks = []
    preemptions = server.grown("preemptions_total")
    if preemptions:
        marks.append(f"the server preempted requests {preemptions:.0f} times: its cache for keys and values was full")
    waiting, running = (_most(server, name) for name in ("requests_waiting", "requests_running"))
    if waiting:
        marks.append(f"up to {waiting:.0f} requests waited in the server")
    cached, requests = server.grown("cached_tokens_total"), server.grown("requests_total")
    if cached and cached > MOST_CACHED_PER_REQUEST * max(requests or concurrency or 1, 1):
        marks.append(f"the server took {cached:.0f} input tokens from its prefix cache")
    if concurrency is not None and running > concurrency:
        marks.append(f"{running:.0f} requests ran at once and {concurrency} are ours: others use the server")
    return marks


def cache_doubts(cached_tokens: Sequence[int]) -> list[str]:
    """Why replies mark a loop: more than one input token of a request came out of the prefix cache."""
    hit = [tokens for tokens in cached_tokens if tokens != UNKNOWN and tokens > MOST_CACHED_PER_REQUEST]
    if not hit:
        return []
    return [f"{len(hit)} of {len(cached_tokens)} prompts were partly in the prefix cache, up to {max(hit)} tokens"]


def _most(server: ServerFigures, gauge: str) -> float:
    return max(figures.get(gauge, 0.0) for figures in (server.before, server.during_max, server.after))
