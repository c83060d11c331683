"""Count the tokens of a text dataset with a model's own tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import MissingDependency, UserError, pip_install
from harness.deciding.logs.form import Record
from harness.deciding.logs.records import value_at
from harness.deciding.logs.tables import describe, matching_files
from harness.deciding.logs.text_fields import Chat, Fields, chats_of, dataset_rows, fields_of, messages_of
from harness.deciding.trace_files import EXAMPLES
from harness.deciding.workload import Workload, from_pairs

BATCH = 1000


@dataclass(frozen=True)
class Counting:
    """Counts tokens with one tokenizer."""

    texts: Callable[[Sequence[str], bool], list[int]]
    """Takes texts and whether special tokens count; returns the number of tokens of each text."""
    chat: Callable[[Chat], int] | None
    """Tokens of a chat as the tokenizer's template writes it, up to where the answer begins; None without one."""


def build_workload(
    pattern: str,
    input_fields: Sequence[str],
    output_fields: Sequence[str],
    tokenizer: str,
    skip_bad: bool = False,
    chat_template: bool | None = None,
) -> Workload:
    """Tokenise the named text columns of CSV, Parquet or JSON files; several fields of one side are added up.

    Fields may be nested (``a.b.c``); without any they are recognised by their names. Chats (``messages``, ShareGPT's
    ``conversations``) give a request for each answer, whose prompt is all that came before. Prompts are counted with
    the special tokens that the tokenizer adds to one, once each, or as the chat template writes them
    (``chat_template``; None: for chats, where the tokenizer has one); answers without any. Rows that end up without
    input or output tokens are refused, or left out with ``skip_bad``. Raises UserError for files, fields or tokenizers
    that don't exist; MissingDependency.
    """
    counting = load_tokenizer(tokenizer)
    if chat_template and counting.chat is None:
        raise UserError(f"{tokenizer} has no chat template: leave out --chat-template")
    pairs: Counter[tuple[int, int]] = Counter()
    broken: list[str] = []
    for path in matching_files(pattern):
        table = describe(path)
        fields = fields_of(table, input_fields, output_fields)
        rows = dataset_rows(table)
        while batch := list(islice(rows, BATCH)):
            found, bad = _sizes(batch, fields, counting, chat_template)
            pairs.update(found)
            broken += [f"{path.name} {said}" for said in bad]
    if broken and not skip_bad:
        examples = "; ".join(broken[:EXAMPLES]) + (" …" if len(broken) > EXAMPLES else "")
        raise UserError(f"{pattern}: {len(broken):,} rows without tokens: {examples}. Leave them out with --skip-bad")
    if not pairs:
        raise UserError(f"{pattern} holds no row with input and output tokens")
    source = f"{pattern}, tokens counted with {tokenizer}"
    m, n = np.array(sorted(pairs)).T
    counts = [pairs[pair] for pair in sorted(pairs)]
    left_out = {"no tokens": len(broken)} if broken else {}
    made = from_pairs(Path(pattern).name, source, m, n, counts)
    return replace(made, dropped_rows=len(broken), left_out=left_out)


def _sizes(
    batch: Sequence[tuple[str, Record]], fields: Fields, counting: Counting, chat_template: bool | None
) -> tuple[list[tuple[int, int]], list[str]]:
    """Sizes of a batch of rows, and what is wrong with those that have none."""
    pairs, broken = [], []
    prompts: list[tuple[str, Chat | tuple[str, ...]]] = []
    answers: list[tuple[str, ...]] = []
    for where, record in batch:
        if fields.chat is None:
            if len(fields.inputs) == 1 and (messages := _listed(value_at(record, fields.inputs[0]))):
                prompts.append((where, tuple(messages)))
                answers.append(tuple(_text(where, value_at(record, path)) for path in fields.outputs))
                continue
            texts = tuple(_text(where, value_at(record, path)) for path in fields.inputs)
            by_template = chat_template and any(texts)
            prompts.append(
                (where, ({"role": "user", "content": "\n".join(filter(None, texts))},) if by_template else texts)
            )
            answers.append(tuple(_text(where, value_at(record, path)) for path in fields.outputs))
            continue
        turns = chats_of(value_at(record, fields.chat))
        if not turns:
            broken.append(f"{where} has no answer in its chat")
        prompts += [(where, before) for before, _ in turns]
        answers += [(answer,) for _, answer in turns]
    use_template = counting.chat is not None and chat_template is not False
    inputs = _inputs([prompt for _, prompt in prompts], counting, use_template)
    outputs = _summed(answers, counting, [False] * len(answers))
    for (where, _), m, n in zip(prompts, inputs, outputs, strict=True):
        if m is None:
            broken.append(f"{where} has a chat that the tokenizer's template refuses (--no-chat-template)")
        elif min(m, n) < 1:
            broken.append(f"{where} has {m} in, {n} out")
        else:
            pairs.append((m, n))
    return pairs, broken


def _inputs(prompts: Sequence[Chat | tuple[str, ...]], counting: Counting, use_template: bool) -> list[int | None]:
    found: list[int | None] = [None] * len(prompts)
    plain: list[tuple[int, tuple[str, ...]]] = []
    for k, prompt in enumerate(prompts):
        messages = [each for each in prompt if isinstance(each, dict)]
        if messages and use_template and counting.chat is not None:
            try:
                found[k] = counting.chat(tuple(messages))
            except Exception:  # a template raises what it likes, with texts of the chat perhaps
                found[k] = None
        else:
            plain.append((k, tuple(each["content"] if isinstance(each, dict) else each for each in prompt)))
    counts = _summed([texts for _, texts in plain], counting, [True] * len(plain))
    for (k, _), count in zip(plain, counts, strict=True):
        found[k] = count
    return found


def _summed(rows: Sequence[tuple[str, ...]], counting: Counting, special: Sequence[bool]) -> list[int]:
    """Tokens of each row's texts together; special tokens once a row, with its first text that says anything."""
    sums = [0] * len(rows)
    for with_special in (True, False):
        chosen = [
            (k, text)
            for k, texts in enumerate(rows)
            for i, text in enumerate(filter(None, texts))
            if (special[k] and i == 0) == with_special
        ]
        for (k, _), count in zip(chosen, counting.texts([text for _, text in chosen], with_special), strict=True):
            sums[k] += count
    return sums


def _listed(value: Any) -> list[dict[str, str]]:
    """Messages of a list of them; none of texts, which may look like anything."""
    return messages_of(value) if isinstance(value, list) and all(isinstance(each, dict) for each in value) else []


def _text(where: str, value: Any) -> str:
    """A text of a dataset; the last message of an answer that is a list of them. Raises UserError for other lists."""
    if isinstance(value, list | dict):
        messages = _listed(value)
        if not messages:
            raise UserError(f"{where} has a list or an object in place of a text: name the text in it, as a.b.c")
        return messages[-1]["content"]
    return "" if value is None else str(value)


def load_tokenizer(name_or_path: str) -> Counting:
    """A tokenizer from a folder, a ``tokenizer.json`` or the Hugging Face hub. Never runs code that comes with it.

    Raises UserError when there is none, MissingDependency without transformers.
    """
    try:
        from huggingface_hub.utils import logging as hub_logging
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError:
        raise MissingDependency(
            f"counting tokens needs transformers: install it with {pip_install('transformers>=5.14')}"
        ) from None
    # Its warnings about retries would stand before the one line that says what went wrong.
    hub_logging.set_verbosity_error()
    try:
        if name_or_path.endswith(".json"):
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=name_or_path)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parts raise
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"no tokenizer {name_or_path}: {first_line}") from None

    def count(texts: Sequence[str], special: bool) -> list[int]:
        if not texts:
            return []
        encoded = tokenizer(list(texts), add_special_tokens=special, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def count_chat(chat: Chat) -> int:
        # The template writes what begins a text itself: no special tokens beside it.
        written = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        return count([written], False)[0]

    return Counting(count, count_chat if getattr(tokenizer, "chat_template", None) else None)
