"""Gemini: thoughts are produced beside the candidates, and the total has everything."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "gemini",
    "Gemini usageMetadata: candidates, thoughts, cached content",
    pairs=(("promptTokenCount", "candidatesTokenCount"), ("prompt_tokens", "completion_tokens")),
    marks=("candidatesTokenCount",),
    cached=("cachedContentTokenCount",),
    more_input=("toolUsePromptTokenCount",),
    reasoning=("thoughtsTokenCount", "reasoning_tokens"),
    reasoning_beside=True,
    rest_is_output=True,
)
