"""The border between the harness and a power source.

A probe is a module with ``create(option) -> Probe`` and one line in ``harness.energy.probes.PROBES``, or an entry point
of the group ``joulebench.probes`` in another package. A probe only reads: threads, clocks, unwrapping and integration
belong to the harness.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

from harness.core.quantities import Facts
from harness.energy.process_tree import TreeMembers
from harness.energy.readings import Domain, Reading

_POLL_PAUSE_S = 0.001
_FEWEST_CHANGES = 3
_QUANTILE = 0.2
_IRREGULAR = 1.5
_PAUSE_S = 0.005
"""A change found longer than this after the look before could have come at any time between."""

VERDICTS = ("disturbed", "energy_of_others")
"""Keys of a probe's conditions that judge a measurement; see ``Probe.conditions``."""

Role = Literal["meter", "machine", "fallback", "synthetic"]
"""``meter``: tried by ``auto``. ``machine``: a slow meter of the whole machine, tried by ``auto`` where no other sees
what computes. ``fallback``: used by ``auto`` where no meter works. ``synthetic``: only by name."""

Attribution = Literal["system", "process"]
"""Whether energy of the CPU and of a shared GPU is all or the worker's share, where the source can tell."""


@dataclass
class ProbeContext:
    """What a probe needs to know about the run. Shared by all probes of a meter, which keeps it up to date."""

    gpu_uuids: tuple[str, ...] = ()
    """UUIDs of the GPUs that the backend computes on; empty means every visible one."""
    device: str | None = None
    """Where the backend computes (``cpu``, ``cuda``, ``mps``, ``metal``); None when unknown."""
    worker_pid: int | None = None
    """Process that runs inference now; changes when the worker is restarted, so probes read it at each use."""
    server_pids: tuple[int, ...] = ()
    """Processes outside the worker's that compute for it: a server that it did not start."""
    cpu_watts: float | None = None
    """Declared power of the whole CPU under full load, for the estimate."""
    attribution: Attribution = "system"
    """Whether energy of the CPU and of a shared GPU is the worker's share or all, where the source can tell."""
    rate_hz: float = 20.0
    """How often the harness reads."""
    whole_machine: bool = False
    """Whether the machine is metered with all that runs on it, and no process."""
    meter_token_env: str | None = None
    """Name of the environment variable that holds the token of another machine's meter."""
    members: TreeMembers = field(default_factory=TreeMembers, repr=False)
    """Looks up what the roots started."""

    @property
    def roots(self) -> tuple[int, ...]:
        """The worker and the servers: what they and all that they started do is what is measured."""
        return self.server_pids if self.worker_pid is None else (self.worker_pid, *self.server_pids)

    def own_pids(self, asked: Collection[int] = ()) -> frozenset[int]:
        """The roots with all that they started; ids in ``asked`` are never judged by an earlier look."""
        return self.members.of(self.roots, asked)


class Probe(Protocol):
    """A power source. One instance is opened once and read by one thread. Probes may inherit what stands here."""

    role: Role
    note: str
    """What its figures are, in one sentence; of use once open."""
    poll_s: float = 0.0
    """Time between its readings, in s, where others than the harness read for it."""
    lag_s: float = 0.0
    """How much later than they were read its readings may come, in s."""

    def open(self, context: ProbeContext) -> None:
        """Get ready. Raises ProbeUnavailable with the reason and the remedy."""

    def domains(self) -> Sequence[Domain]:
        """What can be read; fixed once open."""

    def read(self) -> Sequence[Reading]:
        """New readings, without blocking; none when nothing is new. Raises ProbeFailed."""

    def conditions(self) -> Facts:
        """Temperature, clocks, thermal state, foreign processes; None for what can't be read.

        Two keys have a meaning, ``VERDICTS``. ``disturbed`` holds the reason when what is seen spoils a measurement
        made now. ``energy_of_others`` holds the reason when the readings hold energy that others spend: the
        measurement is disturbed then too, and has no energy. Both are None or absent otherwise.
        """
        return {"disturbed": None}

    def close(self) -> None:
        """Let go of everything. Safe to call twice and after a failed open."""
        return


def update_periods(
    readers: Mapping[str, Callable[[], float]], duration_s: float, echo_s: float | None = None
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Time between updates of each reading, in s, found by reading all in turn for ``duration_s``.

    An update that repeats the value goes unseen, so gaps between changes are multiples of the period: a low quantile
    of them is taken. A change found after a pause in looking has no known time; gaps beside it are passed over, unless
    hardly any others are left. Second come the names that changed too rarely to tell; they get the longest period that
    was found for another, or else half of ``duration_s``.

    ``echo_s`` is for counters that are published in batches, some of them in two parts at most so far from each other:
    the parts are one update, and the largest regular gap is the period.
    """
    changes: dict[str, list[_Change]] = {name: [] for name in readers}
    last = {name: reader() for name, reader in readers.items()}
    looked_s = dict.fromkeys(readers, time.monotonic())
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        for name, reader in readers.items():
            value, now_s = reader(), time.monotonic()
            if value != last[name]:
                changes[name].append(_Change(now_s, now_s - looked_s[name] > _PAUSE_S))
                last[name] = value
            looked_s[name] = now_s
        time.sleep(_POLL_PAUSE_S)
    gap = _low_gap if echo_s is None else partial(_batch_gap, echo_s=echo_s)
    found = {name: gap(seen) for name, seen in changes.items() if len(seen) >= _FEWEST_CHANGES}
    cautious_s = max(found.values(), default=duration_s / 2.0)
    return {name: found.get(name, cautious_s) for name in readers}, tuple(name for name in readers if name not in found)


class _Change(NamedTuple):
    seen_s: float
    late: bool


def _low_gap(changes: Sequence[_Change]) -> float:
    pairs = list(pairwise(changes))
    dated = [(before, after) for before, after in pairs if not before.late and not after.late]
    gaps = sorted(after.seen_s - before.seen_s for before, after in (dated if len(dated) >= _FEWEST_CHANGES else pairs))
    return gaps[int(_QUANTILE * len(gaps))]


def _batch_gap(changes: Sequence[_Change], echo_s: float) -> float:
    """The largest gap between batches that is no more than half as large again as the usual one."""
    gaps = [after.seen_s - before.seen_s for before, after in pairwise(changes)]
    # The last change of each batch.
    ends = [change.seen_s for change, gap in zip(changes, [*gaps, math.inf], strict=True) if gap > echo_s]
    if len(ends) > 1:
        gaps = [after - before for before, after in pairwise(ends)]
    usual = statistics.median(gaps)
    return max(gap for gap in gaps if gap <= _IRREGULAR * usual)
