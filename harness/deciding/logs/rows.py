"""What the rows of a log say: counted by DuckDB, or one by one with their places."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding.logs import form_called
from harness.deciding.logs.form import Record
from harness.deciding.logs.judge import SIDES, Texts, Values
from harness.deciding.logs.log import Log, shown_columns
from harness.deciding.logs.names import KeyPath
from harness.deciding.logs.records import BATCH, numbered_records, raw_value, value_at
from harness.deciding.logs.tables import SURPLUS, Table, TooLargeRows, connect, quoted, run

TOTAL_WORDS = ("total", "totals", "grand total", "sum", "subtotal", "summe", "gesamt", "insgesamt", "somme", "overall")
"""What stands in a table's row that sums up the others."""
MAX_LABELS = 40
"""Columns in which such a word is looked for."""
SAID_CHARACTERS = 40
"""How much of a status is kept."""
INSIDE = "inside "
"""Before the name of a column, what is used of its objects."""
IN_THREES = re.compile(r"[+-]?\d+(?:\.\d{3})+")
"""A number to DuckDB, and a thousand perhaps."""
BY_LINES = ("csv", "jsonl")
BY_DUCKDB = ("csv", "jsonl", "json", "parquet")


def count_values(log: Log) -> tuple[Values, int]:
    """What the rows say, like ones together, and how many could not be taken apart."""
    if log.table.format not in BY_DUCKDB:
        return _one_by_one(log)[:2]
    try:
        found, rows, rejected = _selected(log, _sql_columns(log), "count(*) AS rows", "GROUP BY ALL")
    except TooLargeRows:
        if log.table.format not in BY_LINES:
            raise
        return _one_by_one(log)[:2]
    return _values(log, found, rows), rejected


def timed_values(log: Log, most: int) -> tuple[Values, int, list[object]]:
    """What each row says, in file order, how many could not be taken apart, and the time of each.

    Raises UserError for more than ``most`` rows.
    """
    assert log.time is not None
    if log.table.format not in BY_DUCKDB:
        return _one_by_one(log)
    columns = {**_sql_columns(log), "time": _sql_value(log, log.time)}
    found, rows, rejected = _selected(log, columns, "1 AS rows", f"LIMIT {most + 1}")
    return _values(log, found, rows), rejected, _objects(found["time"]).tolist()


def _one_by_one(log: Log) -> tuple[Values, int, list[object]]:
    """The same without DuckDB."""
    parts: list[Values] = []
    times: list[object] = []
    unreadable = 0
    for places, values in numbered_values(log):
        good = [not wrong or log.table.format != "csv" for wrong in places.unreadable]
        parts.append(values if all(good) else _chosen(values, np.array(good)))
        unreadable += good.count(False)
        if log.time is not None:
            times += [value_at(record, log.time) for record, fine in zip(places.records, good, strict=True) if fine]
    return all_rows(log, parts), unreadable, times


def _chosen(values: Values, good: NDArray[np.bool_]) -> Values:
    return Values(
        {what: array[good] for what, array in values.numbers.items()},
        {side: array[good] for side, array in values.odd.items()},
        {name: array[good] for name, array in values.said.items()},
        values.rows[good],
        values.totals[good],
        values.repeated[good],
    )


def _selected(log: Log, columns: Mapping[str, str], rows: str, rest: str) -> tuple[dict[str, Any], np.ndarray, int]:
    scan, parameters = log.table.scan()
    # In two steps, since what is repeated is known before rows are counted.
    selected = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in columns.items())
    inside = "".join(f", {_sql_inside(log, top, paths)}" for top, paths in log.nested.items())
    query = f"SELECT *, {rows} FROM (SELECT {selected} FROM (SELECT *{inside} FROM {scan})) {rest}"
    with connect() as database:
        result = run(database, log.table.path, query, parameters).fetchnumpy()
        rejects = "SELECT count(DISTINCT line) FROM reject_errors" if log.table.format == "csv" else "SELECT 0"
        ((rejected,),) = database.execute(rejects).fetchall()
    return {name: result[name] for name in columns}, np.asarray(result["rows"], dtype=float), int(rejected)


def _sql_inside(log: Log, top: str, paths: Sequence[KeyPath]) -> str:
    """All that is used of a column's objects, at once: long texts may stand beside it."""
    inner = ("$" + "".join('."' + key.replace('"', "") + '"' for key in path[1:]) for path in paths)
    listed = ", ".join("'" + each.replace("'", "''") + "'" for each in inner)
    # Exports to CSV hold objects as text; to_json makes an object of a column that is one.
    source = f"to_json({quoted(top)})" if log.table.format == "parquet" else quoted(top)
    return f"json_extract_string(TRY_CAST({source} AS JSON), [{listed}]) AS {quoted(INSIDE + top)}"


def _sql_value(log: Log, path: KeyPath) -> str:
    """A value of each row as text, in SQL."""
    if len(path) == 1:
        return f"CAST({quoted(path[0])} AS VARCHAR)"
    return f"{quoted(INSIDE + path[0])}[{log.nested[path[0]].index(path) + 1}]"


def _sql_columns(log: Log) -> dict[str, str]:
    """SQL of every value, by names of the values' kinds."""
    columns = {}
    for what, alternatives in log.numbers.items():
        if _one_path_each(what, alternatives):
            text = _sql_text(log, alternatives)
            columns[what] = f"TRY_CAST({text} AS DOUBLE)"
            odd = f"TRY_CAST({text} AS DOUBLE) IS NULL"
            if log.table.format == "csv":
                # 1.000 is a number to DuckDB, and may be a thousand.
                odd += f" OR (contains({text}, '.') AND regexp_full_match({text}, '\\s*[+-]?\\d+(\\.\\d{{3}})+\\s*'))"
            columns[f"odd {what}"] = f"CASE WHEN {odd} THEN left(nullif(trim({text}), ''), {SAID_CHARACTERS}) END"
        else:
            sums = [
                " + ".join(f"TRY_CAST({_sql_value(log, path)} AS DOUBLE)" for path in parts)
                if len(parts) == 1
                else " + ".join(f"coalesce(TRY_CAST({_sql_value(log, path)} AS DOUBLE), 0)" for path in parts)
                for parts in alternatives
            ]
            columns[what] = f"coalesce({', '.join(sums)})" if len(sums) > 1 else sums[0]
    for name, path in log.said.items():
        columns[f"said {name}"] = f"left(lower(trim({_sql_value(log, path)})), {SAID_CHARACTERS})"
    words = ", ".join(f"'{word}'" for word in TOTAL_WORDS)
    labels = [f"coalesce(lower(trim({quoted(name)}, ' *:')) IN ({words}), false)" for name in _labels(log)]
    columns["totals"] = " OR ".join(labels) or "false"
    columns["repeated"] = "false"
    if log.identity is not None:
        same = _sql_value(log, log.identity)
        nth = f"row_number() OVER (PARTITION BY {same} ORDER BY {columns['output']} DESC NULLS LAST)"
        columns["repeated"] = f"{same} IS NOT NULL AND {nth} > 1"
    return columns


def _one_path_each(what: str, alternatives: Sequence[Sequence[KeyPath]]) -> bool:
    """Whether a number is one value of a row, whose spelling can be looked at; sums of several are plain."""
    return what in SIDES or (len(alternatives) == 1 and len(alternatives[0]) == 1)


def _spelled_alone(log: Log) -> list[str]:
    return [what for what, alternatives in log.numbers.items() if _one_path_each(what, alternatives)]


def _sql_text(log: Log, alternatives: Sequence[Sequence[KeyPath]]) -> str:
    texts = [_sql_value(log, parts[0]) for parts in alternatives]
    return f"coalesce({', '.join(texts)})" if len(texts) > 1 else texts[0]


def _labels(log: Log) -> list[str]:
    """Columns of a table in which a row may be called a total."""
    if log.table.format != "csv":
        return []
    used = {path[0] for found in log.numbers.values() for parts in found for path in parts}
    return [name for name in log.table.columns if name not in used and name != SURPLUS][:MAX_LABELS]


def _values(log: Log, columns: Mapping[str, Any], rows: np.ndarray) -> Values:
    masked: dict[str, Any] = {what: np.ma.asarray(columns[what], dtype=float) for what in log.numbers}
    numbers: dict[str, Floats] = {what: np.ma.filled(column, np.nan) for what, column in masked.items()}
    return Values(
        numbers,
        {what: _objects(columns[f"odd {what}"]) for what in log.numbers if f"odd {what}" in columns},
        {name: _objects(columns[f"said {name}"]) for name in log.said},
        rows,
        np.ma.filled(np.ma.asarray(columns["totals"], dtype=bool), False),
        np.ma.filled(np.ma.asarray(columns["repeated"], dtype=bool), False),
    )


def _objects(column: Any) -> Texts:
    """Texts, None where nothing stands."""
    masked: Any = np.ma.asarray(column, dtype=object)
    found: Texts = masked.data.copy()
    found[np.ma.getmaskarray(masked)] = None
    return found


def all_rows(log: Log, parts: Sequence[Values]) -> Values:
    """Rows of several batches, one behind the other."""

    def all_of(arrays: Iterable[np.ndarray], kind: Any) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype=kind), *arrays])

    return Values(
        {what: all_of((part.numbers[what] for part in parts), float) for what in log.numbers},
        {what: all_of((part.odd[what] for part in parts), object) for what in _spelled_alone(log)},
        {name: all_of((part.said[name] for part in parts), object) for name in log.said},
        all_of((part.rows for part in parts), float),
        all_of((part.totals for part in parts), bool),
        all_of((part.repeated for part in parts), bool),
    )


@dataclass(frozen=True)
class Places:
    """Where each row of a batch stands, what is wrong with those that can't be taken apart, and the records."""

    where: list[str]
    unreadable: list[str]
    """Empty for rows that can be read."""
    records: list[Record]


# DuckDB's table reject_errors is no substitute for this second reading: it numbers records, which are fewer than lines
# where quotes hold line breaks, and read_json has none. Reading again takes longer than counting, and happens only
# before a refusal, for files that DuckDB doesn't read, and for arrivals.
def numbered_values(log: Log) -> Iterator[tuple[Places, Values]]:
    """What each row says and where it stands, in batches in file order."""
    labels = _labels(log)
    rows = (
        (where, wrong, _without_texts(log, record, labels))
        for where, wrong, record in numbered_records(log.table, log.form)
    )
    while batch := list(islice(rows, BATCH)):
        places = Places(*(list(column) for column in zip(*batch, strict=True)))
        yield places, _read(log, places.records)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _number_or_none(value: Any) -> float | None:
    try:
        # In ASCII and without underscores, since DuckDB reads no other digits.
        return None if isinstance(value, bool) else float(str(value).replace("_", "?").encode("ascii"))
    except ValueError:
        return None


def _number(value: Any) -> float:
    number = _number_or_none(value)
    return float("nan") if number is None else number


def rows_of(table: Table, columns: Sequence[str], batch: int) -> Iterator[list[tuple[object, ...]]]:
    """The named columns, nested ones as a.b.c, in batches of rows, in file order. Raises UserError for unknown ones."""
    paths = table.paths
    known = {".".join(path): path for path in (*paths.holders.values(), *paths.lists.values(), *paths.leaves.values())}
    known |= {name: (name,) for name in table.columns}
    if absent := [name for name in columns if name not in known]:
        raise UserError(f"{table.path} has no field {', '.join(absent)}; it has {shown_columns(table)}")
    if table.format in BY_DUCKDB and all(len(known[name]) == 1 for name in columns):
        scan, parameters = table.scan()
        selected = ", ".join(quoted(known[name][0]) for name in columns)
        with connect() as database:
            cursor = run(database, table.path, f"SELECT {selected} FROM {scan}", parameters)
            while rows := cursor.fetchmany(batch):
                yield rows
        return
    records = (record for _, wrong, record in numbered_records(table, form_called("columns")) if not wrong)
    while some := list(islice(records, batch)):
        yield [tuple(value_at(record, known[name]) for name in columns) for record in some]


def _without_texts(log: Log, record: Record, labels: Sequence[str]) -> Record:
    """What is used of a record: many wait at a time, and their texts may be long."""
    kept: dict[str, Any] = {name: str(record.get(name) or "")[:SAID_CHARACTERS] for name in labels}
    for path in sorted(log.used, key=len):
        value = value_at(record, path)
        inner = kept
        for key in path[:-1]:
            inner = inner.setdefault(key, {}) if isinstance(inner.get(key, {}), dict) else {}
        if not isinstance(inner.get(path[-1]), dict):
            inner[path[-1]] = value
    return kept


def _read(log: Log, records: Sequence[Record]) -> Values:
    """The same of records in memory as DuckDB reads of files."""
    size = len(records)
    columns: dict[str, Any] = {}
    for what, alternatives in log.numbers.items():
        if _one_path_each(what, alternatives):
            raw = [raw_value(record, alternatives) for record in records]
            columns[what] = [_number(value) for value in raw]
            columns[f"odd {what}"] = np.array([*map(_odd, raw, [log.table.format] * size), None], dtype=object)[:-1]
        else:
            columns[what] = [_sum(record, alternatives) for record in records]
    for name, path in log.said.items():
        texts = [_as_text(value_at(record, path)) for record in records]
        said = [None if text is None else text.strip().lower()[:SAID_CHARACTERS] for text in texts]
        columns[f"said {name}"] = np.array([*said, None], dtype=object)[:-1]
    columns["repeated"] = _repeated(log, records, columns["output"])
    labels = _labels(log)
    columns["totals"] = [
        any(str(record.get(name) or "").strip(" *:").lower() in TOTAL_WORDS for name in labels) for record in records
    ]
    return _values(log, columns, np.ones(size))


def _repeated(log: Log, records: Sequence[Record], output: Sequence[float]) -> list[bool]:
    if log.identity is None:
        return [False] * len(records)
    longest: dict[Any, int] = {}
    same = [value_at(record, log.identity) for record in records]
    for k, each in enumerate(same):
        if each is not None and (each not in longest or output[k] > output[longest[each]]):
            longest[each] = k
    return [each is not None and longest[each] != k for k, each in enumerate(same)]


def _odd(value: Any, table_format: str) -> str | None:
    """A number's text where it is spelled in an odd way; None for plain ones and where nothing stands."""
    text = (_as_text(value) or "").strip()
    is_odd = text and (_number_or_none(value) is None or (table_format == "csv" and IN_THREES.fullmatch(text)))
    return text[:SAID_CHARACTERS] if is_odd else None


def _sum(record: Record, alternatives: Sequence[Sequence[KeyPath]]) -> float:
    for parts in alternatives:
        numbers = [_number(value_at(record, path)) for path in parts]
        if any(np.isfinite(numbers)):
            return float(np.nansum(numbers))
    return float("nan")
