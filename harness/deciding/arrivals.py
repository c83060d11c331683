"""When the requests of a log came, for sending them again at those times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from harness.core.errors import UserError
from harness.core.sizes import MAX_ARRIVAL_S, MAX_ARRIVALS, Arrival
from harness.deciding.trace_files import describe, refuse_broken_rows, rows_of, token_columns

TIME_COLUMNS = ("timestamp", "arrival_time", "arrived_at", "arrival_s", "offset_s", "time", "time_s", "ts", "datetime")
"""Names of the column of times that are recognised, in any case, the first that is there."""
_EPOCH_UNITS = (("nanoseconds", 1e17, 1e9), ("microseconds", 1e14, 1e6), ("milliseconds", 1e11, 1e3))
"""Units of times since 1970, from which number on they are meant, and how many are a second."""


def read_arrivals(path: Path, input_column: str | None = None, output_column: str | None = None) -> tuple[Arrival, ...]:
    """The requests of a log in the order of their times, in seconds after the first.

    Times are dates in ISO 8601, seconds since 1970 or any other start, or milli-, micro- or nanoseconds since 1970; all
    of a log alike. They may be in any order: servers log requests as they end. Raises UserError for a log without
    times, for rows that are no requests, for more than a million and for more than 11 days.
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
    refuse_broken_rows(table, m_column, n_column)
    times: list[object] = []
    sizes: list[tuple[int, int]] = []
    for rows in rows_of(table, [time_column, m_column, n_column], batch=10_000):
        times += [time for time, _, _ in rows]
        sizes += [(int(float(str(m))), int(float(str(n)))) for _, m, n in rows]
        if len(times) > MAX_ARRIVALS:
            raise UserError(f"{path} has more than {MAX_ARRIVALS} requests; give a part of it")
    if len(times) < 2:
        raise UserError(f"{path} has {len(times) or 'no'} request{'s' * (not times)}: a load needs at least 2")
    found = sorted((time_s, *size) for time_s, size in zip(_seconds(path, times), sizes, strict=True))
    start_s, end_s = found[0][0], found[-1][0]
    if end_s - start_s > MAX_ARRIVAL_S:
        raise UserError(f"{path} lasts {(end_s - start_s) / 86_400:.0f} days; give a part of it of at most 11 days")
    return tuple(Arrival(time_s - start_s, m, n) for time_s, m, n in found)


def _seconds(path: Path, times: Iterable[object]) -> list[float]:
    """Times in seconds after any start. Raises UserError for one that is none, or is written in another way."""
    read = [_read(path, time) for time in times]
    units = {unit for unit, _ in read}
    if len(units) > 1:
        raise UserError(f"{path} has times in {' and in '.join(sorted(units))}; write all of them in one way")
    return [time_s for _, time_s in read]


def _read(path: Path, time: object) -> tuple[str, float]:
    """How a time is written, and what it is in s."""
    if isinstance(time, datetime):
        return "dates", time.replace(tzinfo=time.tzinfo or UTC).timestamp()
    said = "" if time is None else str(time).strip()
    if not said:
        raise UserError(f"{path}: a request has no time")
    try:
        number = float(said)
    except ValueError:
        try:
            date = datetime.fromisoformat(_six_digits(said))
        except ValueError:
            raise UserError(
                f"{path}: '{said[:40]}' is no time; write dates as 2024-05-10 00:00:00.5, or seconds"
            ) from None
        return "dates", date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    if not abs(number) < 1e20:
        raise UserError(f"{path}: '{said[:40]}' is no time")
    for unit, least, per_s in _EPOCH_UNITS:
        if abs(number) >= least:
            return unit, number / per_s
    return "seconds", number


def _six_digits(date: str) -> str:
    """A date whose fraction of a second has as many digits as Python reads; some logs write seven."""
    head, dot, fraction = date.partition(".")
    digits = len(fraction) - len(fraction.lstrip("0123456789"))
    return f"{head}{dot}{fraction[: min(digits, 6)]}{fraction[digits:]}"
