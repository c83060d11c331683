"""OpenAI's usage export and usage interface: each row sums up the requests of an hour or a day."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "openai-usage",
    "OpenAI usage export or usage interface (sums by hour or day)",
    pairs=(("input_tokens", "output_tokens"), ("n_context_tokens_total", "n_generated_tokens_total")),
    marks=("num_model_requests|n_requests",),
    cached=("input_cached_tokens", "n_cached_context_tokens_total"),
    rows="sums",
    count=("num_model_requests", "n_requests"),
)
