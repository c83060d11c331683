"""How many requests replicas of an engine hold at an arrival rate, how long they take and what that costs. Pure.

Requests that come at random (Poisson) at λ per second find j others with a probability that falls out of how fast j of
them are served together, μ(j) = j/R(j), R(j) being a cycle of j requests of the mix:

    π(j) ∝ Π_{i=1…j} λ/μ(i),    μ(i) = μ(S) beyond S slots

(the product form of a processor that all requests share: Baskett, Chandy, Muntz and Palacios 1975; Kelly, Reversibility
and Stochastic Networks, chapter 3). With R(j) = F + M·j it is the negative binomial distribution, of which the mean
time is (F + M)/(1 − λM). Little's law gives the mean time from the mean number. What a shared processor doesn't know is
added: requests that wait for a slot do so in order, (1 + v²)/2 times as long, v being the coefficient of variation of
their steps (Lee and Longton 1959); a request waits for the step that runs when it comes, half a step on average; and
decoding waits for prompts, which go first: λE[w²]/(2(1 − λE[w])(1 − λM)), w being the seconds of a prompt (Cobham
1954, of two priorities).

In a cycle of j requests each takes part in N(j) steps: its decode steps, and those of its prompt. Where prompts fill
the tokens of a step they wait for each other, by mean value analysis of a station with a demand of m/(B − b) steps
(Reiser and Lavenberg 1980), b sequences decoding beside it.

Of r replicas each request joins the one with the fewest, which keeps them even: j requests in all are served as r times
j/r are, or while there are fewer than replicas each by one of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.simulated_engine import Tokens

SUMS: Final = 9
"""Numbers per request that a mix is known by: see ``request_sums``."""
MOST_PROMPT_WAIT = 0.15
"""Share of the time of a request that waiting for prompts may be; above it the closed form is rough."""
MOST_STATION = 0.5
"""Share of a step's room that prompts may take on average; above it the closed form is rough."""
MOST_UNEVEN = 0.03
"""Share of the time in which one of several replicas may be empty; above it the closed form is rough."""
_MOST_HELD = 1024
"""Requests in a replica that are told apart where there are no slots."""
_CHUNK = 1 << 13
"""Mixes worked out at a time, so that intermediate values stay in the processor's cache."""
_NOTHING = 1e-14


def request_sums(engine: Engine, m: Floats | Tokens, n: Floats | Tokens) -> Floats:
    """What a mix is known by is sums of these over its requests: shape (SUMS, requests).

    1; m; m²; decode steps n − 1; the positions that these attend to; parts of the prompt; the square of the seconds
    of the prompt; positions times steps, for which the memory is held; and the square of the steps.
    """
    m, n = np.asarray(m, dtype=float), np.asarray(n, dtype=float)
    costs, steps = engine.seconds, n - 1
    parts = np.ones_like(m) if engine.chunk_tokens is None else np.ceil(m / engine.chunk_tokens)
    prompt_s = costs.per_prefill_token * m + costs.per_prefill_token2 * m**2
    if not costs.prefill_joined:
        prompt_s = prompt_s + costs.prefill_floor * parts
    contexts = steps * m + steps * n / 2
    every = steps + parts
    return np.stack([np.ones_like(m), m, m**2, steps, contexts, parts, prompt_s**2, (m + steps) * every, every**2])


@dataclass(frozen=True)
class Occupancy:
    """Replicas of an engine under some mixes of requests; arrays have one entry per mix.

    Where more requests come than they can serve, they are saturated: times and numbers in them are infinite, the rest
    is that of replicas whose slots are full. Where none come, times are those of nothing: NaN.
    """

    replicas: int
    rate_per_s: Floats
    saturated: Floats
    """1 where they are, else 0."""
    e2e_s: Floats
    """Mean time of a request, from its coming to its last token."""
    held: Floats
    """Mean number of requests in them, waiting or running."""
    running: Floats
    """Mean number in the slots of a replica while it works."""
    busy_share: Floats
    """Share of the time in which a replica works, on average."""
    steps_per_s: Floats
    """Of all replicas."""
    power_w: Floats
    """Mean over all time of what the steps of all replicas need; NaN without joules. Idle power isn't in it."""
    prompt_share: Floats
    """Share of their time that prompts take."""
    rough: Floats
    """1 where the closed form is known to be off by some per cent: prompts that wait for each other, or that others
    wait for, make up too much of the time; or several replicas hold so few requests that they are not kept even."""

    def energy_w(self, idle_power_w: float) -> Floats:
        """Mean power of all replicas, each with so much while nothing is in it."""
        return self.power_w + self.replicas * (1 - self.busy_share) * idle_power_w


def occupancy(engine: Engine, sums_per_s: Floats, replicas: int = 1) -> Occupancy:
    """The replicas under mixes of which ``request_sums`` come per second, shape (SUMS, mixes) or (SUMS,).

    Memory for positions bounds the slots by the mean that a request in it holds.
    """
    sums = np.asarray(sums_per_s, dtype=float)
    flat = sums.reshape(SUMS, -1)
    parts = [_occupancy(engine, flat[:, at : at + _CHUNK], replicas) for at in range(0, flat.shape[1], _CHUNK)]
    names = [field.name for field in fields(Occupancy)][1:]
    joined = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    return Occupancy(replicas, *(each.reshape(sums.shape[1:]) for each in joined))


def capacity_per_s(engine: Engine, sums: Floats, replicas: int = 1) -> Floats:
    """Requests per second beyond which replicas are saturated, of mixes of any rate. Shape of a row of ``sums``.

    Without slots it is what the largest batch that is told apart serves.
    """
    sums = np.asarray(sums, dtype=float)
    mix = _Mix(engine, sums.reshape(SUMS, -1), 1)
    served = np.zeros(mix.rate.shape)
    for held in range(1, int(mix.slots.max()) + 1):
        cycle_s, *_ = mix.cycle(held)
        served = np.where(held <= mix.slots, np.maximum(served, held / cycle_s), served)
    return np.asarray(replicas * served.reshape(sums.shape[1:]))


class _Mix:
    """Mixes on one engine, as cycles of 1, 1 + 1/r, 1 + 2/r, … requests: asked for in this order."""

    def __init__(self, engine: Engine, sums: Floats, replicas: int) -> None:
        self.engine, self.rate = engine, sums[0]
        per_request = np.divide(sums, sums[0], out=np.ones_like(sums), where=sums[0] > 0)
        _, self.m, self.m2, self.steps, self.contexts, self.parts, self.prompt_s2, held, self.every2 = per_request
        slots = np.full(self.rate.shape, float(_MOST_HELD if engine.slots is None else engine.slots))
        if engine.kv_tokens is not None:
            positions = held / (self.steps + self.parts)
            slots = np.minimum(slots, np.maximum(np.floor(engine.kv_tokens / positions), 1.0))
        self.slots = slots
        nothing: Floats = np.zeros(self.rate.shape)
        self._waiting = deque([nothing] * replicas, maxlen=replicas)
        self._decoding: Floats = np.zeros(self.rate.shape)
        self.demand: Floats = np.zeros(self.rate.shape)

    def prompt_s(self) -> Floats:
        """Mean seconds that a prompt adds to other work."""
        costs = self.engine.seconds
        floors = 0.0 if costs.prefill_joined else costs.prefill_floor * self.parts
        return floors + costs.per_prefill_token * self.m + costs.per_prefill_token2 * self.m2

    def busy_s(self) -> Floats:
        """M: mean seconds that a request adds to other work."""
        costs = self.engine.seconds
        return self.prompt_s() + costs.per_sequence * self.steps + costs.per_context * self.contexts

    def cycle(self, held: float) -> tuple[Floats, Floats | None, Floats]:
        """Seconds, joules and steps of a cycle of so many requests, which are in the slots all the time."""
        joined, chunk = self.engine.seconds.prefill_joined, self.engine.chunk_tokens
        in_prompt = self.parts
        if joined and chunk is not None:
            self.demand = self.m / np.maximum(chunk - self._decoding, 1.0)
            in_prompt = self.parts + self.demand * self._waiting[0]
        each = self.steps + in_prompt
        self._waiting.append(held * in_prompt / each)
        # None of the others is past its prompt.
        alone = (in_prompt / each) ** (held - 1)
        floors = each - in_prompt * alone if joined else self.steps
        lone = in_prompt * alone if joined else held * self.parts * alone
        self._decoding = np.divide(held * self.steps, floors, out=np.zeros_like(floors), where=floors > 0)
        costs, joules = self.engine.seconds, self.engine.joules
        spent_j = None if joules is None else self._paid(joules, held, floors, lone)
        return self._paid(costs, held, floors, lone), spent_j, each if joined else floors + held * self.parts

    def _paid(self, costs: StepCosts, held: float, floors: Floats, lone: Floats) -> Floats:
        each = np.asarray(costs.floor)
        if costs.experts_share is not None:
            each = each + costs.experts * costs.distinct_experts(self._decoding)
        prompts = lone if costs.prefill_joined else held * self.parts
        work = costs.per_prefill_token * self.m + costs.per_prefill_token2 * self.m2
        work = work + costs.per_sequence * self.steps + costs.per_context * self.contexts
        return floors * each + costs.prefill_floor * prompts + held * work


def _occupancy(engine: Engine, sums: Floats, replicas: int) -> Occupancy:
    mix = _Mix(engine, sums, replicas)
    shape = mix.rate.shape
    # Of the numbers held so far: the share of the last one, and of none; running means; and the last one's values.
    share, ratio = np.ones(shape), np.zeros(shape)
    means, last = np.zeros((4, *shape)), np.zeros((4, *shape))
    # No number of requests works so fast.
    hopeless = mix.rate * mix.busy_s() >= replicas
    for held in range(1, replicas * int(mix.slots.max()) + 1):
        if held <= replicas:
            cycle_s, cycle_j, steps = mix.cycle(1.0)
        else:
            cycle_s, cycle_j, steps = mix.cycle(held / replicas)
        working = min(held, replicas)
        spent = np.nan if cycle_j is None else cycle_j
        here = np.broadcast_arrays(held, working, working * steps / cycle_s, working * spent / cycle_s)
        within = held <= replicas * mix.slots
        ratio = np.where(within, mix.rate * cycle_s / held, ratio)
        last = np.where(within, np.stack(here), last)
        part = np.where(within, share * ratio / (1 + share * ratio), 0.0)
        means += part * (last - means)
        share = np.where(within, part, share)
        if (hopeless | ((share < _NOTHING) & (ratio < 0.9))).all():
            break
    return _with_queue(mix, replicas, means, share, ratio, last)


def _with_queue(mix: _Mix, replicas: int, means: Floats, share: Floats, ratio: Floats, last: Floats) -> Occupancy:
    """What holds with requests that wait for a slot, whose number falls by a ratio from each to the next."""
    rate, work, prompt = mix.rate, mix.busy_s() / replicas, mix.prompt_s() / replicas
    saturated = (ratio >= 1) | (rate * work >= 1)
    safe = np.where(saturated, 0.0, ratio)
    queue = np.where(saturated, 1.0, share * safe / (1 - safe * (1 - share)))
    inside, working, steps, power = means + queue * (last - means)
    every = mix.steps + mix.parts
    held = inside + queue / (1 - safe) * mix.every2 / every**2 / 2
    busy = working / replicas
    with np.errstate(divide="ignore", invalid="ignore"):
        shared_s = held / rate
        behind_s = rate / replicas * mix.prompt_s2 / (2 * (1 - rate * prompt) * (1 - rate * work))
        own_s = shared_s + busy * inside / rate / every / 2
        e2e_s = np.where(saturated, np.inf, own_s + np.maximum(behind_s, 0.0))
        crowded = (behind_s > MOST_PROMPT_WAIT * e2e_s) | (rate * mix.demand / steps > MOST_STATION)
        uneven = (replicas > 1) & ((busy < 1 - MOST_UNEVEN) | (mix.slots == 1))
        running = np.where(working > 0, inside / working, 0.0)
    none = rate == 0
    return Occupancy(
        replicas=replicas,
        rate_per_s=rate,
        saturated=saturated.astype(float),
        e2e_s=np.where(none, np.nan, e2e_s),
        held=np.where(none, 0.0, rate * e2e_s),
        running=running,
        busy_share=busy,
        steps_per_s=steps,
        power_w=power,
        prompt_share=np.minimum(rate * prompt, 1.0),
        rough=(~saturated & (crowded | uneven)).astype(float),
    )
