"""Responses of llama.cpp's server. tokens_cached is what lies in the cache afterwards, not what was read from it."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "llama-server",
    "llama-server responses",
    pairs=(
        ("tokens_evaluated", "tokens_predicted"),
        ("usage.prompt_tokens", "usage.completion_tokens"),
        ("timings.prompt_n", "timings.predicted_n"),
    ),
    marks=("timings.predicted_n|tokens_predicted",),
    cached=("prompt_tokens_details.cached_tokens",),
    cache_read=("timings.cache_n",),
)
