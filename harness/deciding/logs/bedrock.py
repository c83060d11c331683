"""Amazon Bedrock: its converse interface's usage, and its logs of invocations."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "bedrock",
    "Amazon Bedrock usage and invocation logs",
    pairs=(
        ("input.inputTokenCount", "output.outputTokenCount"),
        ("inputTokenCount", "outputTokenCount"),
        ("usage.inputTokens", "usage.outputTokens"),
    ),
    marks=("inputTokenCount|cacheReadInputTokenCount|modelId",),
    cache_beside=True,
)
