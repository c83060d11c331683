"""Ollama's responses. A prompt that was all in the cache has no prompt_eval_count."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "ollama",
    "Ollama responses",
    pairs=(("prompt_eval_count", "eval_count"),),
    no_input="cached prompt",
    time=("created_at",),
)
