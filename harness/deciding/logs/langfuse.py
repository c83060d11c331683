"""Langfuse's observations: generations among spans and events."""

from harness.deciding.logs.form import CACHED, LogForm, Skip

FORM = LogForm(
    "langfuse",
    "Langfuse observations (generations)",
    pairs=(
        ("usageDetails.input", "usageDetails.output"),
        ("usage.input", "usage.output"),
        ("inputUsage", "outputUsage"),
        ("promptTokens", "completionTokens"),
        ("inputTokens", "outputTokens"),
    ),
    marks=("traceId", "completionStartTime|usageDetails|promptTokens|parentObservationId"),
    cached=("usageDetails.input_cached_tokens", *CACHED),
    cache_read=("usageDetails.cache_read_input_tokens", "usageDetails.input_cache_read", "cache_read_input_tokens"),
    cache_write=("usageDetails.cache_creation_input_tokens", "usageDetails.input_cache_creation"),
    cache_beside=True,
    no_sizes="no generation",
    reasoning=("usageDetails.output_reasoning_tokens", "usageDetails.output_reasoning"),
    reasoning_beside=True,
    total=("usageDetails.total", "totalUsage", "usage.total", "totalTokens"),
    time=("startTime",),
    skips=(
        Skip("no generation", ("type",), other_than=("generation", "null", "")),
        Skip("not counted in tokens", ("usage.unit",), other_than=("tokens", "token", "null", "")),
    ),
)
