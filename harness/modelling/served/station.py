"""Times to first and between tokens under load: a station for prompts beside decoding. Pure.

In a closed loop each of c clients is either at the station, where prompts queue, or decodes. With k in flight and, as
mean-value analysis has it, what k − 1 leave there when one more comes:

    own    = ⌈m/B⌉⁺·step(b) + c1·m + c2·m²            b others decode; a step of B tokens decodes beside the prompt
    ahead  = κ·queue(k − 1) + β·min(k − 1, max(B/m − 1, B/2m))   prompts before it, and in its steps
    TTFT   = own + r·step(b) + ahead·((m/B)·step(b) + c1·m + c2·m²)
    decode = (n − 1)·step(b + 1) + (k − 1 − ahead)·(c1·m + c2·m²)
    queue(k) = k·TTFT/(TTFT + decode),  b(k) = k − queue(k)

step(b) = a + s·b + g·x(b) + d1·b·(m + n/2), with c0 in a's place while nothing decodes, and ⌈m/B⌉⁺ = max(1, m/B).
Where each prompt is a step of its own (φ = 1) it costs c0 + c1·m + c2·m² and decoding waits for it. Every other client
has one prompt in a request's cycle, before its first token or after, so TTFT + decode is the served form's cycle.

In a static batch all begin together: TTFT is the served form's prefill, TPOT its decode.

Mean-value analysis: M. Reiser, S. S. Lavenberg, "Mean-Value Analysis of Closed Multichain Queuing Networks", J. ACM 27
(1980).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.served.form import ServedForm

Batching = Literal["closed loop", "static batch"]
QUEUE: Final = ("chunk_tokens", "wait_steps", "queue_share", "together_share")
"""B, r, κ and β: after the coefficients of the served form."""


@dataclass(frozen=True)
class PromptStation:
    """The fixed choices; holds no coefficients. Hashable."""

    form: ServedForm
    batching: Batching = "closed loop"
    slots: int | None = None
    """Beyond them a request waits for one that ends before it begins; None: no limit."""

    @property
    def size(self) -> int:
        """Number of coefficients: the served form's, then in a closed loop ``QUEUE``."""
        return len(self.form.coefficients("s")) + (len(QUEUE) if self.batching == "closed loop" else 0)

    def coefficients(self) -> list[tuple[str, str]]:
        """Name and unit of each."""
        known = self.form.coefficients("s")
        if self.batching == "static batch":
            return known
        return [*known, *zip(QUEUE, ("token", "step", "1", "1"), strict=True)]

    def times(self, theta: Floats, m: Floats, n: Floats, c: Floats) -> tuple[Floats, Floats]:
        """TTFT and TPOT in s of whole numbers in flight.

        ``theta`` has the coefficients on its first axis and may have more behind it; sizes have one axis, the last of
        what is returned.
        """
        theta = np.asarray(theta, dtype=float)[..., None]
        working = c if self.slots is None else np.minimum(c, self.slots)
        of = self._closed if self.batching == "closed loop" else self._static
        ttft, tpot = of(theta, m, n, working)
        if self.slots is not None:
            ttft = ttft + (ttft + np.maximum(n - 1, 0) * tpot) * (c - working) / self.slots
        return ttft, tpot

    def _static(self, theta: Floats, m: Floats, n: Floats, c: Floats) -> tuple[Floats, Floats]:
        floors = 1.0 if self.form.prefill_joined else c
        ttft = theta[0] * floors + c * (theta[1] * m + theta[2] * m**2)
        return ttft, self._step(theta, m + n / 2, c)

    def _step(self, theta: Floats, context: Floats, b: Floats) -> Floats:
        """A decode step of b sequences."""
        step = theta[3] + (theta[4] + theta[5] * context) * b
        if self.form.experts_share is None:
            return np.asarray(step)
        # Part of a sequence needs part of its experts.
        share = self.form.distinct_experts(np.maximum(b, 1.0)) * np.minimum(b, 1.0)
        return np.asarray(step + theta[6] * share)

    def _closed(self, theta: Floats, m: Floats, n: Floats, c: Floats) -> tuple[Floats, Floats]:
        order = np.argsort(-c, kind="stable")
        m, n, counts = m[order], n[order], c[order]
        shape = (*theta.shape[1:-1], len(m))
        ttft, decode = np.zeros(shape), np.zeros(shape)
        queue, decoding = np.zeros(shape), np.zeros(shape)
        for k in range(1, int(counts[0]) + 1):
            # Those with fewer in flight have what they need.
            now = slice(0, int(np.searchsorted(-counts, -k, side="right")))
            at = m[now], n[now], queue[..., now], decoding[..., now]
            ttft[..., now], decode[..., now] = self._with_one_more(theta, k, *at)
            queue[..., now] = k * ttft[..., now] / (ttft[..., now] + decode[..., now])
            decoding[..., now] = k - queue[..., now]
        back = np.argsort(order, kind="stable")
        return ttft[..., back], (decode / np.maximum(n - 1, 1))[..., back]

    def _with_one_more(
        self, theta: Floats, k: int, m: Floats, n: Floats, queue: Floats, decoding: Floats
    ) -> tuple[Floats, Floats]:
        """TTFT and decode seconds of one among k, by what k − 1 have at the station and decoding."""
        chunk, wait, random, together = theta[-len(QUEUE) :]
        context = m + n / 2
        work = theta[1] * m + theta[2] * m**2
        # Of those that come together, a step takes as many as its tokens hold.
        packed = np.minimum(k - 1, np.maximum(chunk / m - 1, chunk / (2 * m)))
        ahead = np.minimum(random * queue + together * packed, k - 1)
        # That none of the others decodes, as if each did so independently.
        idle = (1 - decoding / (k - 1)) ** (k - 1) if k > 1 else np.ones_like(decoding)
        step = self._step(theta, context, decoding) - theta[3] * idle
        if self.form.prefill_joined:
            beside = step + theta[0] * idle
            own = np.maximum(1.0, m / chunk) * beside + work
            each, kept = m / chunk * beside + work, work
        else:
            own = each = kept = theta[0] + work
        ttft = own + wait * step + ahead * each
        decode = np.maximum(n - 1, 0) * self._step(theta, context, 1 + decoding) + (k - 1 - ahead) * kept
        return ttft, decode
