"""Columns of times of one log, as dates or as numbers, all in one way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError

_EPOCH_UNITS = (("nanoseconds", 1e17, 1e9), ("microseconds", 1e14, 1e6), ("milliseconds", 1e11, 1e3))
"""Units of times since 1970, from which number on they are meant, and how many are a second."""
_NOTHING = frozenset(("", "null", "none", "nan", "nat"))


def seconds_of(where: Path | str, columns: Sequence[NDArray[np.object_]]) -> list[Floats]:
    """Times of several columns in s after one start, NaN where there is none.

    Times are dates in ISO 8601, seconds since 1970 or any other start, or milli-, micro- or nanoseconds since 1970.
    Raises UserError for what is no time, and for columns in different units.
    """
    read = [_column(where, column) for column in columns]
    units = {unit for unit, _ in read if unit is not None}
    if len(units) > 1:
        raise UserError(f"{where} has times in {' and in '.join(sorted(units))}; write all of them in one way")
    return [seconds for _, seconds in read]


def _column(where: Path | str, column: NDArray[np.object_]) -> tuple[str | None, Floats]:
    """How the times of a column are written, None where it has none, and what they are in s."""
    values = column.tolist()
    if any(isinstance(value, datetime) for value in values):
        return "dates", np.array([_date_s(value) if isinstance(value, datetime) else np.nan for value in values])
    texts = ["" if value is None else str(value).strip() for value in values]
    there = np.array([text.lower() not in _NOTHING for text in texts], dtype=bool)
    seconds = np.full(len(texts), np.nan)
    if not there.any():
        return None, seconds
    said = [text for text, known in zip(texts, there.tolist(), strict=True) if known]
    try:
        numbers = np.array(said, dtype=float)
    except ValueError:
        seconds[there] = [_date(where, text) for text in said]
        return "dates", seconds
    if not (np.abs(numbers) < 1e20).all():
        raise UserError(f"{where}: '{said[int(np.argmax(~(np.abs(numbers) < 1e20)))][:40]}' is no time")
    largest, least = float(np.abs(numbers).max()), float(np.abs(numbers).min())
    for unit, from_, per_s in _EPOCH_UNITS:
        if largest >= from_:
            if least < from_:
                raise UserError(f"{where} has times in {unit} and in smaller numbers; write all of them in one way")
            seconds[there] = numbers / per_s
            return unit, seconds
    seconds[there] = numbers
    return "seconds", seconds


def _date(where: Path | str, text: str) -> float:
    head, dot, fraction = text.partition(".")
    digits = len(fraction) - len(fraction.lstrip("0123456789"))
    try:
        # Python reads six digits of a second; some logs write more.
        return _date_s(datetime.fromisoformat(f"{head}{dot}{fraction[: min(digits, 6)]}{fraction[digits:]}"))
    except ValueError:
        raise UserError(
            f"{where}: '{text[:40]}' is no time; write dates as 2024-05-10 00:00:00.5, or seconds"
        ) from None


def _date_s(date: datetime) -> float:
    return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
