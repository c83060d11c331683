"""Azure's traces of LLM inference, 2023 and 2024."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "azure",
    "Azure LLM inference traces",
    pairs=(("ContextTokens", "GeneratedTokens"),),
    time=("TIMESTAMP", "arrival_timestamp"),
)
