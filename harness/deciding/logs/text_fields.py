"""Where a dataset's prompts and answers lie, and the turns of its chats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UserError
from harness.deciding.logs import form_called
from harness.deciding.logs.form import Record
from harness.deciding.logs.log import shown_columns
from harness.deciding.logs.names import KeyPath, Paths
from harness.deciding.logs.records import numbered_records
from harness.deciding.logs.tables import Table

Chat = tuple[dict[str, str], ...]
"""Messages, each with ``role`` and ``content``."""

CHAT_FIELDS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")
PAIRS = (
    (("instruction", "input"), ("output", "response")),
    (("system_prompt", "question"), ("response", "answer")),
    (("instruction", "context"), ("response",)),
    (("prompt",), ("completion", "response", "output", "answer", "chosen")),
    (("question",), ("answer", "response")),
    (("query",), ("response", "answer")),
    (("instruction",), ("output", "response", "completion")),
    (("input",), ("output", "target")),
)
"""Fields of prompts, all of which are one prompt, and of answers, the first of which is meant."""
ANSWERING = ("assistant", "gpt", "bot", "model", "ai", "chatgpt", "bing", "bard", "chatbot")
ROLES = {"human": "user", "user": "user", "prompter": "user", "system": "system", "tool": "tool", "function": "tool"}


@dataclass(frozen=True)
class Fields:
    """Where the texts lie: in a chat, or in fields of prompts and answers."""

    inputs: tuple[KeyPath, ...] = ()
    outputs: tuple[KeyPath, ...] = ()
    chat: KeyPath | None = None


def fields_of(table: Table, inputs: Sequence[str], outputs: Sequence[str]) -> Fields:
    """The fields named, or those recognised. Raises UserError for those that aren't there."""
    paths = table.paths
    if bool(inputs) != bool(outputs):
        raise UserError("name both sides: --input-field and --output-field, or neither")
    if not inputs:
        return _recognised(table, paths)
    absent = [name for name in (*inputs, *outputs) if _path(paths, name) is None]
    if absent:
        raise UserError(f"{table.path} has no field {', '.join(absent)}; it has {shown_columns(table)}")
    found = [[path for name in names if (path := _path(paths, name))] for names in (inputs, outputs)]
    if found[0] == found[1] and len(found[0]) == 1:
        return Fields(chat=found[0][0])
    if set(found[0]) & set(found[1]):
        raise UserError("--input-field and --output-field name the same field, which only a chat has for both sides")
    return Fields(tuple(found[0]), tuple(found[1]))


def _path(paths: Paths, name: str) -> KeyPath | None:
    """A field by its exact name, or else by its spelling's letters."""
    exact = {".".join(path): path for path in (*paths.holders.values(), *paths.lists.values(), *paths.leaves.values())}
    return exact.get(name) or paths.find(name, holders=True)


def _recognised(table: Table, paths: Paths) -> Fields:
    for name in CHAT_FIELDS:
        path = paths.find(name, holders=True)
        if path is not None and any(_is_chat(_at(record, path)) for record in table.sample):
            return Fields(chat=path)
    for inputs, outputs in PAIRS:
        found = [paths.find(name, holders=True) for name in inputs]
        answer = next((path for name in outputs if (path := paths.find(name, holders=True))), None)
        if answer is not None and all(path is not None and path != answer for path in found):
            return Fields(tuple(path for path in found if path is not None), (answer,))
    raise UserError(
        f"{table.path} has no fields of prompts and answers that are known; it has {shown_columns(table)}. "
        "Name them with --input-field and --output-field (a.b.c for nested ones)"
    )


def _at(record: Any, path: KeyPath) -> Any:
    for key in path:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _is_chat(value: Any) -> bool:
    return bool(chats_of(value)) or bool(messages_of(value))


def chats_of(value: Any) -> list[tuple[Chat, str]]:
    """For each answer in a chat all that came before it, and the answer."""
    messages = messages_of(value)
    return [
        (tuple(messages[:k]), message["content"])
        for k, message in enumerate(messages)
        if message["role"] == "assistant" and k > 0
    ]


def messages_of(value: Any) -> list[dict[str, str]]:
    """Messages as role and content, in every way that datasets write them; empty for what is no chat."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if isinstance(value, Mapping):
        value = value.get("messages") or value.get("conversations") or []
    if not isinstance(value, list):
        return []
    if value and all(isinstance(each, str) for each in value):
        return [{"role": ("user", "assistant")[k % 2], "content": each} for k, each in enumerate(value)]
    if not all(isinstance(each, Mapping) for each in value):
        return []
    return [{"role": _role(each), "content": _content(each)} for each in value]


def _role(message: Mapping[str, Any]) -> str:
    said = str(message.get("role") or message.get("from") or message.get("speaker") or "").lower()
    return "assistant" if said in ANSWERING else ROLES.get(said, "user")


def _content(message: Mapping[str, Any]) -> str:
    """A message's text; the text parts of one that has parts."""
    found = message.get("content", message.get("value", message.get("text")))
    if isinstance(found, list):
        parts = (part if isinstance(part, str) else part.get("text") for part in found if isinstance(part, str | dict))
        return "\n".join(str(part) for part in parts if part)
    return "" if found is None else str(found)


def dataset_rows(table: Table) -> Iterator[tuple[str, Record]]:
    """Each row of a dataset with where it stands."""
    rows = numbered_records(table, form_called("columns"))
    for number, (_, wrong, record) in enumerate(rows, start=1):
        if wrong:
            raise UserError(f"{table.path} row {number} {wrong.lstrip(': ')}: mend the file")
        yield f"row {number}", record
