"""llama-bench's table for people, ``-o md``: tests such as ``pp512``, ``tg128 @ d512``, ``pp512+tg128`` in tokens/s."""

from __future__ import annotations

import re
from dataclasses import replace

from harness.core.errors import UserError
from harness.modelling.table_forms.form import Converted, Sheet, TableForm, TableRow
from harness.modelling.table_forms.llama_bench import bench_requests

_TEST = re.compile(r"(?:pp(\d+))?\+?(?:tg(\d+))?(?:\s*@\s*d(\d+))?")
_COLUMNS = ("n_prompt", "n_gen", "n_depth", "avg_ns")


def _requests(sheet: Sheet) -> Converted:
    rows = tuple(TableRow(row.label, _as_recorded(sheet, row)) for row in sheet.rows)
    return bench_requests(replace(sheet, rows=rows, columns=_COLUMNS))


def _as_recorded(sheet: Sheet, row: TableRow) -> dict[str, float]:
    """The same test as llama-bench's other outputs have it."""
    test = _TEST.fullmatch(str(sheet.value(row, "test")).strip())
    speed = str(sheet.value(row, "t/s")).split("±")[0].strip()
    prompt, steps, depth = (float(count or 0) for count in test.groups()) if test else (0.0, 0.0, 0.0)
    try:
        tokens_per_s = float(speed)
    except ValueError:
        tokens_per_s = 0.0
    if not prompt + steps or not tokens_per_s > 0:
        raise UserError(f"{sheet.path}, {row.label}: no test of llama-bench and its tokens per second")
    return dict(zip(_COLUMNS, (prompt, steps, depth, 1e9 * (prompt + steps) / tokens_per_s), strict=True))


FORM = TableForm(
    name="llama-bench-table",
    what="llama-bench -o md (llama.cpp)",
    marks=("model", "test", "t/s"),
    convert=_requests,
    only=True,
    model=("model",),
    system=(
        "size",
        "params",
        "backend",
        "ngl",
        "threads",
        "n_batch",
        "n_ubatch",
        "type_k",
        "type_v",
        "fa",
        "sm",
        "mmap",
    ),
)
