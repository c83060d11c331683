"""Datasets of texts: turns of chats, nested fields, chat templates, and one special token a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from harness.core.errors import UserError
from harness.deciding.text_dataset import build_workload
from harness.deciding.workload import Workload

TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    "{% if messages[0]['role'] == 'tool' %}{{ raise_exception(messages[0]['content']) }}{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words as tokens, <s> in front of every prompt; ``chatty`` has a chat template too."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizers")
    made = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.save(str(folder / "plain.json"))
    chatty = PreTrainedTokenizerFast(tokenizer_file=str(folder / "plain.json"), bos_token="<s>")
    chatty.chat_template = TEMPLATE
    chatty.save_pretrained(folder / "chatty")
    return folder


def sizes(w: Workload) -> list[tuple[int, int]]:
    assert (w.count == 1).all()
    return list(zip(w.input_tokens.tolist(), w.output_tokens.tolist(), strict=True))


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


MESSAGES = [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": "d e"}]
SHAREGPT = [
    {"from": "human", "value": "a b c"},
    {"from": "gpt", "value": "d e"},
    {"from": "human", "value": "f"},
    {"from": "gpt", "value": "g h i"},
]


@pytest.mark.parametrize("fields", [[], ["messages"]])
def test_a_chat_is_counted_by_its_turns(fields: list[str], folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", {"messages": MESSAGES})
    assert sizes(build_workload(path, fields, fields, str(folder / "plain.json"))) == [(4, 2)]
    assert sizes(build_workload(path, fields, fields, str(folder / "chatty"))) == [(6, 2)]
    assert sizes(build_workload(path, fields, fields, str(folder / "chatty"), chat_template=False)) == [(4, 2)]
    with pytest.raises(UserError, match="has no chat template"):
        build_workload(path, fields, fields, str(folder / "plain.json"), chat_template=True)


def test_every_answer_of_a_chat_is_a_request_with_all_before_as_its_prompt(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps([{"id": "x", "conversations": SHAREGPT}, {"id": "y", "conversations": SHAREGPT[1:2]}]))
    with pytest.raises(UserError, match=r"1 rows without tokens: sharegpt.json row 2 has no answer in its chat"):
        build_workload(str(path), [], [], str(folder / "plain.json"))
    w = build_workload(str(path), [], [], str(folder / "plain.json"), skip_bad=True)
    assert (sizes(w), w.left_out) == ([(4, 2), (7, 3)], {"no tokens": 1})
    assert sizes(build_workload(str(path), [], [], str(folder / "chatty"), skip_bad=True)) == [(6, 2), (11, 3)]


def test_chats_in_tables_are_found_too(folder: Path, tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.jsonl", {"messages": MESSAGES}), tmp_path / "a.parquet"
    duckdb.sql(f"COPY (FROM read_json('{source}')) TO '{target}'")
    assert sizes(build_workload(str(target), [], [], str(folder / "plain.json"))) == [(4, 2)]


def test_a_prompt_of_two_fields_has_one_special_token(folder: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "Say three words.", "input": "", "output": "one two three"}]
    rows.append({"instruction": "Add these numbers now", "input": "1 2 3", "output": "6"})
    path = write(tmp_path / "alpaca.jsonl", *rows)
    for fields in ((["instruction", "input"], ["output"]), ([], [])):
        assert sizes(build_workload(path, *fields, str(folder / "plain.json"))) == [(4, 3), (8, 1)]
    by_template = build_workload(path, [], [], str(folder / "chatty"), chat_template=True)
    assert sizes(by_template) == [(6, 3), (10, 1)]


def test_fields_may_be_nested_and_prompts_lists_of_messages(folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "n.jsonl", {"data": {"question": "a b", "answer": {"text": "c"}, "more": ["x"]}})
    plain = str(folder / "plain.json")
    assert sizes(build_workload(path, ["data.question"], ["data.answer.text"], plain)) == [(3, 1)]
    with pytest.raises(UserError, match=r"has no field data\.q; it has data\.question, data\.answer\.text"):
        build_workload(path, ["data.q"], ["data.answer.text"], plain)
    with pytest.raises(UserError, match="row 1 has a list or an object in place of a text"):
        build_workload(path, ["data.question"], ["data.more"], plain)
    path = write(tmp_path / "p.jsonl", {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]})
    assert sizes(build_workload(path, [], [], plain)) == [(4, 2)]


def test_what_a_template_refuses_is_named_without_its_text(folder: Path, tmp_path: Path) -> None:
    chat = [{"role": "tool", "content": "SECRET"}, {"role": "assistant", "content": "x"}]
    path = write(tmp_path / "c.jsonl", {"messages": chat})
    with pytest.raises(UserError, match="row 1 has a chat that the tokenizer's template refuses") as error:
        build_workload(path, [], [], str(folder / "chatty"))
    assert "SECRET" not in str(error.value)
    path = write(tmp_path / "u.jsonl", {"theme": "SECRET", "essay": "SECRET"})
    with pytest.raises(UserError, match="no fields of prompts and answers that are known; it has theme, essay"):
        build_workload(path, [], [], str(folder / "plain.json"))
