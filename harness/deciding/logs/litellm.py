"""LiteLLM's spend logs. prompt_tokens are all of the prompt, whichever provider answered."""

from harness.deciding.logs.form import FALSE, LogForm, Skip

FORM = LogForm(
    "litellm",
    "LiteLLM spend logs",
    pairs=(("prompt_tokens", "completion_tokens"),),
    marks=("spend|response_cost", "call_type|api_key|model_group"),
    cache_beside=False,
    skips=(
        Skip(
            "no generation",
            ("call_type",),
            containing=("embedding", "rerank", "moderation", "transcription", "speech", "image"),
        ),
        Skip("failed", ("status",), ("failure", *FALSE)),
    ),
)
