"""What a form of request logs is: how it is recognised, and where its rows keep what.

Names are paths of keys, ``usage.prompt_tokens``. They match whatever ends with them, in any spelling: a path's letters
and digits count, so ``promptTokens`` and ``Prompt tokens`` are one name. Alternatives are tried in their order;
``a+b`` is the sum of both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

Names = tuple[str, ...]
Record = Mapping[str, Any]

TRUE = ("true", "1", "yes", "t", "y")
FALSE = ("false", "0", "no", "f", "n")
SAYS_NOTHING = (
    "",
    "null",
    "none",
    "nan",
    "{}",
    "[]",
    "0",
    "false",
    "no",
    "-",
    "n/a",
    "ok",
    "success",
    "na",
    "no error",
)

CACHED: Names = (
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "input_token_details.cache_read",
    "prompt_details.cache_read",
    "cache_read.input_tokens",
    "cached_tokens",
    "input_cached_tokens",
    "cached_input_tokens",
    "num_cached_tokens",
    "prompt_cached_tokens",
    "prompt_cache_hit_tokens",
    "cached_content_token_count",
    "native_tokens_cached",
    "tokens_cached",
)
"""Cached tokens that are counted in the input as well."""
CACHE_READ: Names = (
    "cache_read_input_tokens",
    "cache_read_input_token_count",
    "cache_read_tokens",
    "input_tokens_cache_read",
    "cache_read",
    "tokens_cache_read",
)
"""Cached tokens that stand beside an input counted without them, as Anthropic and Bedrock have it."""
CACHE_WRITE: Names = (
    "cache_creation_input_tokens",
    "cache_write_input_tokens",
    "cache_write_input_token_count",
    "cache_creation_tokens",
    "cache_write_tokens",
    "ephemeral_5m_input_tokens+ephemeral_1h_input_tokens",
    "cache_write_5m+cache_write_1h",
    "cache_creation",
    "cache_write",
)
REASONING: Names = (
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "output_token_details.reasoning",
    "reasoning_tokens",
    "reasoning.output_tokens",
    "reasoning_output_tokens",
    "native_tokens_reasoning",
    "tokens_reasoning",
    "reasoning_token_count",
    "thoughts_token_count",
    "thinking_tokens",
    "thoughts_tokens",
)
TOTAL: Names = (
    "total_tokens",
    "total_token_count",
    "usage.total",
    "usage_details.total",
    "num_total_tokens",
    "tokens_total",
)
SIZE_COUNT: Names = ("count", "frequency", "freq", "weight", "occurrences", "num_occurrences")
SUM_COUNT: Names = (
    "num_model_requests",
    "n_requests",
    "num_requests",
    "request_count",
    "requests_count",
    "number_of_requests",
    "total_requests",
    "model_requests",
    "api_requests",
    "requests",
    "call_count",
    "num_calls",
    "calls",
)
BATCH_SIZE: Names = ("batch_size",)
TIME: Names = (
    *("timestamp", "arrival_time", "arrived_at", "arrival_s", "offset_s", "time", "time_s", "ts", "datetime"),
    *("arrival_timestamp", "start_time", "request_start_time", "request_start_ns", "created_at", "created"),
    *("start_time_unix_nano", "create_time", "date"),
)


@dataclass(frozen=True)
class Skip:
    """Rows that are no answered request. They are left out, and counted by the reason."""

    reason: str
    names: Names
    values: Names = ()
    """A row with one of these values, in lower case."""
    containing: Names = ()
    """A row whose value has one of these in it."""
    filled: bool = False
    """A row whose value says anything."""
    from_number: float | None = None
    """A row whose value is a number of at least this."""
    other_than: Names = ()
    """A row whose value is there and none of these."""
    without_sizes: bool = False
    """Only rows that have no token counts."""


STATUS: Names = ("status", "state", "outcome", "response.status", "request_status")
HTTP_STATUS: Names = ("status_code", "http_status", "http_status_code", "response_code", "status", "response.status")
SKIPS = (
    Skip("answered from a cache", ("cache_hit", "from_cache", "is_cached", "cache_status"), (*TRUE, "hit")),
    Skip("answered from a cache", ("cached",), ("true",)),
    Skip("cancelled", ("was_cancelled", "cancelled", "canceled", "is_cancelled", "aborted"), TRUE),
    Skip(
        "cancelled",
        (*STATUS, "finish_reason", "finish_reason_normalized", "stop_reason", "error_type", "error.type"),
        ("cancelled", "canceled", "cancel", "aborted", "abort", "interrupted", "incomplete request"),
    ),
    Skip("cancelled", (*HTTP_STATUS, "error.code"), ("499",)),
    Skip(
        "failed",
        (*STATUS, "status_code", "status.code", "status.status_code", "finish_reason", "level"),
        (
            *("failed", "failure", "fail", "error", "errored", "timeout", "timed_out", "rejected", "expired"),
            "status_code_error",
        ),
    ),
    Skip("failed", ("status.code",), ("2",)),
    Skip("failed", HTTP_STATUS, from_number=400),
    Skip("failed", ("success", "succeeded", "successful", "is_success", "is_successful"), FALSE),
    Skip("failed", ("failed", "is_error", "has_error", "errored"), TRUE),
    Skip(
        "failed",
        ("error", "errors", "error_message", "error_code", "error_type", "exception", "failure_reason"),
        filled=True,
    ),
    Skip("unfinished", STATUS, ("in_progress", "queued", "pending", "running", "started", "validating")),
    Skip("warm-up", ("is_warmup", "warmup", "warm_up"), TRUE),
    Skip("warm-up", ("benchmark_phase", "phase"), ("warmup", "warm-up", "warm_up")),
    Skip(
        "no generation",
        ("call_type", "operation", "operation_name", "operation.name", "endpoint", "request_type", "url"),
        containing=("embedding", "rerank", "moderation", "transcription", "speech", "image", "execute_tool"),
    ),
    Skip("part of a stream", ("object",), ("chat.completion.chunk", "text_completion.chunk"), without_sizes=True),
    Skip("part of a stream", ("done",), FALSE, without_sizes=True),
)
"""What every form leaves out, where it says so."""


@dataclass(frozen=True)
class LogForm:
    """A form of logs. All that isn't declared is looked for by the names that most logs use."""

    name: str
    what: str
    """One line for people: whose logs these are."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Names of input and output tokens. The first pair that a file has is used."""
    marks: Names = ()
    """Names that a file must have, ``a|b`` one of both, to be taken for this form."""
    mixed: bool = False
    """All pairs are used, the first that a row has: for logs of several interfaces."""
    cached: Names = CACHED
    cache_read: Names = CACHE_READ
    cache_write: Names = CACHE_WRITE
    cache_beside: bool | None = None
    """Whether ``cache_read`` and ``cache_write`` are not in the input; None: as the input's name says."""
    more_input: Names = ()
    """Tokens of the prompt beside the input."""
    reasoning: Names = REASONING
    reasoning_beside: bool = False
    """Whether reasoning is not in the output."""
    total: Names = TOTAL
    rest_is_output: bool = False
    """Whether what the total has more than the parts was produced."""
    rows: str = "requests"
    """``requests``; ``sizes``: each row stands for many of its size; ``sums``: each row sums up many."""
    count: Names = ()
    batches: bool = False
    """A row with a batch size stands for so many requests of its size."""
    time: Names = TIME
    time_per_s: float | None = None
    """Units of time in a second; None: seconds, or as large numbers since 1970 tell."""
    skips: tuple[Skip, ...] = ()
    """What this form leaves out beside ``SKIPS``, tried before them."""
    no_sizes: str | None = None
    no_input: str | None = None
    no_output: str | None = None
    """Why a row has no token counts, no input, or no output: left out for this reason instead of being broken."""
    identity: Names = ()
    """What is the same in rows of one request, which logs of parts of answers repeat: the longest output counts."""
    blocks: Names = ()
    """Ids of a prompt's blocks, by which repeated prefixes are known."""
    block_tokens: int = 0
    """Tokens of a block, where the lengths don't tell."""
    lines: Callable[[TextIO], Iterator[Record]] | None = field(default=None, compare=False)
    """Reads a log that is text; a form with it is recognised by ``first_words``."""
    first_words: str = ""
    refused: str | None = None
    """Why such a file can't be read, and what to do."""


def bare_name(name: str) -> str:
    """A path by its letters and digits: ``usage.promptTokens`` → ``usage.prompttokens``."""
    return re.sub(r"[^a-z0-9.]", "", name.lower())
