"""Responses of OpenAI's interfaces and of servers that speak them, alone, in logs, and as output of batches."""

from harness.deciding.logs.form import CACHED, LogForm, Skip

FORM = LogForm(
    "openai",
    "responses with usage: OpenAI chat, responses and batch output, vLLM, SGLang, OpenRouter, DeepSeek",
    pairs=(("usage.prompt_tokens", "usage.completion_tokens"), ("usage.input_tokens", "usage.output_tokens")),
    marks=("usage.prompt_tokens|usage.total_tokens|usage.input_tokens_details|usage.output_tokens_details",),
    mixed=True,
    cached=CACHED,
    skips=(Skip("cancelled", ("response.body.status",), ("cancelled",)),),
)
