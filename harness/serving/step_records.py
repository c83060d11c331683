"""Steps as a server recorded them: which requests each one computed, and how many tokens of each.

JSON lines, a step a line, in the order of time:

    {"scheduled": {"req-1": 1, "req-2": 512}, "computed": {"req-2": 128}}

``scheduled`` is how many tokens of each request the step computed, prompt or output; ``computed`` how many of its
tokens had been before it, by default what earlier steps and the prefix cache add up to. It is of use where that is not
so, as after a preemption. These are ``num_scheduled_tokens`` and ``num_computed_tokens`` of vLLM's scheduler. Other
keys are passed over.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import UserError
from harness.serving.shares import StepParts

_LARGEST = 1 << 40


def read_steps(
    path: Path, ids: Sequence[str], input_tokens: Sequence[int], output_tokens: Sequence[int], cached: Sequence[int]
) -> StepParts:
    """The steps of a file; requests are numbered as ``ids`` has them.

    A part decodes where it begins past its request's prompt. Raises UserError for a file that is none, for requests
    that ``ids`` lacks and for requests of which the steps don't compute all tokens.
    """
    number = {name: place for place, name in enumerate(ids)}
    if len(number) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"the log has two requests {twice}: their steps can't be told apart")
    done = list(cached)
    rows: list[tuple[int, int, int, int]] = []
    step = 0
    for line, (scheduled, computed) in enumerate(_steps(path), start=1):
        for name, tokens in scheduled.items():
            if name not in number:
                raise UserError(f"{path} line {line} has a request {name[:60]}, which the log doesn't have")
            request = number[name]
            start = _count(path, line, computed[name]) if name in computed else done[request]
            done[request] = start + _count(path, line, tokens)
            if done[request] > start:
                rows.append((step, request, start, done[request]))
        step += bool(scheduled)
    if not rows:
        raise UserError(f"{path} holds no steps")
    # The last output token is produced and never computed on.
    short = [place for place, had in enumerate(done) if had < input_tokens[place] + output_tokens[place] - 1]
    if short:
        place = short[0]
        raise UserError(
            f"{path} has {done[place]:,} of the {input_tokens[place] + output_tokens[place] - 1:,} tokens that request "
            f"{ids[place][:60]} computed, and too few of {len(short):,} in all: give the steps of the whole log"
        )
    table = np.array(rows, dtype=np.int64)
    prompt = np.asarray(input_tokens, dtype=np.int64)[table[:, 1]]
    return StepParts(table[:, 0], table[:, 1], table[:, 2], table[:, 3], table[:, 2] >= prompt)


def _steps(path: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    said = json.loads(line)
                    scheduled, computed = said["scheduled"], said.get("computed") or {}
                    dict(scheduled), dict(computed)
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    raise UserError(
                        f'{path} line {number} is no step: write {{"scheduled": {{"request": tokens, …}}}}, one a line'
                    ) from None
                yield scheduled, computed
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"can't read {path}: {error}") from None


def _count(path: Path, line: int, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise UserError(f"{path} line {line}: {str(value)[:40]!r} is no count of tokens")
    return value
