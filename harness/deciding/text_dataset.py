"""Count the tokens of a text dataset with a model's own tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.core.errors import MissingDependency, UserError, pip_install
from harness.deciding.trace_files import EXAMPLES, describe, matching_files, rows_of
from harness.deciding.workload import Workload, from_pairs

TokenCounter = Callable[[Sequence[str], bool], list[int]]
"""Takes texts and whether special tokens count; returns the number of tokens of each text."""

BATCH = 1000


def build_workload(
    pattern: str, input_fields: Sequence[str], output_fields: Sequence[str], tokenizer: str, skip_bad: bool = False
) -> Workload:
    """Tokenise the named text columns of CSV, Parquet or JSON files; several fields of one side are added up.

    Every input field is counted with the special tokens that the tokenizer adds to a prompt, output fields
    without any. Rows that end up without input or output tokens are refused, or left out with ``skip_bad``.
    Raises UserError for files, fields or tokenizers that don't exist; MissingDependency.
    """
    count_tokens = load_tokenizer(tokenizer)
    pairs: Counter[tuple[int, int]] = Counter()
    broken: list[str] = []
    for path in matching_files(pattern):
        row = 0
        for rows in rows_of(describe(path), [*input_fields, *output_fields], BATCH):
            texts = list(zip(*rows, strict=True))
            inputs = _tokens(count_tokens, texts[: len(input_fields)], True)
            outputs = _tokens(count_tokens, texts[len(input_fields) :], False)
            for pair in zip(inputs, outputs, strict=True):
                row += 1
                if min(pair) < 1:
                    broken.append(f"{path.name} row {row} has {pair[0]} in, {pair[1]} out")
                else:
                    pairs[pair] += 1
    if broken and not skip_bad:
        examples = "; ".join(broken[:EXAMPLES]) + (" …" if len(broken) > EXAMPLES else "")
        raise UserError(f"{pattern}: {len(broken):,} rows without tokens: {examples}. Leave them out with --skip-bad")
    if not pairs:
        raise UserError(f"{pattern} holds no row with input and output tokens")
    source = f"{pattern}, tokens counted with {tokenizer}"
    m, n = np.array(sorted(pairs)).T
    counts = [pairs[pair] for pair in sorted(pairs)]
    return replace(from_pairs(Path(pattern).name, source, m, n, counts), dropped_rows=len(broken))


def _tokens(count_tokens: TokenCounter, columns: Sequence[Sequence[object]], special: bool) -> list[int]:
    """Tokens of each row, added up over the columns."""
    counts = [count_tokens(["" if v is None else str(v) for v in column], special) for column in columns]
    return [sum(row) for row in zip(*counts, strict=True)]


def load_tokenizer(name_or_path: str) -> TokenCounter:
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
        encoded = tokenizer(list(texts), add_special_tokens=special, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    return count
