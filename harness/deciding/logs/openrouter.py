"""OpenRouter's activity export and its records of generations."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "openrouter",
    "OpenRouter activity export or generations",
    pairs=(
        ("native_tokens_prompt", "native_tokens_completion"),
        ("tokens_prompt", "tokens_completion"),
    ),
    marks=("native_tokens_prompt|tokens_prompt",),
)
