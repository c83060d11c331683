"""Columns of times of one log, as dates or as numbers, all in one way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding.logs.times import EPOCH_UNITS, LARGEST, date_s

_NOTHING = frozenset(("", "null", "none", "nan", "nat"))


def seconds_of(where: Path | str, columns: Sequence[NDArray[np.object_]]) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Times of several columns in s after one start, NaN where there is none; and where there is what is no time.

    Times are dates in ISO 8601, seconds since 1970 or any other start, or milli-, micro- or nanoseconds since 1970.
    Raises UserError for columns in different units.
    """
    read = [_column(where, column) for column in columns]
    units = {unit for unit, _, _ in read if unit is not None}
    if len(units) > 1:
        raise UserError(f"{where} has times in {' and in '.join(sorted(units))}; write all of them in one way")
    return [(seconds, wrong) for _, seconds, wrong in read]


def _column(where: Path | str, column: NDArray[np.object_]) -> tuple[str | None, Floats, NDArray[np.bool_]]:
    """How the times of a column are written, None where it has none; what they are in s; and which are none."""
    values = column.tolist()
    texts = ["" if value is None else str(value).strip() for value in values]
    there = np.array([text.lower() not in _NOTHING for text in texts], dtype=bool)
    try:
        numbers = np.array([text if known else "nan" for text, known in zip(texts, there, strict=True)], dtype=float)
    except ValueError:
        numbers = np.array([_number(text) for text in texts])
    numbers = np.where(np.abs(numbers) < LARGEST, numbers, np.nan)
    if np.isfinite(numbers).sum() * 2 < there.sum():
        dates = np.array([date_s(value) for value in values], dtype=float)
        return "dates", dates, there & np.isnan(dates)
    unit, seconds = _in_seconds(where, numbers)
    return unit, seconds, there & np.isnan(numbers)


def _in_seconds(where: Path | str, numbers: Floats) -> tuple[str | None, Floats]:
    known = np.abs(numbers[np.isfinite(numbers)])
    if not known.size:
        return None, numbers
    for unit, least, per_s in EPOCH_UNITS:
        if known.max() >= least:
            if known.min() < least:
                raise UserError(f"{where} has times in {unit} and in smaller numbers; write all of them in one way")
            return unit, numbers / per_s
    return "seconds", numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
