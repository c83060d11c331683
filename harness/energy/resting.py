"""How long an idle baseline must be read. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from harness.energy import integrate
from harness.energy.readings import Trace

SHORTEST_S = 3.0
"""Of less than this nobody knows whether the machine had come to rest."""
PRECISION = 0.02
"""Relative half-width of an idle power that is enough: of a busy machine's energy it is far less."""


def rested_enough(traces: Sequence[Trace], start_ns: int, now_ns: int) -> bool:
    """Whether the readings since a time tell the idle power well enough, and its two halves alike.

    ``traces`` are those of the domains that the total adds up, with readings from before the start on.
    """
    if now_ns - start_ns < SHORTEST_S * 1e9 or not traces:
        return False
    reached = integrate.relative_half_width_so_far(traces, start_ns, now_ns)
    if reached is None or reached > PRECISION:
        return False
    # Readings that close the last half may still be to come.
    end_ns = min(int(trace.times_ns[-1]) for trace in traces)
    middle_ns = (start_ns + end_ns) // 2
    halves = [
        [integrate.part_energy(trace, *edges).joules for trace in traces]
        for edges in ((start_ns, middle_ns), (middle_ns, end_ns))
    ]
    first_j, second_j = (sum(joules for joules in half if joules is not None) for half in halves)
    if any(joules is None for half in halves for joules in half):
        return False
    return abs(second_j - first_j) <= 2.0 * PRECISION * (first_j + second_j) / 2.0
