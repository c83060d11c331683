"""LiteLLM's daily spend: each row sums up a day."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "litellm-daily",
    "LiteLLM daily spend (sums by day)",
    pairs=(("prompt_tokens", "completion_tokens"),),
    marks=("spend", "api_requests|successful_requests"),
    cache_beside=False,
    rows="sums",
    count=("successful_requests", "api_requests"),
)
