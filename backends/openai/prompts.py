"""What a request is made of: fresh random input tokens, put into the JSON that a kind of server takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from backends.base import InvalidConfig, Request

GOLDEN_SECTION = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class RequestForm:
    """How a kind of server takes a request. Every field can be written as JSON."""

    model: str
    first_id: int
    """Lowest token id that is drawn."""
    end_id: int
    """The first id above those that are drawn."""
    path: str = "/v1/completions"
    prompt_key: str = "prompt"
    """Field that takes the input; ``messages`` takes one message of a user."""
    length_keys: tuple[str, ...] = ("max_tokens",)
    """Fields that take n, such as ``("max_tokens", "min_tokens")``."""
    words: tuple[str, ...] = ()
    """For a server that takes text only: word k is written for id k. Empty where ids are sent."""
    template_tokens: int = 0
    """Tokens that the server adds to the input, such as those of a chat template: so many fewer are drawn."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields: ``ignore_eos``, ``stream_options``, ``cache_prompt`` …; ``stream`` is always true."""

    def __post_init__(self) -> None:
        if not 0 <= self.first_id < self.end_id:
            raise InvalidConfig(f"there are no token ids from {self.first_id} up to {self.end_id}; give a wider range")
        if self.words and self.end_id > len(self.words):
            raise InvalidConfig(f"there are {len(self.words)} words, too few for ids up to {self.end_id}")
        if self.prompt_key == "messages" and not self.words:
            raise InvalidConfig("a chat takes text; give words for it")

    def as_json(self) -> dict[str, Any]:
        """The fields, as ``form_from_json`` takes them."""
        return asdict(self)

    def body(self, request: Request, number: int) -> bytes:
        """The JSON of one request. Raises InvalidConfig where the template leaves no room for an input token."""
        drawn = request.input_tokens - self.template_tokens
        if drawn < 1:
            raise InvalidConfig(
                f"the server adds {self.template_tokens} tokens to every input; ask for at least "
                f"{self.template_tokens + 1}, not {request.input_tokens}"
            )
        lengths = dict.fromkeys(self.length_keys, request.output_tokens)
        fields = json.dumps({"model": self.model, **self.extra, **lengths, "stream": True})
        ids = draw_ids(self.first_id, self.end_id, drawn, request.seed, number)
        return f"{fields[:-1]}, {json.dumps(self.prompt_key)}: {self._input(ids)}}}".encode()

    def _input(self, ids: list[int]) -> str:
        if not self.words:
            return f"[{','.join(map(str, ids))}]"
        text = " ".join([self.words[k] for k in ids])
        return json.dumps([{"role": "user", "content": text}] if self.prompt_key == "messages" else text)


def form_from_json(fields: Mapping[str, Any]) -> RequestForm:
    """The form that ``as_json`` described, also after a way through a file."""
    listed = {name: tuple(fields[name]) for name in ("length_keys", "words")}
    return RequestForm(**{**fields, **listed})


def draw_ids(first_id: int, end_id: int, length: int, seed: int, number: int) -> list[int]:
    """``length`` random token ids from ``first_id`` up to, not with, ``end_id``, by a run's seed and request number.

    No prefix cache can serve them: with V = ``end_id`` − ``first_id``, any V requests in sequence begin with different
    ids. Beyond that first ids come again, and the first two together differ for V × V requests.
    """
    import numpy as np

    count = end_id - first_id
    wraps, place = divmod(number, count)
    generator = np.random.default_rng((seed, number))
    ids: list[int] = generator.integers(first_id, end_id, length).tolist()
    ids[0] = first_id + (place * _stride(count) + seed) % count
    if wraps and length > 1:
        # Whoever has the same first id has the second one counted up from the same start.
        start = draw_ids(first_id, end_id, 2, seed, place)[1] - first_id
        ids[1] = first_id + (start + wraps) % count
    return ids


def _stride(count: int) -> int:
    """A step that visits each of ``count`` ids before it comes back, far from its neighbours."""
    stride = max(1, round(count * GOLDEN_SECTION))
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride
