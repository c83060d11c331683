"""Chats and other texts: they have no token counts."""

from harness.deciding.logs.form import LogForm

COUNT_FIRST = (
    "holds texts and no token counts: count them first with "
    "joulebench workload build --text FILE --tokenizer MODEL -o workload.json"
)

FORM = LogForm(
    "conversations",
    "chats (messages, ShareGPT): joulebench workload build counts their tokens",
    marks=("messages|conversations|conversation",),
    refused=COUNT_FIRST,
)
