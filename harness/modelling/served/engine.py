"""What one step of a serving engine costs, and what bounds its steps. Pure.

An engine works in steps. A step decodes one token of each of b sequences and may hold parts of prompts beside it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepCosts:
    """Seconds, or joules, of a step.

    Of b sequences that decode at contexts x_i, and p prompt tokens that take positions from u to v of their prompts:

        floor·[b > 0] + per_sequence·b + experts·x(b) + per_context·Σ x_i
        + prefill_floor·(…) + per_prefill_token·p + per_prefill_token2·Σ (v² − u²)

    x(b) is 0 without experts, else (1 − (1 − ρ)^b)/ρ. Where prefill joins decode (``prefill_joined``) the floor of
    prefill is paid by steps that decode nothing; else a prompt part is a step of its own, which decoding waits for,
    and pays it.
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


@dataclass(frozen=True)
class Engine:
    """One replica of a system: its step costs and its limits; None where there is no limit or it isn't known."""

    seconds: StepCosts
    joules: StepCosts | None = None
    """Gross energy while it works; None where it was not measured."""
    idle_power_w: float | None = None
    """While nothing is in it; None where not measured."""
    slots: int | None = None
    """Sequences that it works on at once: beyond them requests wait."""
    chunk_tokens: int | None = None
    """Most tokens in a step: decoding sequences count one each, prompt parts take the rest. None: whole prompts."""
    kv_tokens: int | None = None
    """Positions of context that its memory holds in all; a request that doesn't fit waits."""
