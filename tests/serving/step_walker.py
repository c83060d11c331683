"""An engine that walks every step, as ``Engine`` says it works: slow and plain, to hold the simulation against."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.shares import StepParts
from harness.serving.simulation import Requests


@dataclass
class Walk:
    """One replica: its requests by state, and all steps that it made as (start, seconds, joules, sequences)."""

    engine: Engine
    now_s: float = 0.0
    waiting: list[int] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)
    """Prompt tokens taken, by request past its start whose prompt hasn't ended."""
    decoded: dict[int, int] = field(default_factory=dict)
    """Decode steps done, by request past its prompt."""
    steps: list[tuple[float, float, float, int]] = field(default_factory=list)
    rows: list[tuple[int, int, int, int, bool]] = field(default_factory=list)
    """What each step computed, as ``StepParts`` has it."""

    @property
    def parts(self) -> StepParts:
        return StepParts(*(np.array(column) for column in zip(*self.rows, strict=True)))


def walk(
    engine: Engine, requests: Requests, replicas: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[Walk]]:
    """Replica, start, first token and end of each request, and what each replica did."""
    count = requests.arrival_s.size
    arrival = requests.arrival_s - requests.arrival_s[0]
    replica, times = np.zeros(count, dtype=int), np.full((3, count), math.nan)
    walks = [Walk(engine) for _ in range(replicas)]
    for request in range(count):
        for each in walks:
            # Steps that begin before it comes; it is there at the start of one that begins when it comes.
            while (each.waiting or each.taken or each.decoded) and each.now_s < arrival[request]:
                _step(each, requests, times)
        held = [
            int(sum(not times[2, other] < arrival[request] for other in range(request) if replica[other] == place))
            for place in range(replicas)
        ]
        replica[request] = held.index(min(held))
        chosen = walks[replica[request]]
        if not (chosen.waiting or chosen.taken or chosen.decoded):
            chosen.now_s = max(chosen.now_s, arrival[request])
        chosen.waiting.append(request)
    for each in walks:
        while each.waiting or each.taken or each.decoded:
            _step(each, requests, times)
    return replica, *(requests.arrival_s[0] + times), walks


def _step(walk: Walk, requests: Requests, times: np.ndarray) -> None:
    engine, joined = walk.engine, walk.engine.seconds.prefill_joined
    m, n = requests.input_tokens, requests.output_tokens
    past = len(walk.decoded)
    room = math.inf if engine.chunk_tokens is None else engine.chunk_tokens - (past if joined else 0)
    parts: list[tuple[int, int, int]] = []
    for request in _prompts(walk, requests, times):
        if room <= 0 or (parts and not joined):
            break
        if request in walk.waiting:
            walk.waiting.remove(request)
            walk.taken[request] = 0
            times[0, request] = walk.now_s
        u = walk.taken[request]
        v = int(min(m[request], u + room))
        parts.append((request, u, v))
        walk.taken[request] = v
        room -= v - u
    decoding = list(walk.decoded) if joined or not parts else []
    contexts = [int(m[request]) + walk.decoded[request] + 1 for request in decoding]
    seconds, joules = (
        0.0 if costs is None else price(costs, contexts, [(u, v) for _, u, v in parts], past)
        for costs in (engine.seconds, engine.joules)
    )
    number = len(walk.steps)
    walk.rows += [(number, i, x - 1, x, True) for i, x in zip(decoding, contexts, strict=True)]
    walk.rows += [(number, i, u, v, False) for i, u, v in parts]
    walk.steps.append((walk.now_s, seconds, joules, len(decoding)))
    walk.now_s += seconds
    for request, _, v in parts:
        if v == m[request]:
            del walk.taken[request]
            times[1, request] = walk.now_s
            walk.decoded[request] = 0
    for request in decoding:
        walk.decoded[request] += 1
    for request in [each for each, steps in walk.decoded.items() if steps == n[each] - 1]:
        del walk.decoded[request]
        times[2, request] = walk.now_s


def _prompts(walk: Walk, requests: Requests, times: np.ndarray) -> Iterator[int]:
    """Requests whose prompt may be taken now, in order; asked for one at a time, since each changes what fits."""
    yield from list(walk.taken)
    engine = walk.engine
    while walk.waiting:
        inside = [*walk.taken, *walk.decoded]
        first = walk.waiting[0]
        positions = [int(requests.input_tokens[i] + requests.output_tokens[i]) - 1 for i in [*inside, first]]
        if engine.slots is not None and len(positions) > engine.slots:
            return
        if engine.kv_tokens is not None and sum(positions) > engine.kv_tokens:
            return
        yield first


def price(costs: StepCosts, contexts: list[int], parts: list[tuple[int, int]], past: int = 0) -> float:
    """A step's cost by the formula of ``StepCosts``; ``past`` sequences are past their prompt, whether they decode."""
    total = 0.0
    if contexts:
        b, share = len(contexts), costs.experts_share
        distinct = 0.0 if share is None else (1 - (1 - share) ** b) / share
        total += costs.floor + costs.per_sequence * b + costs.experts * distinct + costs.per_context * sum(contexts)
    if parts:
        floors = (0 if past or contexts else 1) if costs.prefill_joined else len(parts)
        total += costs.prefill_floor * floors
        total += sum(costs.per_prefill_token * (v - u) + costs.per_prefill_token2 * (v**2 - u**2) for u, v in parts)
    return total
