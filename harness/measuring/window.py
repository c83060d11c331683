"""The timed region: one window of back-to-back requests. Prints nothing."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from backends.base import Backend, BackendError, Completion, Request
from harness.measuring.undelayed import collector_off


@dataclass(frozen=True)
class WindowPlan:
    """How long a window lasts."""

    fewest: int
    """Requests that it has at least, …"""
    min_window_s: float = 0.0
    """… seconds that it lasts at least, …"""
    most: float = math.inf
    """… requests that it has at most, …"""
    last_start_s: float = math.inf
    """… and seconds after the first one's start after which none begins."""
    longest_pause_s: float = 0.0
    """Before each request but the first it rests for a random time up to this."""
    pause_seed: int = 0

    def over(self, requests: int, elapsed_s: float, enough: Callable[[], bool]) -> bool:
        """Whether it ends after so many requests; ``enough`` says whether whoever watches it wants no more."""
        if requests >= self.most or elapsed_s > self.last_start_s:
            return True
        return requests >= self.fewest and elapsed_s >= self.min_window_s and enough()


def run_window(
    backend: Backend,
    request: Request,
    plan: WindowPlan,
    begins: Callable[[], None] = lambda: None,
    ended: Callable[[], None] = lambda: None,
    enough: Callable[[], bool] = lambda: True,
) -> list[Completion]:
    """Run the same request again and again for as long as is planned.

    ``begins`` is called right before the first and ``ended`` right after the last of them; ``enough`` after each from
    which on the window may end: it must not wait.

    Raises BackendError when the backend did not process exactly the tokens that were asked for, and whatever the
    backend raises.
    """
    completions: list[Completion] = []
    shares = random.Random(plan.pause_seed)
    with collector_off():
        begins()
        while True:
            completions.append(backend.run(request))
            elapsed_s = (completions[-1].end_ns - completions[0].start_ns) / 1e9
            if plan.over(len(completions), elapsed_s, enough):
                break
            if plan.longest_pause_s:
                time.sleep(shares.random() * plan.longest_pause_s)
        ended()
    for completion in completions:
        produced = (completion.input_tokens, completion.output_tokens)
        if produced != (request.input_tokens, request.output_tokens):
            raise BackendError(
                f"asked for {request.input_tokens} input and {request.output_tokens} output tokens, "
                f"the backend processed {produced[0]} and {produced[1]}"
            )
    return completions
