"""When the requests of a log came, for sending them again at those times."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from harness.core.errors import UserError
from harness.core.sizes import Arrival
from harness.deciding.trace_files import describe, rows_of, token_columns

TIME_COLUMNS = ("timestamp", "arrival_time", "arrived_at", "arrival_s", "offset_s", "time", "time_s", "ts", "datetime")
"""Names of the column of times that are recognised, in any case, the first that is there."""
_MOST = 1_000_000
_EPOCH_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""From which number on times since 1970 are in nano-, micro- or milliseconds, and how many of these are a second."""


def read_arrivals(path: Path, input_column: str | None = None, output_column: str | None = None) -> tuple[Arrival, ...]:
    """The requests of a log in the order of their times, in seconds after the first.

    Times are dates in ISO 8601, seconds since 1970 or any other start, or milli-, micro- or nanoseconds since 1970.
    Raises UserError for a log without times, for rows that are no requests, and for more than a million.
    """
    table = describe(path)
    m_column, n_column = token_columns(table, input_column, output_column)
    present = {name.strip().lower(): name for name in table.columns}
    time_column = next((present[name] for name in TIME_COLUMNS if name in present), None)
    if time_column is None:
        raise UserError(
            f"{path} doesn't say when requests came: it has no column {', '.join(TIME_COLUMNS)}; "
            "for random arrivals give --rate 2/s in its place"
        )
    found: list[tuple[float, int, int]] = []
    for rows in rows_of(table, [time_column, m_column, n_column], batch=10_000):
        for time, m, n in rows:
            found.append((_seconds(path, time), _tokens(path, m), _tokens(path, n)))
        if len(found) > _MOST:
            raise UserError(f"{path} has more than {_MOST} requests; give a part of it")
    if len(found) < 2:
        raise UserError(f"{path} has {len(found)} requests: a load needs at least 2")
    found.sort()
    start_s = found[0][0]
    return tuple(Arrival(time_s - start_s, m, n) for time_s, m, n in found)


def _seconds(path: Path, time: object) -> float:
    if isinstance(time, datetime):
        return time.replace(tzinfo=time.tzinfo or UTC).timestamp()
    try:
        number = float(str(time))
    except ValueError:
        try:
            date = datetime.fromisoformat(_six_digits(str(time).strip()))
        except ValueError:
            raise UserError(f"{path}: '{time}' is no time; write dates as 2024-05-10 00:00:00.5, or seconds") from None
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    if not abs(number) < 1e20:
        raise UserError(f"{path}: '{time}' is no time")
    return number / next((per_s for least, per_s in _EPOCH_UNITS if abs(number) >= least), 1.0)


def _six_digits(date: str) -> str:
    """A date whose fraction of a second has as many digits as Python reads; some logs write seven."""
    head, dot, fraction = date.partition(".")
    digits = len(fraction) - len(fraction.lstrip("0123456789"))
    return f"{head}{dot}{fraction[: min(digits, 6)]}{fraction[digits:]}"


def _tokens(path: Path, count: object) -> int:
    try:
        number = float(str(count))
    except ValueError:
        number = 0.0
    if not (number >= 1 and number == int(number) and number <= 1e7):
        raise UserError(f"{path}: a request has {count!r} tokens; input and output need whole numbers of at least 1")
    return int(number)
