"""OpenTelemetry's gen_ai attributes, and those of OpenInference and OpenLLMetry, as spans or as columns."""

from harness.deciding.logs.form import CACHED, LogForm, Skip

FORM = LogForm(
    "otel",
    "OpenTelemetry gen_ai spans (also OpenInference, OpenLLMetry)",
    pairs=(
        ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
        ("gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"),
        ("llm.usage.prompt_tokens", "llm.usage.completion_tokens"),
        ("llm.token_count.prompt", "llm.token_count.completion"),
    ),
    marks=(
        "gen_ai.usage.input_tokens|gen_ai.usage.prompt_tokens|llm.token_count.prompt|llm.request.type|llm.vendor"
        "|traceloop.span.kind|llm.usage.total_tokens",
    ),
    mixed=True,
    cached=("gen_ai.usage.cache_read.input_tokens", "llm.token_count.prompt_details.cache_read", *CACHED),
    cache_read=("gen_ai.usage.cache_read_input_tokens",),
    cache_write=("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens"),
    cache_beside=False,
    no_sizes="no generation",
    total=("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    time=("startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime", "timestamp"),
    skips=(
        Skip(
            "no generation",
            ("gen_ai.operation.name",),
            other_than=("chat", "text_completion", "generate_content", "completion", "null", ""),
        ),
        Skip("no generation", ("openinference.span.kind",), other_than=("llm", "null", "")),
        Skip("failed", ("error.type",), filled=True),
    ),
)
