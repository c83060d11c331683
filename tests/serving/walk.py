"""A plain walk of every step of an engine: first come, first served, prompts by chunks. For tests alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.shares import StepParts
from harness.serving.shares_over_time import ServedTimes


def cost_of_step(costs: StepCosts, contexts: list[int], prompts: list[tuple[int, int]], past: int = 0) -> float:
    """As the docstring of ``StepCosts`` has it; ``past`` requests wait to decode."""
    b, share = len(contexts), costs.experts_share
    distinct = 0.0 if share is None else (1 - (1 - share) ** b) / share
    total = costs.floor * (b > 0) + costs.per_sequence * b + costs.experts * distinct
    total += costs.per_context * sum(contexts)
    for start, end in prompts:
        total += costs.per_prefill_token * (end - start) + costs.per_prefill_token2 * (end**2 - start**2)
    if not costs.prefill_joined:
        return total + costs.prefill_floor * len(prompts)
    return total + costs.prefill_floor * (bool(prompts) and not b and not past)


@dataclass
class Walk:
    """The steps of some requests, and when each was scheduled, got its first token and its last."""

    sizes: list[tuple[int, int]]
    scheduled: dict[int, float] = field(default_factory=dict)
    first: dict[int, float] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    rows: list[tuple[int, int, int, int, bool]] = field(default_factory=list)
    now: float = 0.0
    joules: float = 0.0

    @property
    def parts(self) -> StepParts:
        step, request, start, end, decodes = (np.array(column) for column in zip(*self.rows, strict=True))
        return StepParts(step, request, start, end, decodes)

    @property
    def log(self) -> ServedTimes:
        m, n = np.array(self.sizes, dtype=float).T
        times = ([found[i] for i in range(len(self.sizes))] for found in (self.scheduled, self.first, self.last))
        return ServedTimes(m, n, np.zeros_like(m), *(np.array(each) for each in times))


def walk(engine: Engine, arrivals: list[tuple[float, int, int]]) -> Walk:
    """Every step, with decoding first and prompt parts in the room that is left in a step."""
    found = Walk([(m, n) for _, m, n in arrivals])
    waiting, prompt, decoded = list(range(len(arrivals))), {}, {}
    step, slots = 0, engine.slots or 10**9
    while waiting or prompt or decoded:
        if not prompt and not decoded:
            found.now = max(found.now, arrivals[waiting[0]][0])
        joined = engine.seconds.prefill_joined
        room = (engine.chunk_tokens or 10**9) - len(decoded) * joined
        contexts = {i: found.sizes[i][0] + done for i, done in decoded.items()}
        taken: dict[int, tuple[int, int]] = {}
        while room > 0 and (joined or not taken):
            if started := [i for i in prompt if i not in taken]:
                request = started[0]
            elif waiting and arrivals[waiting[0]][0] <= found.now and len(prompt) + len(decoded) < slots:
                request = waiting.pop(0)
                prompt[request], found.scheduled[request] = 0, found.now
            else:
                break
            end = min(prompt[request] + room, found.sizes[request][0])
            taken[request] = (prompt[request], end)
            room -= end - prompt[request]
        if taken and not joined:
            contexts = {}
        found.rows += [(step, i, x - 1, x, True) for i, x in contexts.items()]
        found.rows += [(step, i, u, v, False) for i, (u, v) in taken.items()]
        work = list(contexts.values()), list(taken.values()), len(decoded)
        found.now += cost_of_step(engine.seconds, *work)
        found.joules += cost_of_step(engine.joules or engine.seconds, *work)
        for request in contexts:
            decoded[request] += 1
        for request, (_, end) in taken.items():
            prompt[request] = end
            if end == found.sizes[request][0]:
                del prompt[request]
                found.first[request], decoded[request] = found.now, 1
        for request in [i for i, done in decoded.items() if done >= found.sizes[i][1]]:
            found.last[request] = found.now
            del decoded[request]
        step += 1
    return found
