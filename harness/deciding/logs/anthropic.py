"""Anthropic's usage: input_tokens leaves out what was read from the cache and what was written to it."""

from harness.deciding.logs.form import LogForm, Skip

FORM = LogForm(
    "anthropic",
    "Anthropic messages: usage with cache_creation and cache_read beside input_tokens",
    pairs=(("input_tokens", "output_tokens"),),
    marks=("cache_creation_input_tokens|cache_read_input_tokens|cache_creation.ephemeral_5m_input_tokens",),
    identity=("message.id",),
    skips=(
        Skip(
            "no generation",
            ("type",),
            ("user", "system", "summary", "file-history-snapshot", "attachment", "progress", "queue-operation"),
            without_sizes=True,
        ),
    ),
)
