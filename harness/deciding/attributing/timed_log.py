"""When each request of a log came, was begun, got its first token and its last, for sharing out what they used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding.arrivals import TIME_COLUMNS
from harness.deciding.attributing.log_times import seconds_of
from harness.deciding.trace_files import (
    EXAMPLES,
    Table,
    describe,
    read_request_log,
    refuse_broken_rows,
    rows_of,
    token_columns,
)
from harness.modelling.cost_function import MAX_TOTAL_TOKENS
from harness.serving.shares_times import LoggedTimes

Mark = Literal["arrived", "scheduled", "first", "last"]
"""A moment of a request: it comes, is begun, gets its first output token, its last."""
MARKS: Final[tuple[Mark, ...]] = get_args(Mark)

MARK_COLUMNS: Final[Mapping[Mark, tuple[str, ...]]] = {
    "arrived": (
        *("queued_s", "queued_at", "queued_time", "submitted_at", "received_at", *TIME_COLUMNS),
        *("start_s", "start_time", "started_at", "request_start_time", "starttime"),
    ),
    "scheduled": ("scheduled_s", "scheduled_at", "scheduled_time", "scheduled_ts", "first_scheduled_time"),
    "first": ("first_token_s", "first_token_at", "first_token_time", "first_token_ts", "completionstarttime"),
    "last": (
        *("last_token_s", "last_token_at", "last_token_time", "last_token_ts"),
        *("end_s", "end_time", "ended_at", "endtime", "finished_at", "finished_s", "finished_time", "finish_time"),
        *("completed_at", "completed_s", "completion_time", "request_end_time"),
    ),
}
"""Names of columns of times that are recognised, in any case, the first that is there."""
_LENGTHS: Final[Mapping[Mark, tuple[str, ...]]] = {
    "first": ("ttft", "time_to_first_token"),
    "last": ("e2e", "e2e_latency", "e2el", "latency", "request_latency", "duration", "response_time", "total_time"),
}
"""Times since a request came, as they are called before their unit: ``ttft_s``, ``latency_ms``."""
_UNITS: Final = {"_s": 1.0, "_sec": 1.0, "_seconds": 1.0, "_ms": 1e-3}
_CACHED: Final = ("cached_tokens", "cache_read_input_tokens", "num_cached_tokens", "cached_input_tokens")
_IDS: Final = ("request_id", "id", "req_id", "rid", "uuid")
_BATCH: Final = 50_000
_ROUNDING_S: Final = 1e-6
"""By which times of one moment may differ: numbers since 1970 have no more digits."""

_Column = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class TimedLog:
    """The requests of a log that can be shared out; arrays of one entry a request."""

    path: Path
    rows: NDArray[np.int64]
    """Of the log, counted from 1 without its heading."""
    times: LoggedTimes
    ids: list[str] | None
    """What the log calls each request; None where it doesn't."""
    labels: list[str] | None
    """What stands in the column that is asked for; empty where nothing does."""
    left_out: dict[str, int]
    """Rows that are not here, by the reason."""
    start_s: float
    """The first time of all by the log's clock, from which ``times`` count."""

    @property
    def span_s(self) -> tuple[float, float]:
        """When the first request came and the last ended, by the log's clock."""
        first_s = float(np.nanmin([self.times.arrived_s, self.times.scheduled_s]))
        return self.start_s + first_s, self.start_s + float(self.times.last_token_s.max())


@dataclass(frozen=True)
class _Source:
    """The column a mark is read from, and how."""

    column: str
    per_s: float | None
    """For a length of time since the request came; None for a time."""


def read_timed_log(
    path: Path,
    input_column: str | None = None,
    output_column: str | None = None,
    label_column: str | None = None,
    time_columns: Mapping[Mark, str] | None = None,
    skip_bad: bool = False,
) -> TimedLog:
    """The requests of a log in its order, with the times that it has, in s after the first of all.

    ``time_columns`` names columns of times that have other names. Raises UserError for a log that doesn't say when
    requests came and ended, and, unless ``skip_bad``, for rows that can't be: they are named.
    """
    table = describe(path)
    tokens = token_columns(table, input_column, output_column)
    sources = _sources(table, time_columns or {})
    present = {name.strip().lower(): name for name in table.columns}
    cached, ids = (_found(present, names) for names in (_CACHED, _IDS))
    if label_column is not None and label_column.lower() not in present:
        raise UserError(f"{path} has no column {label_column}; it has {', '.join(table.columns[:20])}")
    label = None if label_column is None else present[label_column.lower()]
    unreadable = 0
    if skip_bad:
        unreadable = read_request_log(str(path), *tokens, skip_bad=True).dropped_rows
    else:
        refuse_broken_rows(table, *tokens)
    wanted = dict.fromkeys([*tokens, *(s.column for s in sources.values()), *filter(None, (cached, ids, label))])
    columns = _columns(table, list(wanted))
    m, n = (_numbers(columns[name]) for name in tokens)
    times, unreadable_times, start_s = _times(path, columns, sources)
    reused = np.zeros(m.size) if cached is None else np.nan_to_num(_numbers(columns[cached]))
    log = LoggedTimes(m, n, reused, *(times[mark] for mark in MARKS))
    kept, left_out = _checked(path, log, unreadable_times, skip_bad)
    # Rows that the reader passed over are in no column; those without sizes are in both counts.
    passed_over = unreadable - left_out.get(_NO_SIZE, 0)
    if passed_over > 0:
        left_out["can't be read"] = passed_over
    return TimedLog(
        path,
        np.flatnonzero(kept) + 1,
        LoggedTimes(*(getattr(log, name)[kept] for name in LoggedTimes.__dataclass_fields__)),
        None if ids is None else _texts(columns[ids][kept]),
        None if label is None else _texts(columns[label][kept]),
        left_out,
        start_s,
    )


def parse_time_columns(texts: Sequence[str]) -> dict[Mark, str]:
    """What ``--time MARK=COLUMN`` says by mark. Raises UserError."""
    found: dict[Mark, str] = {}
    for text in texts:
        name, equals, column = text.partition("=")
        mark = next((mark for mark in MARKS if mark == name.strip()), None)
        if mark is None or not equals or not column:
            raise UserError(f"--time {text}: write it as --time MARK=COLUMN with one of {', '.join(MARKS)}")
        found[mark] = column
    return found


def _sources(table: Table, named: Mapping[Mark, str]) -> dict[Mark, _Source]:
    """Where each mark is read from. Raises UserError where the log lacks the start or the end of its requests."""
    present = {name.strip().lower(): name for name in table.columns}
    found: dict[Mark, _Source] = {}
    for mark in MARKS:
        if mark in named:
            if named[mark].lower() not in present:
                raise UserError(f"{table.path} has no column {named[mark]}; it has {', '.join(table.columns[:20])}")
            found[mark] = _Source(present[named[mark].lower()], None)
        elif column := _found(present, MARK_COLUMNS[mark]):
            found[mark] = _Source(column, None)
        else:
            for name, unit in ((name, unit) for name in _LENGTHS.get(mark, ()) for unit in _UNITS):
                if name + unit in present:
                    found[mark] = _Source(present[name + unit], 1 / _UNITS[unit])
                    break
    has = f"it has {', '.join(table.columns[:20])}"
    if "arrived" not in found and "scheduled" not in found:
        raise UserError(
            f"{table.path} doesn't say when requests came: it has no column {', '.join(MARK_COLUMNS['arrived'])}; "
            f"{has}. Name it with --time arrived=COLUMN"
        )
    if "last" not in found:
        raise UserError(
            f"{table.path} doesn't say when requests ended: it has no column {', '.join(MARK_COLUMNS['last'])}, nor "
            f"a latency such as e2e_s or latency_ms; {has}. Name it with --time last=COLUMN"
        )
    if "arrived" not in found:
        found["arrived"] = found["scheduled"]
    return found


def _found(present: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((present[name] for name in names if name in present), None)


def _columns(table: Table, names: Sequence[str]) -> dict[str, _Column]:
    """The named columns whole."""
    parts: list[tuple[_Column, ...]] = []
    for rows in rows_of(table, names, _BATCH):
        parts.append(tuple(np.array(column, dtype=object) for column in zip(*rows, strict=True)))
    if not parts:
        raise UserError(f"{table.path} holds no requests")
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}


def _numbers(column: _Column) -> Floats:
    """Numbers, NaN for what is none."""
    try:
        return column.astype(float)
    except (TypeError, ValueError):
        return np.array([_number(value) for value in column.tolist()])


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return np.nan


def _texts(column: _Column) -> list[str]:
    return ["" if value is None else str(value) for value in column.tolist()]


def _times(
    path: Path, columns: Mapping[str, _Column], sources: Mapping[Mark, _Source]
) -> tuple[dict[Mark, Floats], NDArray[np.bool_], float]:
    """Each mark in s after the first time of all, NaN where a row has none; which rows have what is no time; and the
    first time by the log's own clock."""
    written = {mark: columns[source.column] for mark, source in sources.items() if source.per_s is None}
    found_times = seconds_of(path, list(written.values()))
    read = {mark: seconds for mark, (seconds, _) in zip(written, found_times, strict=True)}
    wrong = np.logical_or.reduce([unreadable for _, unreadable in found_times])
    if all(np.isnan(times).all() for times in read.values()):
        raise UserError(f"{path} has no times in {', '.join(source.column for source in sources.values())}")
    first = min(float(np.nanmin(times)) for times in read.values() if not np.isnan(times).all())
    found = {mark: times - first for mark, times in read.items()}
    for mark, source in sources.items():
        if source.per_s is not None:
            found[mark] = found["arrived"] + _numbers(columns[source.column]) / source.per_s
    nothing = np.full(len(next(iter(columns.values()))), np.nan)
    return {mark: found.get(mark, nothing) for mark in MARKS}, wrong, first


_NO_SIZE = "sizes are no token counts"


def _checked(
    path: Path, log: LoggedTimes, unreadable: NDArray[np.bool_], skip_bad: bool
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which rows can be shared out, and how many can't, by the reason. Raises UserError for any unless ``skip_bad``."""
    m, n = log.input_tokens, log.output_tokens
    arrived, scheduled, first, last = (getattr(log, f"{name}_s") for name in _FIELDS)
    begun = np.where(np.isnan(scheduled), arrived, scheduled)
    faults: dict[str, NDArray[np.bool_]] = {
        _NO_SIZE: ~((m >= 1) & (n >= 1) & (m == np.floor(m)) & (n == np.floor(n)) & (m + n <= MAX_TOTAL_TOKENS)),
        "have a time that can't be read": unreadable,
        "have no time of their start": np.isnan(begun),
        "have no time of their end": np.isnan(last),
        "were begun before they came": scheduled < arrived - _ROUNDING_S,
        "have their first token before they were begun": first < begun - _ROUNDING_S,
        "have their last token before their first": last < first - _ROUNDING_S,
        "end before they were begun": last < begun - _ROUNDING_S,
        "take no time": last <= begun,
        "have more tokens cached than their input": (log.cached_tokens > m) | (log.cached_tokens < 0),
    }
    kept, left_out, said = np.ones(len(log), dtype=bool), dict[str, int](), list[str]()
    for fault, wrong in faults.items():
        here = np.flatnonzero(wrong & kept)
        if here.size:
            kept[here] = False
            left_out[fault] = int(here.size)
            rows = ", ".join(f"{row + 1:,}" for row in islice(here.tolist(), EXAMPLES)) + " …" * (here.size > EXAMPLES)
            said.append(f"{here.size:,} {fault} (row {rows})")
    if said and not skip_bad:
        raise UserError(f"{path}: of {len(log):,} requests {'; '.join(said)}. Mend it or leave them out: --skip-bad")
    if not kept.any():
        raise UserError(f"{path} holds no requests that can be shared out: {'; '.join(said)}")
    return kept, left_out


_FIELDS: Final = ("arrived", "scheduled", "first_token", "last_token")
