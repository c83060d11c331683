"""What tells kinds of servers apart, and what each kind is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backends.openai.control import Control
from backends.openai.metrics import Names
from backends.openai.stream import one_line

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Signs:
    """What every server shows: the entry of the model in ``/v1/models``, and that answer's headers."""

    card: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def owner(self) -> str:
        """Who owns the model, by its entry: most servers write their own name there."""
        owner = self.card.get("owned_by")
        return owner if isinstance(owner, str) else ""


@dataclass(frozen=True)
class Told:
    """What a server tells of itself; None and absent where it doesn't."""

    version: str | None = None
    context_length: int | None = None
    """Longest m + n of one request."""
    most_in_flight: int | None = None
    """Requests that it works on at once."""
    cache_tokens: int | None = None
    """Tokens for which its cache has keys and values, all requests together."""
    vocabulary_size: int | None = None
    architecture: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    dtype: str | None = None
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    """Flags and choices, by the server's own names."""


@dataclass(frozen=True)
class Form:
    """How a request is written for a server: what of, and with which fields beside the usual ones."""

    prompt: Literal["ids", "text", "chat"] = "ids"
    lengths: tuple[str, ...] = ("max_tokens",)
    """Fields that take the output tokens."""
    extra: Mapping[str, Any] = field(default_factory=dict)


USAGE = {"stream_options": {"include_usage": True}, "temperature": 0}
"""What every request has: the counts at the end of its stream, and greedy choice."""
IGNORE_EOS = {**USAGE, "ignore_eos": True}
RUNNING_USAGE = {**IGNORE_EOS, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
"""Counts in each piece: where several tokens come in one, how many. Token ids would tell it too, but vLLM and SGLang
send the whole prompt back with them, before the first token."""
EXACT_LENGTHS = ("max_tokens", "min_tokens")


@dataclass(frozen=True)
class Kind:
    """One kind of server."""

    name: str
    is_shown_by: Callable[[Signs], bool]
    ask: Callable[[Control, Signs], Told]
    forms: tuple[Form, ...]
    """Ways to write a request, best first: the first is taken that the server accepts and answers exactly."""
    figures: Names = field(default_factory=dict)
    metrics_path: str = "/metrics"
    no_metrics: str = "the server has no metrics"
    """Why there may be none, and what mends it."""
    in_flight_flags: tuple[str, ...] = ()
    """Flags of its command line that say how many requests it works on at once."""
    inexact: str | None = None
    """Why no request of exactly m and n tokens can be asked for; None where one can."""


def whole(value: Any) -> int | None:
    """A count as servers write it: a positive whole number of at most 64 bits, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63 else None


def word(found: Any, name: str) -> str | None:
    """The text of this name in what a server told; None where there is none."""
    value = found.get(name) if isinstance(found, dict) else None
    return (one_line(value) or None) if isinstance(value, str) else None


def picked(found: Any, names: tuple[str, ...]) -> dict[str, Scalar]:
    """The plain values of these names. Names are listed, since servers tell their keys among their settings."""
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name in names if isinstance(found.get(name), str | int | float | bool)}
