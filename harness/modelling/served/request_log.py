"""What a log of one server's requests holds: sizes, and when each was queued, scheduled and answered."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError

_NAMES: Final = {
    "input_tokens": ("input_tokens", "input_toks"),
    "output_tokens": ("output_tokens", "output_toks"),
    "queued_s": ("queued_s", "queued_ts"),
    "scheduled_s": ("scheduled_s", "scheduled_ts"),
    "first_token_s": ("first_token_s", "first_token_ts"),
    "last_token_s": ("last_token_s", "last_token_ts"),
}
"""Columns by the field that they fill; vLLM's own names end in _ts."""


@dataclass(frozen=True)
class RequestLog:
    """Requests of one engine in the order in which they came, one entry each; times in seconds on one clock."""

    input_tokens: Floats
    output_tokens: Floats
    queued_s: Floats
    scheduled_s: Floats
    """When the engine first took it into a step; as queued where the log doesn't tell."""
    first_token_s: Floats
    last_token_s: Floats

    def __len__(self) -> int:
        return len(self.input_tokens)

    def only(self, chosen: slice | NDArray[np.bool_]) -> RequestLog:
        """The chosen requests."""
        return RequestLog(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def joined(self, other: RequestLog) -> RequestLog:
        """These requests, then those of another log on the same clock."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return RequestLog(*map(np.concatenate, pairs))

    @property
    def e2e_s(self) -> Floats:
        """From queued to the last token."""
        return self.last_token_s - self.queued_s

    @property
    def ttft_s(self) -> Floats:
        """From queued to the first token."""
        return self.first_token_s - self.queued_s

    @property
    def tpot_s(self) -> Floats:
        """Time per output token after the first; NaN where there was one."""
        steps = self.output_tokens - 1
        return np.where(steps > 0, (self.last_token_s - self.first_token_s) / np.maximum(steps, 1), np.nan)


def read_request_times(path: Path) -> RequestLog:
    """From a CSV or JSONL file with ``_NAMES``, in order of arrival. Raises UserError for one that doesn't hold it."""
    import pandas as pd

    try:
        lines = path.suffix in (".jsonl", ".ndjson")
        table = pd.read_json(path, lines=True) if lines else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; a request log is a CSV or JSONL file") from error
    columns: dict[str, Floats] = {}
    for name, known in _NAMES.items():
        column = next((column for column in known if column in table), None)
        if column is not None:
            columns[name] = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)
    columns.setdefault("scheduled_s", columns.get("queued_s", np.empty(0)))
    if missing := [name for name in _NAMES if name not in columns]:
        raise UserError(f"{path} has no column {', '.join(missing)}: a request log needs {', '.join(_NAMES)}")
    log = RequestLog(**columns)
    _check(path, log)
    return log.only(np.argsort(log.queued_s, kind="stable"))  # type: ignore[arg-type]


def _check(path: Path, log: RequestLog) -> None:
    """Raises UserError that names the first line that can't be."""
    values = np.stack([getattr(log, field.name) for field in fields(log)])
    wrong = {
        "a value is missing or no number": ~np.isfinite(values).all(axis=0),
        "token counts are whole numbers of at least 1": ((values[:2] < 1) | (values[:2] % 1 != 0)).any(axis=0),
        "times must rise from queued to scheduled, first and last token": (np.diff(values[2:], axis=0) < 0).any(axis=0),
    }
    for what, rows in wrong.items():
        if rows.any():
            raise UserError(f"{path}, request {int(np.argmax(rows)) + 1}: {what}")
    if not len(log):
        raise UserError(f"{path} holds no request")
