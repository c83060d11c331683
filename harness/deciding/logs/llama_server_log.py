"""What llama.cpp's server prints: the timings of each request, and above them how long its prompt was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from harness.deciding.logs.form import LogForm, Record

TASK = re.compile(r"\btask (\d+)")
WHOLE = re.compile(r"\b(?:n_prompt_tokens|task\.n_tokens) = ([\d,]+)")
COMPUTED = re.compile(r"prompt eval time =.*?/\s*([\d,]+) tokens")
PRODUCED = re.compile(r"(?<!prompt )eval time =.*?/\s*([\d,]+) (?:tokens|runs)")


def read_timings(file: TextIO) -> Iterator[Record]:
    """One record for each request that the server printed timings of."""
    whole: dict[str, int] = {}
    task, computed = "", None
    for line in file:
        if found := TASK.search(line):
            task = found[1]
        if found := WHOLE.search(line):
            whole[task] = _number(found[1])
        elif found := COMPUTED.search(line):
            computed = _number(found[1])
        elif (found := PRODUCED.search(line)) and computed is not None:
            prompt = whole.pop(task, None)
            known = prompt is not None and prompt >= computed
            yield {
                "prompt_tokens": prompt if known else computed,
                "predicted_tokens": _number(found[1]),
                "cached_tokens": prompt - computed if known and prompt is not None else None,
            }
            computed = None


def _number(text: str) -> int:
    return int(text.replace(",", ""))


FORM = LogForm(
    "llama-server-log",
    "what llama-server prints",
    pairs=(("prompt_tokens", "predicted_tokens"),),
    lines=read_timings,
    first_words="prompt eval time =",
)
