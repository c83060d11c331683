"""A machine under closed loops, walked step by step: what times to first and between tokens are fitted to in tests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from harness.modelling.served.engine import Engine


@dataclass(frozen=True)
class LoopTimes:
    """Means over the requests of a loop, in s."""

    ttft_s: float
    tpot_s: float
    runtime_s: float


def closed_loop(
    engine: Engine, m: int, n: int, c: int, cycles: int = 6, spread: bool = True, ubatch: int | None = None
) -> LoopTimes:
    """c clients, each of which sends its next request when it has its last token.

    Where ``spread``, first requests are shorter by shares of n, so that clients don't go in step; those don't count.
    ``ubatch``: tokens that the engine computes at once (llama-server's -ub); each further part of a step costs a floor.
    """
    costs, chunk = engine.seconds, engine.chunk_tokens or 10**9
    length = {client: max(1, round(n * (client + 1) / c)) if spread else n for client in range(c)}
    sent, first = dict.fromkeys(range(c), 0.0), dict.fromkeys(range(c), 0.0)
    waiting = deque(range(c))
    prompt: dict[int, int] = {}
    decoded: dict[int, int] = {}
    done = dict.fromkeys(range(c), 0)
    found: list[tuple[float, float, float]] = []
    now = 0.0
    while len(found) < cycles * c:
        room = chunk - len(decoded) if costs.prefill_joined else chunk
        parts: list[tuple[int, int]] = []
        slots = engine.slots or c
        while room > 0 and (prompt or (waiting and len(prompt) + len(decoded) < slots)):
            unfinished = [client for client in prompt if client not in dict(parts)]
            if not unfinished:
                if not waiting or len(prompt) + len(decoded) >= slots:
                    break
                unfinished = [waiting.popleft()]
                prompt[unfinished[0]] = 0
            part = min(room, m - prompt[unfinished[0]])
            parts.append((unfinished[0], part))
            room -= part
        moving = list(decoded) if costs.prefill_joined or not parts else []
        step = costs.floor if moving else 0.0
        step += costs.per_sequence * len(moving) + costs.per_context * sum(m + decoded[client] for client in moving)
        if parts and not (moving and costs.prefill_joined):
            step += costs.prefill_floor
        tokens = sum(part for _, part in parts)
        if ubatch:
            step += costs.floor * ((tokens + len(moving) - 1) // ubatch)
        step += costs.per_prefill_token * tokens
        step += costs.per_prefill_token2 * sum((prompt[k] + part) ** 2 - prompt[k] ** 2 for k, part in parts)
        now += step
        for client in moving:
            decoded[client] += 1
        for client, part in parts:
            prompt[client] += part
            if prompt[client] >= m:
                del prompt[client]
                decoded[client], first[client] = 1, now
        for client in [client for client, tokens in decoded.items() if tokens >= length[client]]:
            del decoded[client]
            if done[client]:
                ttft = first[client] - sent[client]
                found.append((ttft, (now - first[client]) / max(n - 1, 1), now - sent[client]))
            done[client] += 1
            length[client] = n
            sent[client] = now
            waiting.append(client)
    return LoopTimes(*np.mean(found, axis=0))
