"""Requests in GuideLLM's benchmarks.json, by how they ended."""

from harness.deciding.logs.form import LogForm, Skip

FORM = LogForm(
    "guidellm",
    "guidellm benchmarks.json",
    pairs=(
        ("prompt_tokens", "output_tokens"),
        ("input_metrics.total_tokens", "output_metrics.total_tokens"),
        ("input_metrics.text_tokens", "output_metrics.text_tokens"),
    ),
    marks=("request_id", "request_latency|output_metrics|time_to_first_token_ms|scheduler_info"),
    total=("total_tokens",),
    time=("request_start_time", "start_time"),
    skips=(
        Skip("cancelled", ("in_list",), ("incomplete",)),
        Skip("failed", ("in_list",), ("errored",)),
    ),
)
