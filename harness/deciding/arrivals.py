"""When the requests of a log came, for sending them again at those times."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from harness.core.errors import UserError
from harness.core.sizes import MAX_ARRIVAL_S, MAX_ARRIVALS, Arrival
from harness.deciding.logs.form import TIME
from harness.deciding.logs.judge import judge, meaning_of
from harness.deciding.logs.log import open_log
from harness.deciding.logs.rows import timed_values
from harness.deciding.logs.tables import describe
from harness.deciding.logs.times import EPOCH_UNITS, LARGEST, date_s
from harness.deciding.trace_files import EXAMPLES, broken_rows, refusal
from harness.serving.simulation import Requests

TIME_COLUMNS = TIME[:9]
"""The shortest names of the column of times."""


def read_arrivals(
    path: Path, input_column: str | None = None, output_column: str | None = None, form: str | None = None
) -> tuple[Arrival, ...]:
    """The requests of a log in the order of their times, in seconds after the first.

    Times are dates in ISO 8601, seconds since 1970 or any other start, or milli-, micro- or nanoseconds since 1970; all
    of a log alike; the log's form may say otherwise. They may be in any order: servers log requests as they end. Rows
    that failed or were cancelled are left out, as in workloads. Raises UserError for a log without times, for rows that
    are no requests or stand for several, for more than a million and for more than 11 days.
    """
    log = open_log(describe(path), form, input_column, output_column)
    if log.time is None:
        raise UserError(
            f"{path} doesn't say when requests came: it has no column {', '.join(TIME_COLUMNS)}; "
            "for random arrivals give --rate 2/s in its place"
        )
    values, unreadable, times = timed_values(log, MAX_ARRIVALS)
    if len(times) > MAX_ARRIVALS:
        raise UserError(f"{path} has more than {MAX_ARRIVALS} requests; give a part of it")
    meaning = meaning_of(values, log.form, log.semicolons, log.native_input, log.headers)
    verdict = judge(values, log.form, meaning)
    if broken := int(verdict.broken.sum()) + unreadable:
        examples = [example for example, _ in zip(broken_rows(log, meaning), range(EXAMPLES), strict=False)]
        raise UserError(refusal(str(path), broken, examples, "Mend the file"))
    if meaning.rows != "requests":
        raise UserError(f"{path} has rows that stand for several requests each, and doesn't say when each came")
    good = (verdict.reason == "").nonzero()[0].tolist()
    if len(good) < 2:
        raise UserError(f"{path} has {len(good) or 'no'} request{'s' * (not good)}: a load needs at least 2")
    m, n = verdict.input_tokens.astype(int).tolist(), verdict.output_tokens.astype(int).tolist()
    seconds = _seconds(path, [times[k] for k in good], log.form.time_per_s)
    found = sorted((time_s, m[k], n[k]) for time_s, k in zip(seconds, good, strict=True))
    start_s, end_s = found[0][0], found[-1][0]
    if end_s - start_s > MAX_ARRIVAL_S:
        raise UserError(f"{path} lasts {(end_s - start_s) / 86_400:.0f} days; give a part of it of at most 11 days")
    return tuple(Arrival(time_s - start_s, m, n) for time_s, m, n in found)


def read_requests(
    path: Path, input_column: str | None = None, output_column: str | None = None, form: str | None = None
) -> Requests:
    """The same, to be simulated or served at a rate. Raises UserError."""
    arrivals = read_arrivals(path, input_column, output_column, form)
    found = np.array([(each.offset_s, each.input_tokens, each.output_tokens) for each in arrivals])
    return Requests(found[:, 0], found[:, 1].astype(np.int64), found[:, 2].astype(np.int64))


def _seconds(path: Path, times: Iterable[object], per_s: float | None) -> list[float]:
    """Times in seconds after any start. Raises UserError for one that is none, or is written in another way."""
    read = [_read(path, time) for time in times]
    units = {unit for unit, _ in read}
    if len(units) > 1:
        raise UserError(f"{path} has times in {' and in '.join(sorted(units))}; write all of them in one way")
    scale = per_s if per_s is not None and units == {"seconds"} else 1.0
    return [time_s / scale for _, time_s in read]


def _read(path: Path, time: object) -> tuple[str, float]:
    """How a time is written, and what it is in s."""
    said = "" if time is None else str(time).strip()
    if not said:
        raise UserError(f"{path}: a request has no time")
    try:
        number = float(said)
    except ValueError:
        seconds = date_s(time)
        if seconds is None:
            raise UserError(
                f"{path}: {_shown(said)} is no time; write dates as 2024-05-10 00:00:00.5, or seconds"
            ) from None
        return "dates", seconds
    if not abs(number) < LARGEST:
        raise UserError(f"{path}: {_shown(said)} is no time")
    for unit, least, per_s in EPOCH_UNITS:
        if abs(number) >= least:
            return unit, number / per_s
    return "seconds", number


def _shown(said: str) -> str:
    """What stands in place of a time, but no words: a column may hold what people wrote."""
    like_a_time = any(c.isdigit() for c in said) and not any(c.isalpha() and c not in "TZeE" for c in said)
    return f"'{said[:40]}'" if like_a_time or said.lower() in ("nan", "inf", "-inf") else "a text"
