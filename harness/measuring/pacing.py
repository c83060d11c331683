"""When the clients of a closed loop begin requests, and of which length. Pure.

The ramp: client i's first request has (i + 1)/c of the output tokens, so that the clients' requests lie spread over the
length of one; which client is which is drawn anew for each trial. The window begins when all clients have begun
requests of full length. It lasts as long as is asked for, and some lengths of a request at least; then no request
begins any more, and it ends when the first client has nothing to do.

Clients that fall into step would compute something else than traffic does. Where two rounds in a row find them in
step, the window is given up: every client's next request is again a shorter one, and a new window begins. A pause
or a short request inside the window would change what is measured, so there are none. A server that brings clients
into step again and again is measured as it is: the figures tell their coherence.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.runs.load_figures import coherence_of_starts, step_threshold

MOST_SPREADS = 2
"""How often clients in step are spread again in one loop."""
_ROUNDS_IN_STEP = 2


@dataclass(frozen=True)
class ClosedLoopPlan:
    """What a closed loop is to do."""

    input_tokens: int
    output_tokens: int
    concurrency: int
    min_window_s: float
    """The window lasts at least so long …"""
    lengths: float = 3.0
    """… and at least so many lengths of a request, …"""
    last_start_s: float = math.inf
    """… but no request begins later than this after the first of the loop, once all clients are busy."""
    seed: int = 0
    """Of the input tokens."""
    trial: int = 0
    """Which phases are drawn."""
    first_number: int = 0
    """Number of the first request: client i's requests have this + i, this + c + i, …"""

    def first_output_tokens(self, spread: int) -> list[int]:
        """By client, the output tokens of the short request that begins the ``spread``-th ramp, from 0."""
        c, n = self.concurrency, self.output_tokens
        ranks = list(range(c))
        random.Random(f"{self.seed} {self.trial} {spread}").shuffle(ranks)
        return [max(1, math.ceil((rank + 1) * n / c)) for rank in ranks]


class PacedClients(Protocol):
    """Some clients of the loop, in this process or in another."""

    def stop_at(self, deadline_ns: int) -> None:
        """Begin no request at or after that time."""

    def spread_again(self, spread: int) -> None:
        """Begin the next ramp: of each client the next request is a short one, and there is no deadline."""


class Pacer:
    """Hears from groups of clients what they do, and tells all of them when to end or to spread."""

    def __init__(
        self,
        plan: ClosedLoopPlan,
        groups: Sequence[PacedClients],
        all_busy: Callable[[], None] = lambda: None,
        one_idle: Callable[[], None] = lambda: None,
    ) -> None:
        """``all_busy`` is called when a window begins, ``one_idle`` when it ends."""
        self._plan = plan
        self._groups = groups
        self._all_busy, self._one_idle = all_busy, one_idle
        self._begun_ns = 0
        self._idle = False
        self.spreads = 0
        self._ramp()

    def _ramp(self) -> None:
        self._busy_ns: dict[int, int] = {}
        self._starts: dict[int, Sequence[int]] = {}
        self._lengths_s: dict[int, float] = {}
        self._in_step = 0
        self._deadline_ns: int | None = None

    def begin(self, begun_ns: int) -> None:
        """The loop begins at that time."""
        self._begun_ns = begun_ns

    def busy(self, group: int, spread: int, since_ns: int) -> None:
        """All clients of a group have begun requests of full length, the last of them at ``since_ns``."""
        if spread != self.spreads:
            return
        self._busy_ns[group] = since_ns
        if len(self._busy_ns) == len(self._groups):
            self._all_busy()
            if self._plan.last_start_s < math.inf:
                self._end_at(self._latest_ns())

    def round(self, group: int, spread: int, now_ns: int, starts_ns: Sequence[int], length_s: float) -> None:
        """As many requests of full length have ended as a group has clients.

        ``starts_ns`` are the starts of each client's last request, ``length_s`` is the mean length of those that ended.
        """
        if spread != self.spreads or self._idle:
            return
        self._starts[group], self._lengths_s[group] = starts_ns, length_s
        if len(self._busy_ns) < len(self._groups) or len(self._starts) < len(self._groups):
            return
        if group == 0 and self._locked() and self._may_spread(now_ns):
            self.spreads += 1
            self._ramp()
            for each in self._groups:
                each.spread_again(self.spreads)
            return
        window_s = max(self._plan.min_window_s, self._plan.lengths * self._length_s())
        self._end_at(min(max(self._busy_ns.values()) + round(window_s * 1e9), self._latest_ns()))

    def idle(self) -> None:
        """A client has nothing more to do."""
        if not self._idle:
            self._idle = True
            self._one_idle()

    def _latest_ns(self) -> int:
        """When the last request may begin; never before all clients are busy."""
        busy_ns = max(self._busy_ns.values())
        if math.isinf(self._plan.last_start_s):
            return 2**62
        return max(busy_ns, self._begun_ns + round(self._plan.last_start_s * 1e9))

    def _end_at(self, deadline_ns: int) -> None:
        if deadline_ns == self._deadline_ns:
            return
        self._deadline_ns = deadline_ns
        for each in self._groups:
            each.stop_at(deadline_ns)

    def _length_s(self) -> float:
        return max(self._lengths_s.values())

    def _locked(self) -> bool:
        starts = [start for group in self._starts.values() for start in group]
        coherent = coherence_of_starts(starts, self._length_s()) > step_threshold(self._plan.concurrency)
        self._in_step = self._in_step + 1 if coherent else 0
        return self._in_step >= _ROUNDS_IN_STEP

    def _may_spread(self, now_ns: int) -> bool:
        """Whether a new ramp makes a difference, and every client can still be told before it goes idle."""
        if self.spreads == MOST_SPREADS or self._plan.concurrency == 1 or self._plan.output_tokens == 1:
            return False
        soonest_ns = self._latest_ns() if self._deadline_ns is None else min(self._deadline_ns, self._latest_ns())
        return now_ns + round(self._length_s() * 1e9 / 2) < soonest_ns
