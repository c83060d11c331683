"""What one step of a serving engine costs, and what bounds its steps. Pure.

An engine works in steps, one after another, as long as something is in it. A step decodes one token of each of b
sequences and may hold parts of prompts beside it (continuous batching):

- At the start of a step, prompts are taken in the order in which requests came: first what is left of the prompt that
  the step before took a part of, then waiting requests that have come by now, while a slot and memory are free and the
  step has room. The first request that doesn't fit holds up those behind it.
- Where prefill joins decode, every step decodes all b sequences whose prompt has ended. They take one token each of
  ``chunk_tokens``, prompts take the rest; a prompt that is longer goes on in the next step. Where prefill does not
  join, a prompt, or a part of at most ``chunk_tokens`` of it, is a step of its own. It goes before any decoding.
- The last part of a prompt yields the first output token, at the end of its step. A request of n output tokens then
  decodes in n − 1 further steps, the first of them the next step that decodes. Its k-th attends to m + k positions.
- A request holds its slot and memory for m + n − 1 positions from the start of its first step to the end of its last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np

from harness.core.arrays import Floats


@dataclass(frozen=True)
class StepCosts:
    """Seconds, or joules, of a step.

    Of b sequences that decode at contexts x_i, and prompt parts of p tokens in all, each of which takes positions from
    u to v of its prompt:

        floor·[b > 0] + per_sequence·b + experts·x(b) + per_context·Σ x_i
        + prefill_floor·(…) + per_prefill_token·p + per_prefill_token2·Σ (v² − u²)

    x(b) is 0 without experts, else (1 − (1 − ρ)^b)/ρ. Where prefill joins decode (``prefill_joined``) a step with
    prompt parts pays the floor of prefill once, and only while no sequence in the engine is past its prompt; else every
    prompt part pays it. The seconds' ``prefill_joined`` says which of the two the engine does; the joules' says only
    how often joules are paid.
    """

    floor: float
    """a: of a step in which something decodes."""
    per_sequence: float
    """s: of each sequence that decodes."""
    per_context: float
    """d1: of each position that a decoding sequence attends to."""
    prefill_floor: float
    """c0."""
    per_prefill_token: float
    """c1: of each prompt token."""
    per_prefill_token2: float
    """c2: of attention within the prompt; a whole prompt of m tokens costs c2·m²."""
    prefill_joined: bool = True
    experts: float = 0.0
    """g."""
    experts_share: float | None = None
    """ρ; None without experts."""

    def distinct_experts(self, sequences: Floats | float) -> Floats:
        """x(b) of so many sequences; 0 without experts."""
        sequences = np.asarray(sequences, dtype=float)
        if self.experts_share is None:
            return np.zeros_like(sequences)
        return np.asarray((1 - (1 - self.experts_share) ** sequences) / self.experts_share)

    def decoding(self, sequences: int) -> float:
        """What a step pays for decoding so many sequences, at least 1, without their contexts."""
        experts = self.experts * float(self.distinct_experts(sequences))
        return self.floor + self.per_sequence * sequences + experts

    def scaled(self, factor: float) -> Self:
        """Costs that are all so many times as high."""
        return replace(self, **{name: factor * getattr(self, name) for name in AMOUNTS})


AMOUNTS: Final = (
    *("floor", "per_sequence", "per_context"),
    *("prefill_floor", "per_prefill_token", "per_prefill_token2", "experts"),
)
"""The coefficients of ``StepCosts``: a, s, d1, c0, c1, c2 and g."""


@dataclass(frozen=True)
class Engine:
    """One replica of a system: its step costs and its limits; None where there is no limit or it isn't known."""

    seconds: StepCosts
    joules: StepCosts | None = None
    """Gross energy while it works; None where it was not measured."""
    idle_power_w: float | None = None
    """While nothing is in it; None where not measured."""
    slots: int | None = None
    """Sequences that it works on at once, from the first part of the prompt on: beyond them requests wait."""
    chunk_tokens: int | None = None
    """Most tokens in a step: decoding sequences count one each where prefill joins decode, prompt parts take the rest.
    None: whole prompts."""
    kv_tokens: int | None = None
    """Positions of context that its memory holds in all: m + n − 1 for each request in it."""
