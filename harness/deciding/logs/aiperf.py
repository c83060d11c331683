"""AIPerf's profile_export.jsonl: each metric has a value and a unit."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "aiperf",
    "AIPerf profile_export.jsonl",
    pairs=(
        ("metrics.input_sequence_length.value", "metrics.output_sequence_length.value"),
        ("metrics.input_sequence_length.value", "metrics.output_token_count.value"),
    ),
    cached=("metrics.usage_prompt_cache_read_tokens.value",),
    reasoning=(),
    total=(),
    time=("metadata.request_start_ns",),
)
