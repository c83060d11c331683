"""Anthropic's usage export and usage interface: each row sums up the requests of a period, without their count."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "anthropic-usage",
    "Anthropic usage export or usage interface (sums by day, without counts)",
    pairs=(
        ("usage_input_tokens_no_cache", "usage_output_tokens"),
        ("uncached_input_tokens", "output_tokens"),
        ("input_tokens_no_cache", "output_tokens"),
    ),
    cache_read=("cache_read_input_tokens", "usage_input_tokens_cache_read"),
    cache_write=(
        "ephemeral_5m_input_tokens+ephemeral_1h_input_tokens",
        "usage_input_tokens_cache_write_5m+usage_input_tokens_cache_write_1h",
    ),
    cache_beside=True,
    rows="sums",
)
