"""Vidur's traces, and the metrics of requests that it writes."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "vidur",
    "Vidur traces and request_metrics.csv",
    pairs=(
        ("num_prefill_tokens", "num_decode_tokens"),
        ("request_num_prefill_tokens", "request_num_decode_tokens"),
    ),
    cached=("request_num_prefill_tokens_cached", "request_cached_prefill_tokens"),
    total=("num_total_tokens", "request_num_tokens"),
    time=("arrived_at", "request_arrived_at"),
)
