"""Reading request traces with DuckDB. Files may be larger than memory: only the (m, n) counts are kept."""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from harness.core.errors import MissingDependency, UserError, pip_install
from harness.deciding.workload import Workload, builtin_names, from_pairs, is_saved_workload, parse, with_output_tokens
from harness.modelling.cost_function import MAX_TOTAL_TOKENS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

COLUMN_PAIRS = (
    ("ContextTokens", "GeneratedTokens"),
    ("input_tokens", "output_tokens"),
    ("prompt_tokens", "completion_tokens"),
    ("Request tokens", "Response tokens"),
    ("num_prefill_tokens", "num_decode_tokens"),
)
MAX_LINE_BYTES = 2**25
"""Longest CSV row read; texts stand beside the token counts in some traces."""
EXAMPLES = 5
"""Broken rows named in an error."""
MEMORY_LIMIT = "2GB"
"""DuckDB spills to disk beyond this, so that reading stays well under 4 GiB in all."""
# Without hive_partitioning=false a folder named like a Hive partition would add a column. DuckDB's own default for
# buffer_size is as large; a multiple of the longest line would take most of the memory.
READERS = {
    "parquet": "read_parquet(?, hive_partitioning=false)",
    "csv": "read_csv(?, hive_partitioning=false, columns=?, delim=?, header=true, auto_detect=false, quote='\"', "
    f"escape='\"', store_rejects=true, max_line_size={MAX_LINE_BYTES}, buffer_size={MAX_LINE_BYTES})",
    "jsonl": "read_json(?, hive_partitioning=false, columns=?, format='newline_delimited', ignore_errors=true)",
    "json": "read_json(?, hive_partitioning=false, columns=?, format='array')",
}
"""DuckDB's table function for one file of each format; the parameters are path, types by column and delimiter."""


@dataclass(frozen=True)
class Table:
    """One file as DuckDB is to read it."""

    path: Path
    format: str
    """``csv``, ``jsonl``, ``json`` (one array) or ``parquet``."""
    columns: tuple[str, ...]
    delimiter: str = ","

    def scan(self) -> tuple[str, list[Any]]:
        """The SQL table function that yields the rows, and its parameters."""
        parameters = [_literal(self.path), dict.fromkeys(self.columns, "VARCHAR"), self.delimiter]
        reader = READERS[self.format]
        return reader, parameters[: reader.count("?")]


def _literal(path: Path) -> str:
    """The path for DuckDB, which takes every path for a glob and one that begins with ~ for a home directory.

    Raises UserError for a backslash in a glob, which it takes for a folder's end.
    """
    spelled = str(path.absolute())
    if "\\" not in spelled:
        return glob.escape(spelled)
    if glob.has_magic(spelled):
        raise UserError(f"{path}: a name with a backslash and one of * ? [ can't be read: rename the file")
    return spelled


def read_request_log(
    pattern: str, input_column: str | None = None, output_column: str | None = None, skip_bad: bool = False
) -> Workload:
    """Count the (m, n) pairs of one file, or of all files that a glob matches.

    Columns are found by their usual names unless both are given. Rows whose token counts are missing, not whole, below
    1 or together above MAX_TOTAL_TOKENS are refused with their line numbers, or left out with ``skip_bad``.
    Raises UserError for missing files, unknown columns and broken rows; MissingDependency without duckdb.
    """
    chunks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    bad_rows = 0
    examples: list[str] = []
    for path in matching_files(pattern):
        table = describe(path)
        columns = token_columns(table, input_column, output_column)
        chunk, bad_here = _count_pairs(table, *columns)
        chunks.append(chunk)
        bad_rows += bad_here
        if bad_here and not skip_bad:
            examples += islice(_broken_rows(table, *columns), EXAMPLES - len(examples))
    if bad_rows and not skip_bad:
        raise UserError(_refusal(pattern, bad_rows, examples, "Mend the file or leave them out with --skip-bad"))
    m, n, requests = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    if m.size == 0:
        left_out = f": all {bad_rows:,} rows are broken" if bad_rows else ""
        raise UserError(f"{pattern} holds no requests{left_out}")
    return replace(from_pairs(Path(pattern).name, pattern, m, n, requests), dropped_rows=bad_rows)


def refuse_broken_rows(table: Table, m_column: str, n_column: str) -> None:
    """Raise UserError with the line numbers of rows that are no requests, which readers would pass over."""
    _, bad_rows = _count_pairs(table, m_column, n_column)
    if bad_rows:
        examples = list(islice(_broken_rows(table, m_column, n_column), EXAMPLES))
        raise UserError(_refusal(str(table.path), bad_rows, examples, "Mend the file"))


def _refusal(where: str, bad_rows: int, examples: Sequence[str], remedy: str) -> str:
    more = " …" if bad_rows > len(examples) else ""
    rows = "1 broken row" if bad_rows == 1 else f"{bad_rows:,} broken rows"
    return f"{where}: {rows}: {'; '.join(examples)}{more}. {remedy}"


def matching_files(pattern: str) -> list[Path]:
    """Files that a path or glob names, sorted. Raises UserError when there are none."""
    path = Path(pattern)
    found = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(pattern, recursive=True))
    files = [p for p in found if p.is_file()]
    if found and not files:
        raise UserError(f"{pattern} is not a regular file: traces are read more than once, so save it as a file first")
    if not files:
        raise UserError(f"no workload {pattern}: neither a built-in one (alpaca) nor a file or glob that exists")
    return files


def connect() -> DuckDBPyConnection:
    """An in-memory DuckDB that spills to the temporary directory. Raises MissingDependency."""
    try:
        import duckdb
    except ImportError:
        raise MissingDependency(f"reading traces needs duckdb: install it with {pip_install('duckdb>=1.1')}") from None
    spill = str(Path(tempfile.gettempdir()) / "joulebench-duckdb")
    return duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": spill})


def describe(path: Path) -> Table:
    """Find a file's format by its suffix and its column names by its beginning. Raises UserError."""
    suffix = next((s for s in map(str.lower, reversed(path.suffixes)) if s != ".gz"), "")
    if suffix == ".parquet":
        return Table(path, "parquet", _duckdb_columns(path, READERS["parquet"]))
    if suffix in (".csv", ".tsv", ".txt"):
        return _describe_csv(path)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _describe_json(path)
    raise UserError(f"{path}: unknown format; use .csv, .parquet, .json or .jsonl")


def _describe_csv(path: Path) -> Table:
    with _open_text(path) as file:
        header = file.readline()
        delimiter = max(",;\t|", key=header.count)
        names = tuple(next(csv.reader(chain([header], file), delimiter=delimiter), []))
    if not names:
        raise UserError(f"{path} is empty")
    if len({name.strip().lower() for name in names}) < len(names):
        raise UserError(f"{path}: two columns have the same name")
    return Table(path, "csv", names, delimiter)


def _describe_json(path: Path) -> Table:
    with _open_text(path) as file:
        first = next((line for line in file if line.strip()), "")
        if not first:
            raise UserError(f"{path} is empty")
        if first.lstrip().startswith("["):
            without_columns = "read_json(?, hive_partitioning=false, format='array')"
            return Table(path, "json", _duckdb_columns(path, without_columns))
        for line in chain([first], file):
            if (record := _json_object(line)) is not None:
                return Table(path, "jsonl", tuple(record))
    raise UserError(
        f"{path} holds neither an array of JSON objects nor JSON objects of one line each; "
        "put an object that spans lines into an array: [ … ]"
    )


def _duckdb_columns(path: Path, reader: str) -> tuple[str, ...]:
    with connect() as database:
        return tuple(row[0] for row in _run(database, path, f"DESCRIBE FROM {reader}", [_literal(path)]).fetchall())


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    """A file, unpacked where it is packed. Whatever is wrong with its bytes becomes one line."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        with opener(path, "rb") as raw:
            if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise UserError(f"{path} is UTF-16: save it as UTF-8")
        with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            yield file
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(f"can't read {path}: {error}") from None


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def token_columns(table: Table, input_column: str | None, output_column: str | None) -> tuple[str, str]:
    """Names of the input and output token columns. Raises UserError when they can't be found."""
    if (input_column is None) != (output_column is None):
        raise UserError("name both token columns: --input-column and --output-column")
    pairs = COLUMN_PAIRS if input_column is None or output_column is None else ((input_column, output_column),)
    if any(m.lower() == n.lower() for m, n in pairs):
        raise UserError("--input-column and --output-column name the same column")
    present = {name.strip().lower(): name for name in table.columns}
    for names in pairs:
        if all(name.lower() in present for name in names):
            return present[names[0].lower()], present[names[1].lower()]
    # "json" is what DuckDB calls the elements of an array that are no objects.
    if table.format in ("json", "jsonl") and table.columns in ((), ("json",)):
        raise UserError(f"{table.path} holds no JSON objects with token counts")
    wanted = " or ".join("/".join(names) for names in pairs)
    raise UserError(
        f"{table.path} has no columns {wanted}; it has {', '.join(table.columns[:20])}. "
        "Name them with --input-column and --output-column"
    )


def _checked_rows(table: Table, m_column: str, n_column: str) -> tuple[str, list[Any]]:
    scan, parameters = table.scan()
    columns = [f"try_cast({_quoted(name)} AS DOUBLE)" for name in (m_column, n_column)]
    valid = f"m >= 1 AND n >= 1 AND m = floor(m) AND n = floor(n) AND m + n <= {MAX_TOTAL_TOKENS}"
    rows = f"SELECT {columns[0]} AS m, {columns[1]} AS n FROM {scan}"
    return f"SELECT m, n, coalesce({valid}, false) AS valid FROM ({rows})", parameters


def _count_pairs(table: Table, m_column: str, n_column: str) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """((m, n, requests) of the valid rows, number of broken rows)."""
    rows, parameters = _checked_rows(table, m_column, n_column)
    sizes = "if(valid, m, 0)::INTEGER AS m, if(valid, n, 0)::INTEGER AS n"
    query = f"SELECT {sizes}, count(*) AS requests FROM ({rows}) GROUP BY ALL"
    with connect() as database:
        result = _run(database, table.path, query, parameters).fetchnumpy()
        rejects = "SELECT count(DISTINCT line) FROM reject_errors" if table.format == "csv" else "SELECT 0"
        ((rejected,),) = database.execute(rejects).fetchall()
    m, n, requests = (np.asarray(result[key]) for key in ("m", "n", "requests"))
    valid = m > 0
    return (m[valid], n[valid], requests[valid]), int(requests[~valid].sum()) + rejected


def rows_of(table: Table, columns: Sequence[str], batch: int) -> Iterator[list[tuple[object, ...]]]:
    """The named columns in batches of rows, in file order. Raises UserError for unknown columns."""
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise UserError(f"{table.path} has no field {', '.join(absent)}; it has {', '.join(table.columns[:20])}")
    scan, parameters = table.scan()
    with connect() as database:
        selected = ", ".join(_quoted(name) for name in columns)
        cursor = _run(database, table.path, f"SELECT {selected} FROM {scan}", parameters)
        while rows := cursor.fetchmany(batch):
            yield rows


# DuckDB's table reject_errors is no substitute for this second reading: it numbers records, which are fewer than lines
# where quotes hold line breaks, it lets 2.5, 0 and nan pass for numbers, and read_json has none. Reading 4 million rows
# again takes about twice as long as counting them (5 s and 3 s), and only before a refusal.
def _broken_rows(table: Table, m_column: str, n_column: str) -> Iterator[str]:
    """Where the broken rows are and what stands there, in file order."""
    by_line = {"csv": _broken_csv_lines, "jsonl": _broken_json_lines}
    return by_line.get(table.format, _broken_table_rows)(table, m_column, n_column)


def _broken_csv_lines(table: Table, m_column: str, n_column: str) -> Iterator[str]:
    tokens = itemgetter(table.columns.index(m_column), table.columns.index(n_column))
    with _open_text(table.path) as file:
        reader = csv.reader(file, delimiter=table.delimiter, strict=True)
        next(reader)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"{table.path.name} line {line}: {error} (is a quote missing?)"
                continue
            if fields and len(fields) != len(table.columns):
                yield f"{table.path.name} line {line} has {len(fields)} of {len(table.columns)} columns"
            elif fields and not _is_request(*tokens(fields)):
                yield _broken(table, f"line {line}", *tokens(fields))


def _broken_json_lines(table: Table, m_column: str, n_column: str) -> Iterator[str]:
    with _open_text(table.path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            record = _json_object(line)
            if record is None:
                yield f"{table.path.name} line {number} is not a JSON object"
            elif not _is_request(record.get(m_column), record.get(n_column)):
                yield _broken(table, f"line {number}", record.get(m_column), record.get(n_column))


def _broken_table_rows(table: Table, m_column: str, n_column: str) -> Iterator[str]:
    rows, parameters = _checked_rows(table, m_column, n_column)
    numbered = f"SELECT row_number() OVER () AS number, m, n, valid FROM ({rows})"
    query = f"SELECT number, m, n FROM ({numbered}) WHERE NOT valid LIMIT {EXAMPLES}"
    with connect() as database:
        for number, m, n in _run(database, table.path, query, parameters).fetchall():
            yield _broken(table, f"row {number}", m, n)


def _is_request(m: Any, n: Any) -> bool:
    try:
        # In ASCII, since DuckDB reads no other digits.
        m, n = float(str(m).encode("ascii")), float(str(n).encode("ascii"))
    except ValueError:
        return False
    return m >= 1 and n >= 1 and m.is_integer() and n.is_integer() and m + n <= MAX_TOTAL_TOKENS


def _broken(table: Table, place: str, m: Any, n: Any) -> str:
    """One line, whatever stands there."""
    m, n = (" ".join(("" if value is None else str(value)).split())[:20] or "nothing" for value in (m, n))
    return f"{table.path.name} {place} has {m} in, {n} out"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _run(database: DuckDBPyConnection, path: Path, query: str, parameters: list[Any]) -> DuckDBPyConnection:
    """Run a query; DuckDB's errors about a file become one line."""
    import duckdb

    try:
        return database.execute(query, parameters)
    except duckdb.Error as error:
        raise UserError(f"can't read {path}: {str(error).splitlines()[0]}") from None


def load_workload(
    spec: str | os.PathLike[str],
    input_column: str | None = None,
    output_column: str | None = None,
    skip_bad: bool = False,
    output_tokens: int | None = None,
) -> Workload:
    """Load a workload: a built-in name, a file written by ``save``, or a trace (CSV, Parquet, JSON, a glob).

    ``skip_bad`` leaves broken rows out instead of refusing; ``output_tokens`` sets every output length to this many.
    Raises UserError when there is no such workload or its content can't be used.
    """
    name, path = os.fspath(spec), Path(spec)
    built_in = name in builtin_names()
    if built_in or (path.suffix == ".json" and path.is_file() and is_saved_workload(path)):
        if input_column is not None or output_column is not None:
            raise UserError(f"{name} is a workload, not a trace: leave out --input-column and --output-column")
        file = resources.files("profiles") / f"{name}.json" if built_in else path
        loaded = parse(file.read_text("utf-8"), name)
    else:
        loaded = read_request_log(name, input_column, output_column, skip_bad)
    return loaded if output_tokens is None else with_output_tokens(loaded, output_tokens)
