"""The clients of a closed loop that live in this process, each sending its next request when the one before has ended.

While requests are in flight nothing is read from answers but their times, and the garbage collector is off.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from backends.base import BackendError, Client, InvalidConfig, OutOfMemory, Reply, Request
from harness.measuring.pacing import ClosedLoopPlan
from harness.measuring.stalls import Stalls
from harness.runs.load_stamps import UNKNOWN, LoopStamps

READY_AHEAD = 4
"""How many requests of a client are written ahead: a ramp's and those of the shortest window."""
_MOST_READY_TOKENS = 2_000_000
"""Input tokens of all requests written ahead; where these are long there are fewer, at least one a client."""
_READY_PAUSE_S = 0.001
"""Between looking whether there are requests to write."""


@dataclass(frozen=True)
class Sent:
    """A request that was answered, and its answer as ``Client.read`` takes it."""

    client: int
    number: int
    answer: Any
    spread: int
    """To which ramp, and the window after it, it belongs."""
    counted: bool
    """False for a ramp's short request."""


class HearsClients(Protocol):
    """Who is told what clients do; see ``Pacer``."""

    def busy(self, group: int, spread: int, since_ns: int) -> None: ...
    def round(self, group: int, spread: int, now_ns: int, starts_ns: Sequence[int], length_s: float) -> None: ...
    def idle(self) -> None: ...


class ClientGroup:
    """Some clients of a loop, over one connection each. Told by ``Pacer`` when to end and when to spread."""

    def __init__(
        self,
        client: Client,
        plan: ClosedLoopPlan,
        members: Sequence[int],
        pacer: HearsClients,
        group: int = 0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """``members`` are the numbers of these clients among the loop's, from 0; ``clock`` tells the time in ns."""
        self._client = client
        self._plan = plan
        self._members = members
        self._pacer = pacer
        self._group = group
        self._clock = clock
        self.stalls = Stalls(clock)
        self._request = Request(plan.input_tokens, plan.output_tokens, plan.seed)
        self._next_number = [plan.first_number + member for member in members]
        fitting = _MOST_READY_TOKENS // (plan.concurrency * plan.input_tokens)
        self._ahead = max(1, min(READY_AHEAD, fitting))
        self._to_write: deque[int] = deque()
        self._sent: list[Sent] = []
        self._deadline_ns = 2**62
        self._spread = -1
        self.spread_again(0)

    def stop_at(self, deadline_ns: int) -> None:
        """Begin no request at or after that time."""
        self._deadline_ns = deadline_ns

    def spread_again(self, spread: int) -> None:
        """Begin a ramp: each client's next request is a short one. A single client needs none."""
        self._spread = spread
        self._deadline_ns = 2**62
        ramp = self._plan.first_output_tokens(spread)
        self._short: dict[int, int] = {}
        if self._plan.concurrency > 1:
            self._short = {place: ramp[member] for place, member in enumerate(self._members)}
        self._full_starts: dict[int, int] = {}
        self._round_s: list[float] = []

    async def open(self) -> None:
        """Open the connections, and write the first requests. Raises BackendError."""
        await self._client.open(len(self._members))
        for place, tokens in self._short.items():
            self._client.get_ready(self._of(tokens), [self._next_number[place]])
        ahead = range(1 if self._short else 0, self._ahead)
        c = self._plan.concurrency
        self._client.get_ready(self._request, [first + step * c for step in ahead for first in self._next_number])

    async def run(self) -> None:
        """Send requests until the deadline that will be set, and wait for the last answer.

        Raises BackendError as soon as one request fails; the others are given up then.
        """
        beside = [asyncio.ensure_future(task) for task in (self._keep_writing(), self.stalls.watch())]
        driving = [asyncio.ensure_future(self._drive(place)) for place in range(len(self._members))]
        try:
            await asyncio.gather(*driving)
        except BackendError as error:
            raise after(len(self._sent), error) from error
        finally:
            for task in (*beside, *driving):
                task.cancel()
            await asyncio.gather(*beside, *driving, return_exceptions=True)

    async def _drive(self, place: int) -> None:
        while (request := self._next_request(place)) is not None:
            number, spread = self._next_number[place], self._spread
            self._next_number[place] += self._plan.concurrency
            self._to_write.append(number + self._ahead * self._plan.concurrency)
            start_ns = self._clock()
            counted = place not in self._short
            if counted:
                self._begun(place, start_ns)
            else:
                del self._short[place]
            answer = await self._client.send(place, request, number)
            self._sent.append(Sent(self._members[place], number, answer, spread, counted))
            if counted and spread == self._spread:
                self._ended(start_ns)
        self._pacer.idle()

    def _next_request(self, place: int) -> Request | None:
        if place in self._short:
            return self._of(self._short[place])
        return self._request if self._clock() < self._deadline_ns else None

    def _of(self, output_tokens: int) -> Request:
        return Request(self._plan.input_tokens, output_tokens, self._plan.seed)

    def _begun(self, place: int, start_ns: int) -> None:
        first = place not in self._full_starts
        self._full_starts[place] = start_ns
        if first and len(self._full_starts) == len(self._members):
            self._pacer.busy(self._group, self._spread, start_ns)

    def _ended(self, start_ns: int) -> None:
        now_ns = self._clock()
        self._round_s.append((now_ns - start_ns) / 1e9)
        if len(self._round_s) >= len(self._members) == len(self._full_starts):
            length_s = math.fsum(self._round_s) / len(self._round_s)
            self._round_s = []
            self._pacer.round(self._group, self._spread, now_ns, list(self._full_starts.values()), length_s)

    async def _keep_writing(self) -> None:
        """Write requests well before they are sent, one at a time: what is in flight is stamped between them."""
        while True:
            await asyncio.sleep(_READY_PAUSE_S)
            for _ in range(len(self._to_write)):
                self._client.get_ready(self._request, [self._to_write.popleft()])
                await asyncio.sleep(0)

    def read(self) -> LoopStamps:
        """What the answers say. Raises BackendError for one that is garbage or has other sizes than asked."""
        return read_answers(self._client, self._sent, self._spread)

    @property
    def spread(self) -> int:
        """The ramp that its clients saw last."""
        return self._spread


def read_answers(client: Client, sent: Sequence[Sent], spread: int = 0) -> LoopStamps:
    """The stamps of a closed loop's requests; those since the ``spread``-th ramp are counted. Raises BackendError."""
    replies = []
    for place, each in enumerate(sent):
        try:
            replies.append(client.read(each.answer))
        except BackendError as error:
            raise told(error, f"request {place + 1} of {len(sent)}") from error
    order = sorted(range(len(replies)), key=lambda place: replies[place].start_ns)
    replies, sent = [replies[place] for place in order], [sent[place] for place in order]
    begun_ns = min((reply.start_ns for reply in replies), default=0)
    ended_ns: dict[int, int] = {}
    due_ns = []
    for each, reply in zip(sent, replies, strict=True):
        due_ns.append(ended_ns.get(each.client, begun_ns))
        ended_ns[each.client] = reply.end_ns
    return stamps_of(
        replies,
        due_ns,
        client=[each.client for each in sent],
        number=[each.number for each in sent],
        counted=[each.counted and each.spread == spread for each in sent],
    )


def stamps_of(
    replies: Sequence[Reply],
    due_ns: Sequence[int],
    client: Sequence[int],
    number: Sequence[int],
    counted: Sequence[bool],
) -> LoopStamps:
    """Replies in the order of their starts as arrays."""
    names = dict.fromkeys(name for reply in replies for name in reply.said)
    return LoopStamps(
        client=_integers(client),
        number=_integers(number),
        due_ns=_integers(due_ns),
        start_ns=_integers(reply.start_ns for reply in replies),
        end_ns=_integers(reply.end_ns for reply in replies),
        input_tokens=_integers(reply.input_tokens for reply in replies),
        output_tokens=_integers(reply.output_tokens for reply in replies),
        cached_tokens=_integers(UNKNOWN if reply.cached_tokens is None else reply.cached_tokens for reply in replies),
        counted=np.array(counted, dtype=np.bool_),
        told=np.array([reply.counted for reply in replies], dtype=np.bool_),
        pieces=_integers(len(reply.token_ns) for reply in replies),
        piece_ns=_integers(stamp for reply in replies for stamp in reply.token_ns),
        piece_tokens=_integers(tokens for reply in replies for tokens in reply.token_counts),
        said={name: np.array([reply.said.get(name, math.nan) for reply in replies]) for name in names},
    )


def after(succeeded: int, error: BackendError) -> BackendError:
    """The error that ended a loop, with how many of its requests had succeeded by then."""
    return told(error, f"request {succeeded + 1} of the loop; {succeeded} had succeeded")


def told(error: BackendError, where: str) -> BackendError:
    """An error of the same kind that says where it happened."""
    kind = next(each for each in (OutOfMemory, InvalidConfig, BackendError) if isinstance(error, each))
    return kind(f"{error} ({where})")


def _integers(values: Iterable[int]) -> Any:
    return np.fromiter(values, dtype=np.int64)
