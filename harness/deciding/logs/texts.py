"""Prompts and answers as texts: they have no token counts."""

from harness.deciding.logs.conversations import COUNT_FIRST
from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "texts",
    "prompts and answers as texts: joulebench workload build counts their tokens",
    marks=("instruction|prompt|question|query|input|user", "output|response|answer|completion|assistant|chosen"),
    refused=f"{COUNT_FIRST} --input-field FIELD --output-field FIELD",
)
