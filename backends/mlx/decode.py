"""How one request runs on mlx-lm's cache, as its own ``generate_step`` does it, for several sequences of one length.

The input but its last token is processed in steps, of which only the cache is computed; the last token alone gives the
first output token. Each decode step is given to the device before the one before it is waited for.
"""

from __future__ import annotations

from typing import Any

STEP_TOKENS = 2048
"""Input tokens of one pass unless told: mlx-lm's ``prefill_step_size``."""
_CLEAR_EVERY = 256
"""Decode steps after which mlx-lm gives unused memory back."""


class Decoder:
    """Runs one request greedily, as often as asked. ``input_ids`` is of shape (concurrency, m).

    With ``cached`` off every output token comes from a prefill of everything before it, by a cache of its own.
    """

    def __init__(self, module: Any, input_ids: Any, output_tokens: int, step_tokens: int, cached: bool) -> None:
        self._module = module
        self._input_ids = input_ids
        self._steps = output_tokens - 1
        self._step_tokens = step_tokens
        self._cached = cached
        self._cache: list[Any] | None = None
        self._produced: list[Any] = []
        self.input_tokens = 0
        """Input tokens of each sequence that the last prefill processed."""

    def begin(self) -> None:
        """Forget the last run."""
        self._cache, self._produced, self.input_tokens = None, [], 0

    def prefill(self) -> None:
        """Process the input tokens and choose the first output token; returns when both are done."""
        import mlx.core as mx

        token, self._cache, self.input_tokens = self._first_token(self._input_ids)
        self._produced.append(token)
        mx.eval(token)

    def decode(self) -> None:
        """Choose the other output tokens; returns when all are there."""
        import mlx.core as mx

        sequence = self._input_ids
        for step in range(1, self._steps + 1):
            latest = self._produced[-1]
            if self._cached:
                token = self._next_token(latest, self._cache)
            else:
                sequence = mx.concatenate([sequence, latest], axis=1)
                token, _, _ = self._first_token(sequence)
            mx.async_eval(token)
            mx.eval(latest)
            self._produced.append(token)
            if step % _CLEAR_EVERY == 0:
                mx.clear_cache()
        mx.eval(self._produced[-1])

    def output_ids(self) -> list[list[int]]:
        """What was chosen: the tokens of each sequence."""
        import mlx.core as mx

        ids: Any = mx.concatenate(self._produced, axis=1).tolist()
        return list(ids)

    def _first_token(self, ids: Any) -> tuple[Any, list[Any], int]:
        """The token after ``ids``, the cache that holds these, and how many of each sequence were processed."""
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(self._module)
        last = ids.shape[1] - 1
        processed = 0
        for first in range(0, last, self._step_tokens):
            part = ids[:, first : min(first + self._step_tokens, last)]
            self._module(part, cache=cache)
            mx.eval([layer.state for layer in cache])
            mx.clear_cache()
            processed += part.shape[1]
        token = self._next_token(ids[:, last:], cache)
        return token, cache, processed + 1

    def _next_token(self, ids: Any, cache: list[Any] | None) -> Any:
        """The token after ``ids`` of shape (concurrency, 1), which follow those in the cache; of the same shape."""
        logits = self._module(ids, cache=cache)
        return logits[:, -1].argmax(axis=-1, keepdims=True)


def cache_bytes(module: Any, tokens: int) -> int:
    """Bytes of one sequence's cache after so many tokens, found without computing anything.

    The passes are only written down: their shapes are known then.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(module)
    for first in range(0, tokens, STEP_TOKENS):
        module(mx.zeros((1, min(STEP_TOKENS, tokens - first)), mx.int32), cache=cache)
    states = tree_flatten([layer.state for layer in cache])
    return sum(state.nbytes for _, state in states if isinstance(state, mx.array))


def cache_class(module: Any) -> str:
    """Names of the classes of mlx-lm's cache for a model, such as ``KVCache``."""
    from mlx_lm.models.cache import make_prompt_cache

    return ", ".join(sorted({type(layer).__name__ for layer in make_prompt_cache(module)}))
