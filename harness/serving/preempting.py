"""One engine that gives out memory as contexts grow, and sets its youngest sequence aside when none is left. Pure.

As vLLM does: a request begins when its prompt fits beside what is held. Every step each sequence that decodes takes one
position more. Where none is left, the sequence that began last gives up its memory and waits before all others, until
its context fits again; a share of it is then computed anew as a prompt. ``simulation`` is of engines that reserve.

Between two changes of what decodes all steps are alike, and are jumped over with closed sums.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.served.engine import Engine
from harness.serving.simulation import Requests

_NO_LIMIT: Final = 1 << 60


@dataclass(frozen=True, eq=False)
class Preempted:
    """What became of requests, in the order they came; times in s."""

    start_s: Floats
    first_token_s: Floats
    end_s: Floats
    set_aside: int
    """How often a sequence was."""


@dataclass
class _State:
    """What is in the engine. Sequences by number, those that run in the order in which they began."""

    now_s: float = 0.0
    waiting: deque[int] = field(default_factory=deque)
    running: list[int] = field(default_factory=list)
    to_compute: dict[int, int] = field(default_factory=dict)
    """Prompt tokens still to compute, of running sequences that don't decode yet."""
    set_aside: int = 0


def simulate_preempting(engine: Engine, requests: Requests, recomputed_share: float = 1.0) -> Preempted:
    """Send requests through an engine with ``kv_tokens``; prefill joins decoding. Raises UserError for what never fits.

    ``recomputed_share`` of a context that was set aside is computed again; the rest is still in a prefix cache.
    """
    whole = requests.input_tokens + requests.output_tokens - 1
    memory = engine.kv_tokens or _NO_LIMIT
    if whole.max() > memory:
        raise UserError(f"a request of {whole.max()} positions never fits a memory of {memory}: give more --kv-tokens")
    walk = _Walk(engine, requests, recomputed_share)
    while walk.step():
        pass
    return Preempted(walk.start_s, walk.first_token_s, walk.end_s, walk.state.set_aside)


class _Walk:
    """The requests on their way."""

    def __init__(self, engine: Engine, requests: Requests, recomputed_share: float) -> None:
        self.costs, self.share = engine.seconds, recomputed_share
        self.slots, self.memory = engine.slots or _NO_LIMIT, engine.kv_tokens or _NO_LIMIT
        self.chunk = engine.chunk_tokens or _NO_LIMIT
        self.m, self.n = requests.input_tokens.tolist(), requests.output_tokens.tolist()
        self.coming = deque(zip(requests.arrival_s.tolist(), range(len(self.m)), strict=True))
        self.start_s, self.first_token_s, self.end_s = (np.full(len(self.m), np.nan) for _ in range(3))
        self.made = [0] * len(self.m)
        """Output tokens."""
        self.state = _State()

    def step(self) -> bool:
        """One step, or a jump over several that are alike; False when all is done."""
        state = self.state
        if not state.running and not state.waiting:
            if not self.coming:
                return False
            state.now_s = max(state.now_s, self.coming[0][0])
        while self.coming and self.coming[0][0] <= state.now_s:
            state.waiting.append(self.coming.popleft()[1])
        pressed = self._make_room()
        if not pressed:
            self._admit()
        decoding = [i for i in state.running if i not in state.to_compute]
        if state.to_compute:
            self._prompt_step(decoding)
        else:
            self._jump(decoding)
        return True

    def _held(self) -> int:
        """Positions that running sequences hold, their next tokens not counted."""
        return sum(self.m[i] + max(self.made[i] - 1, 0) for i in self.state.running)

    def _make_room(self) -> bool:
        """Set the youngest aside until each sequence that decodes has room for one position; whether any was."""
        state, before = self.state, self.state.set_aside
        while self._held() + sum(i not in state.to_compute for i in state.running) > self.memory:
            youngest = state.running.pop()
            state.to_compute.pop(youngest, None)
            state.waiting.appendleft(youngest)
            state.set_aside += 1
        return state.set_aside > before

    def _admit(self) -> None:
        state = self.state
        decoding = len(state.running) - len(state.to_compute)
        room = self.chunk - decoding - sum(state.to_compute.values())
        held = self._held() + decoding
        while state.waiting and room > 0 and len(state.running) < self.slots:
            first = state.waiting[0]
            context = self.m[first] + max(self.made[first] - 1, 0)
            if held + context > self.memory:
                return
            state.running.append(state.waiting.popleft())
            held += context
            again = bool(self.made[first])
            state.to_compute[first] = max(1, round(context * self.share)) if again else context
            room -= state.to_compute[first]
            if math.isnan(self.start_s[first]):
                self.start_s[first] = state.now_s

    def _prompt_step(self, decoding: list[int]) -> None:
        """One step that decodes, and computes parts of prompts."""
        state, costs = self.state, self.costs
        room, tokens, squares = max(self.chunk - len(decoding), 1), 0, 0
        ended = []
        for i in [i for i in state.running if i in state.to_compute]:
            part = min(room, state.to_compute[i])
            until = self.m[i] + max(self.made[i] - 1, 0) - state.to_compute[i] + part
            tokens, squares, room = tokens + part, squares + until**2 - (until - part) ** 2, room - part
            state.to_compute[i] -= part
            if not state.to_compute[i]:
                ended.append(i)
            if not room:
                break
        seconds = costs.per_prefill_token * tokens + costs.per_prefill_token2 * squares
        seconds += self._decoding_s(decoding, 1) if decoding else costs.prefill_floor
        state.now_s += seconds
        self._made(decoding, 1)
        for i in ended:
            del state.to_compute[i]
            if not self.made[i]:
                self.first_token_s[i] = state.now_s
            # The token after a context that was computed again comes with it too.
            self.made[i] += 1
            self._let_go(i)

    def _decoding_s(self, decoding: list[int], steps: int) -> float:
        """Seconds of steps that only decode, contexts growing."""
        count = len(decoding)
        contexts = sum(self.m[i] + self.made[i] for i in decoding)
        first = self.costs.decoding(count) + self.costs.per_context * contexts
        return steps * first + self.costs.per_context * count * steps * (steps - 1) / 2

    def _jump(self, decoding: list[int]) -> None:
        """Steps up to the next end, to where memory is full, or to the step in which a request comes."""
        steps = min(self.n[i] - self.made[i] for i in decoding)
        steps = min(steps, max(1, (self.memory - self._held()) // len(decoding)))
        state = self.state
        if self.coming and not state.waiting:
            left = self.coming[0][0] - state.now_s
            low, high = 1, steps
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if self._decoding_s(decoding, middle) >= left else (middle + 1, high)
            steps = low
        state.now_s += self._decoding_s(decoding, steps)
        self._made(decoding, steps)

    def _made(self, decoding: list[int], steps: int) -> None:
        for i in decoding:
            self.made[i] += steps
            self._let_go(i)

    def _let_go(self, i: int) -> None:
        if self.made[i] >= self.n[i]:
            self.end_s[i] = self.state.now_s
            self.state.running.remove(i)
