"""The timed region: one window of back-to-back requests. Prints nothing."""

import math
from collections.abc import Callable

from backends.base import Backend, BackendError, Completion, Request
from harness.measuring.undelayed import collector_off


def run_window(
    backend: Backend,
    request: Request,
    repeats: int,
    min_window_s: float,
    begins: Callable[[], None] = lambda: None,
    ended: Callable[[], None] = lambda: None,
    *,
    last_start_s: float = math.inf,
) -> list[Completion]:
    """Run the same request back to back, at least ``repeats`` times and for at least ``min_window_s``.

    None but the first is begun later than ``last_start_s`` after that one's start.

    ``begins`` is called right before the first and ``ended`` right after the last of them.

    Raises BackendError when the backend did not process exactly the tokens that were asked for, and whatever the
    backend raises.
    """
    completions: list[Completion] = []
    with collector_off():
        begins()
        while True:
            completions.append(backend.run(request))
            elapsed_s = (completions[-1].end_ns - completions[0].start_ns) / 1e9
            enough = len(completions) >= repeats and elapsed_s >= min_window_s
            if enough or elapsed_s > last_start_s:
                break
        ended()
    for completion in completions:
        produced = (completion.input_tokens, completion.output_tokens)
        if produced != (request.input_tokens, request.output_tokens):
            raise BackendError(
                f"asked for {request.input_tokens} input and {request.output_tokens} output tokens, "
                f"the backend processed {produced[0]} and {produced[1]}"
            )
    return completions
