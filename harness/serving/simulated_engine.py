"""One engine as events: it jumps over steps that do alike, from one change of what is in it to the next. Pure.

Between two changes (a sequence ends, a prompt ends, a request comes that can begin at once) every step decodes the same
sequences and takes as many prompt tokens, so that its seconds and joules rise by the same amount from step to step: a
jump of k steps costs k·first + rise·k(k − 1)/2. The times are those of an engine that walks every step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from harness.modelling.served.engine import Engine, StepCosts

Tokens = NDArray[np.int64]
_NO_LIMIT = 1 << 60


@dataclass
class RequestTimes:
    """Sizes of requests, and the times that engines fill in, in s."""

    input_tokens: Sequence[int]
    output_tokens: Sequence[int]
    start_s: list[float]
    first_token_s: list[float]
    end_s: list[float]


@dataclass
class EngineWork:
    """What an engine has done up to a time. Steps count when they have ended."""

    busy_s: float = 0.0
    joules: float = 0.0
    steps: int = 0


@dataclass
class StepCounts:
    """How often an engine has paid what depends on when requests came."""

    by_decoding: list[int] = field(default_factory=lambda: [0])
    """Steps that decoded 0, 1, 2, … sequences."""
    lone_prefills: int = 0
    """Steps with prompt parts while no sequence was past its prompt."""
    prompt_parts: int = 0


class SimulatedEngine:
    """An engine on its way from one event to the next.

    ``ends_s`` is when its present jump ends, infinite while nothing is in it. Whoever drives it calls ``advance`` while
    that lies before the next request comes, then ``take``; ``held`` requests are in it.
    """

    def __init__(self, engine: Engine, requests: RequestTimes, period_s: float) -> None:
        self._engine, self._requests = engine, requests
        self._m, self._n = requests.input_tokens, requests.output_tokens
        self._seconds, self._joules = _Pricing(engine.seconds, engine), _Pricing(engine.joules or _FREE, engine)
        self._joined = engine.seconds.prefill_joined
        self._chunk = engine.chunk_tokens or _NO_LIMIT
        self._slots, self._memory = engine.slots or _NO_LIMIT, engine.kv_tokens or _NO_LIMIT
        self._span = len(self._m) or 1
        self.now_s, self.ends_s = 0.0, math.inf
        self.held = 0
        self._waiting: deque[int] = deque()
        self._decoding = self._contexts = self._decoded = 0
        """Sequences past their prompt, positions that their next tokens attend to, and steps that decoded so far."""
        self._last_steps: list[int] = []
        """Heap of which step, counted as ``_decoded``, is a sequence's last; times ``_span`` plus its request."""
        self._partial, self._taken = -1, 0
        """The request whose prompt goes on in the next step, and how many of its tokens are taken."""
        self._steps = self._moving = self._growth = 0
        """Of the present jump: steps, sequences that decode, and prompt tokens that ``_taken`` grows by in a step."""
        self._ended_prompts: list[int] = []
        """Requests whose prompt ends in the present jump."""
        self._cuttable = False
        """Whether a request that comes in the present jump could begin at its next step."""
        self.work, self.counts = EngineWork(), StepCounts()
        self.period_s, self.periods = period_s, list[EngineWork]()
        """``work`` as it was at the end of each period."""

    def take(self, request: int, arrival_s: float) -> None:
        """Let a request come in, no earlier than any before it and no later than ``ends_s``."""
        self._waiting.append(request)
        self.held += 1
        if self._cuttable:
            self._cut(arrival_s)
        elif self.ends_s == math.inf:
            self._pass_periods(arrival_s)
            # The jump of no steps ends when all have come that come at this very time.
            self.now_s = self.ends_s = arrival_s

    def advance(self) -> None:
        """Go to the end of the present jump and begin the next."""
        end_s, steps, moving = self.ends_s, self._steps, self._moving
        if steps:
            self._pass_periods(end_s)
            work = self.work
            work.steps += steps
            work.busy_s += end_s - self.now_s
            work.joules += self._joules.jump(steps)
            self.counts.by_decoding[moving] += steps
            self._taken += steps * self._growth
            self._steps = 0
        self.now_s = end_s
        if moving:
            self._decoded += steps
            self._contexts += steps * moving
            heap, past = self._last_steps, (self._decoded + 1) * self._span
            while heap and heap[0] < past:
                request = heappop(heap) % self._span
                self._decoding -= 1
                self._contexts -= self._m[request] + self._n[request]
                self._let_go(request)
        if self._ended_prompts:
            self._end_prompts()
        self._begin()

    def finish(self, until_s: float) -> None:
        """Close the periods up to a time no earlier than its last request's end."""
        self._pass_periods(until_s)

    def _let_go(self, request: int) -> None:
        self._requests.end_s[request] = self.now_s
        self.held -= 1
        self._slots += 1
        self._memory += self._m[request] + self._n[request] - 1

    def _end_prompts(self) -> None:
        """First tokens; what has more to come decodes from the next step on."""
        first_token_s, now_s, span = self._requests.first_token_s, self.now_s, self._span
        for request in self._ended_prompts:
            first_token_s[request] = now_s
            more = self._n[request] - 1
            if more:
                self._decoding += 1
                self._contexts += self._m[request] + 1
                heappush(self._last_steps, (self._decoded + more) * span + request)
            else:
                self._let_go(request)
        self._ended_prompts.clear()

    def _begin(self) -> None:
        """Choose the next jump."""
        self._cuttable = False
        decoding = self._decoding
        room = self._chunk - decoding if self._joined else self._chunk
        if room > 0 and (self._partial >= 0 or (self._waiting and self._fits(self._waiting[0]))):
            self._take_prompts(room)
        elif decoding:
            self._jump(self._last_steps[0] // self._span - self._decoded, decoding)
            self._cuttable = room > 0 and not self._waiting and self._slots > 0
        else:
            self._moving, self.ends_s = 0, math.inf

    def _fits(self, request: int) -> bool:
        return self._slots > 0 and self._memory >= self._m[request] + self._n[request] - 1

    def _admit(self) -> int:
        request = self._waiting.popleft()
        self._slots -= 1
        self._memory -= self._m[request] + self._n[request] - 1
        self._requests.start_s[request] = self.now_s
        return request

    def _take_prompts(self, room: int) -> None:
        """A jump over steps that one prompt fills, or one step with the last parts of prompts."""
        if self._partial < 0:
            self._partial, self._taken = self._admit(), 0
        request, taken = self._partial, self._taken
        left, moving = self._m[request] - taken, self._decoding if self._joined else 0
        if left > room:
            steps = (left - 1) // room
            if moving:
                steps = min(steps, self._last_steps[0] // self._span - self._decoded)
            self._jump(steps, moving, 1, room, (2 * taken + room) * room, 2 * room * room)
            self._growth = room
            return
        ended = self._ended_prompts
        ended.append(request)
        tokens, squares, parts = left, self._m[request] ** 2 - taken * taken, 1
        self._partial = -1
        while self._joined and tokens < room and self._waiting and self._fits(self._waiting[0]):
            request = self._admit()
            part = min(self._m[request], room - tokens)
            tokens, squares, parts = tokens + part, squares + part * part, parts + 1
            if part < self._m[request]:
                self._partial, self._taken = request, part
            else:
                ended.append(request)
        self._jump(1, moving, parts, tokens, squares)

    def _jump(self, steps: int, moving: int, parts: int = 0, tokens: int = 0, squares: int = 0, rise: int = 0) -> None:
        """Steps that decode ``moving`` sequences and take ``parts`` of prompts, ``tokens`` in all.

        ``squares`` is Σ (v² − u²) of these parts in the first step, and rises by ``rise`` a step.
        """
        self._steps, self._moving, self._growth = steps, moving, 0
        decoding, contexts = self._decoding, self._contexts
        self._seconds.set(decoding, contexts, moving, parts, tokens, squares, rise)
        self._joules.set(decoding, contexts, moving, parts, tokens, squares, rise)
        counts = self.counts
        if moving >= len(counts.by_decoding):
            counts.by_decoding += [0] * (moving + 1)
        if parts:
            counts.prompt_parts += steps * parts
            counts.lone_prefills += 0 if decoding else steps
        self.ends_s = self.now_s + self._seconds.jump(steps)

    def _cut(self, arrival_s: float) -> None:
        """End the present jump with the step in which a request comes."""
        seconds, now_s = self._seconds, self.now_s
        steps = max(1, seconds.steps_until(arrival_s - now_s))
        # The root is rounded; ends of steps are compared as they will be written.
        while steps > 1 and now_s + seconds.jump(steps - 1) >= arrival_s:
            steps -= 1
        while now_s + seconds.jump(steps) < arrival_s:
            steps += 1
        if steps < self._steps:
            self._steps, self.ends_s = steps, now_s + seconds.jump(steps)
        self._cuttable = False

    def _pass_periods(self, until_s: float) -> None:
        """Note what was done by the end of each period before a time in the present jump; of a step that is under way
        the same share of its joules as of its seconds."""
        while (mark_s := (len(self.periods) + 1) * self.period_s) <= until_s:
            done = EngineWork(self.work.busy_s, self.work.joules, self.work.steps)
            if self._steps:
                in_jump_s = mark_s - self.now_s
                whole = min(self._steps, self._seconds.steps_within(in_jump_s))
                done.steps += whole
                done.busy_s += in_jump_s
                done.joules += self._joules.jump(whole)
                if whole < self._steps:
                    share = (in_jump_s - self._seconds.jump(whole)) / self._seconds.step(whole)
                    done.joules += self._joules.step(whole) * min(1.0, max(0.0, share))
            self.periods.append(done)


class _Pricing:
    """Seconds or joules of the steps of a jump."""

    def __init__(self, costs: StepCosts, engine: Engine) -> None:
        self.costs = costs
        self._decoding = [0.0]
        self._per_context, self._joined = costs.per_context, costs.prefill_joined
        self._floor, self._per_token, self._per_square = (
            costs.prefill_floor,
            costs.per_prefill_token,
            costs.per_prefill_token2,
        )
        self._first = self._rise = 0.0

    def set(self, decoding: int, contexts: int, moving: int, parts: int, tokens: int, squares: int, rise: int) -> None:
        """Price the first step of a jump, and how much each next one costs more."""
        first = growth = 0.0
        if moving:
            while moving >= len(self._decoding):
                self._decoding.append(self.costs.decoding(len(self._decoding)))
            growth = self._per_context * moving
            first = self._decoding[moving] + self._per_context * contexts
        if parts:
            first += self._per_token * tokens + self._per_square * squares
            growth += self._per_square * rise
            if not self._joined:
                first += self._floor * parts
            elif not decoding:
                first += self._floor
        self._first, self._rise = first, growth

    def step(self, index: int) -> float:
        """The cost of one step, counted from 0."""
        return self._first + self._rise * index

    def jump(self, steps: int) -> float:
        """The cost of so many steps, from the first on."""
        return steps * self._first + self._rise * (steps * (steps - 1) / 2)

    def steps_until(self, cost: float) -> int:
        """The least number of steps that cost at least so much, but for rounding."""
        return math.ceil(self._steps(cost))

    def steps_within(self, cost: float) -> int:
        """The largest number of steps that cost at most so much, but for rounding."""
        return math.floor(self._steps(cost))

    def _steps(self, cost: float) -> float:
        if cost <= 0:
            return 0.0
        # k·first + rise·k(k − 1)/2 = cost, solved in the form that doesn't cancel.
        slope = self._first - self._rise / 2
        return 2 * cost / (slope + math.sqrt(slope * slope + 2 * self._rise * cost))


_FREE = StepCosts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
