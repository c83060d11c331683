"""Prompts that begin alike: how much of each a prefix cache would have held, by the ids of its blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.core.arrays import Floats
from harness.deciding.logs.judge import Meaning, judge
from harness.deciding.logs.log import Log
from harness.deciding.logs.names import KeyPath
from harness.deciding.logs.records import raw_value, value_at
from harness.deciding.logs.rows import numbered_values


def cached_by_blocks(log: Log, meaning: Meaning) -> tuple[Floats, Floats, Floats, str]:
    """(input, output, cached tokens) of each request in file order, and what was assumed.

    A block counts as cached once any earlier request had it. At least the last token of a prompt is computed.
    """
    assert log.blocks is not None
    block = block_tokens(log)
    seen: set[Any] = set()
    parts: list[Floats] = []
    for places, values in numbered_values(log):
        verdict = judge(values, log.form, meaning, whole_file=False)
        m, n, good = verdict.input_tokens, verdict.output_tokens, verdict.reason == ""
        hits = np.zeros(m.shape)
        for k in np.flatnonzero(good):
            ids = _ids(places.records[k], log.blocks)
            hits[k] = next((i for i, each in enumerate(ids) if each not in seen), len(ids))
            seen.update(ids)
        cached = np.minimum(hits * block, m - 1)
        parts.append(np.array([m[good], n[good], cached[good]]))
    m, n, cached = np.concatenate(parts, axis=1) if parts else np.empty((3, 0))
    return (
        m,
        n,
        cached,
        (f"cached tokens are those of blocks of {block} that an earlier request had, as if the cache kept all of them"),
    )


def _ids(record: Any, path: KeyPath) -> Sequence[Any]:
    """A prompt's blocks. Tables hold them as text."""
    found = value_at(record, path)
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return ()
    return found if isinstance(found, list) and not any(isinstance(each, list | dict) for each in found) else ()


def block_tokens(log: Log) -> int:
    """Tokens of a block, from how many blocks the first prompts have; the form's own number where it fits."""
    whole, full = ((1.0, np.inf),) * 2
    for m, blocks in _lengths(log):
        # The last block may be part of one, or may be left out.
        whole = max(whole[0], m / blocks), min(whole[1], m / (blocks - 1) if blocks > 1 else np.inf)
        full = max(full[0], m / (blocks + 1)), min(full[1], m / blocks)
    for low, high in (whole, full):
        sizes = [log.form.block_tokens, *(2**k for k in range(3, 15))]
        if fitting := [size for size in sizes if low <= size <= high]:
            return fitting[0]
    return log.form.block_tokens


def _lengths(log: Log) -> Iterator[tuple[float, int]]:
    assert log.blocks is not None
    for record in log.table.sample:
        ids = _ids(record, log.blocks)
        tokens = raw_value(record, log.numbers["input"])
        if ids and isinstance(tokens, int | float) and tokens >= 1:
            yield float(tokens), len(ids)
