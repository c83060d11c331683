"""Columns that call themselves totals: each row sums up many requests."""

from harness.deciding.logs.form import SIZE_COUNT, SUM_COUNT, LogForm

FORM = LogForm(
    "totals",
    "columns of total tokens, each row of many requests",
    pairs=(
        ("total_input_tokens", "total_output_tokens"),
        ("total_prompt_tokens", "total_completion_tokens"),
        ("input_tokens_total", "output_tokens_total"),
        ("prompt_tokens_total", "completion_tokens_total"),
        ("sum_input_tokens", "sum_output_tokens"),
        ("sum_prompt_tokens", "sum_completion_tokens"),
    ),
    rows="sums",
    count=(*SUM_COUNT, *SIZE_COUNT),
)
