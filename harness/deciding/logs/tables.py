"""Files of logs as tables: their format, their columns and what their first rows hold."""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import json
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness.core.errors import MissingDependency, UserError, pip_install
from harness.deciding.logs import log_forms, recognise
from harness.deciding.logs.documents import records_in
from harness.deciding.logs.form import Record
from harness.deciding.logs.names import Paths

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_LINE_BYTES = 2**25
"""Longest CSV row read; texts stand beside the token counts in some traces."""
MAX_DOCUMENT_BYTES = 2**29
"""Longest JSON document read as one: Python needs several times its size."""
MEMORY_LIMIT = "900MB"
"""DuckDB spills to disk beyond this, so that reading stays well under 1.5 GiB in all."""
THREADS = 3
"""At most: each has buffers for the longest lines of its own."""
SAMPLE = 1000
"""First rows by which a form is recognised."""
SAMPLE_BYTES = 2**24
LOOKED_AT = 100_000
"""Rows looked at for the first with token counts: errors may come first."""
HEADER_LINES = 30
"""Lines among which a CSV's header is looked for: exports have titles above it."""
NO_OBJECTS = "holds neither JSON objects, one behind the other, nor an array of them"
QUOTED = re.compile(r"""(["']).*?\1""")
"""What an error quotes may be what somebody wrote."""
SURPLUS = "\0surplus"
"""Name of a column that is only the comma that rows end with."""

# Without hive_partitioning=false a folder named like a Hive partition would add a column. DuckDB's own default for
# buffer_size is as large; a multiple of the longest line would take most of the memory.
READERS = {
    "parquet": "read_parquet(?, hive_partitioning=false)",
    "csv": "read_csv(?, hive_partitioning=false, columns=?, delim=?, skip=?, null_padding=?, header=true, "
    "auto_detect=false, quote='\"', escape='\"', store_rejects=true, "
    f"max_line_size={MAX_LINE_BYTES}, buffer_size={MAX_LINE_BYTES})",
    "jsonl": "read_json(?, hive_partitioning=false, columns=?, format='newline_delimited', ignore_errors=true)",
    "json": "read_json(?, hive_partitioning=false, columns=?, format='array')",
}
"""DuckDB's table function for one file of each format; the parameters are those of ``scan``."""


class TooLargeRows(UserError):
    """DuckDB has no room for a file's rows; Python, which takes one at a time, has."""


@dataclass(frozen=True)
class Table:
    """One file as it is to be read."""

    path: Path
    format: str
    """``csv``, ``jsonl``, ``json`` (one array) or ``parquet``, which DuckDB reads; ``documents`` or ``text``."""
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    skip: int = 0
    """Lines above a CSV's header."""
    sample: tuple[Record, ...] = ()

    @property
    def paths(self) -> Paths:
        """Where the values of the first rows lie."""
        return Paths.of(self.sample)

    def scan(self) -> tuple[str, list[Any]]:
        """The SQL table function that yields the rows, and its parameters."""
        reader = READERS[self.format]
        types = dict.fromkeys(self.columns, "VARCHAR")
        parameters = [_literal(self.path), types, self.delimiter, self.skip, SURPLUS in self.columns]
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
    return duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": spill, "threads": THREADS})


def run(database: DuckDBPyConnection, path: Path, query: str, parameters: list[Any]) -> DuckDBPyConnection:
    """Run a query; DuckDB's errors about a file become one line, without what stands in the file.

    Raises UserError, TooLargeRows among them.
    """
    import duckdb

    try:
        return database.execute(query, parameters)
    except duckdb.Error as error:
        if isinstance(error, duckdb.OutOfMemoryException) or "maximum_object_size" in str(error):
            raise TooLargeRows(f"can't read {path}: its rows are too long; write it as JSON lines") from None
        said = str(error).splitlines()[0].replace(str(path.absolute()), path.name)
        raise UserError(f"can't read {path}: {QUOTED.sub('…', said)[:200]}") from None


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def describe(path: Path) -> Table:
    """Find a file's format by its suffix and its columns by its beginning. Raises UserError."""
    suffix = next((s for s in map(str.lower, reversed(path.suffixes)) if s != ".gz"), "")
    if suffix == ".parquet":
        return _describe_parquet(path)
    if suffix in (".log", ".txt", ".out") and _is_text_log(path):
        return Table(path, "text")
    if suffix in (".csv", ".tsv", ".txt"):
        return _describe_csv(path)
    if suffix in (".jsonl", ".ndjson", ".json", ".log", ".out"):
        return _describe_json(path)
    raise UserError(f"{path}: unknown format; use .csv, .parquet, .json or .jsonl")


def _is_text_log(path: Path) -> bool:
    words = [form.first_words for form in log_forms().values() if form.lines is not None]
    with open_text(path) as file:
        return any(word in line for line in islice(file, LOOKED_AT) for word in words)


def _describe_parquet(path: Path) -> Table:
    reader = READERS["parquet"]
    with connect() as database:
        names = [row[0] for row in run(database, path, f"DESCRIBE FROM {reader}", [_literal(path)]).fetchall()]
        query = f"SELECT to_json(r) FROM (FROM {reader} LIMIT {SAMPLE}) AS r"
        rows = [json.loads(row[0]) for row in run(database, path, query, [_literal(path)]).fetchall()]
    return Table(path, "parquet", tuple(names), sample=tuple(rows) or (dict.fromkeys(names),))


def _describe_csv(path: Path) -> Table:
    with open_text(path) as file:
        beginning = list(islice(file, HEADER_LINES))
    if not beginning:
        raise UserError(f"{path} is empty")
    said = re.fullmatch(r"sep=(.)\s*", beginning[0])
    above = [0 if said is None else 1]
    # The header may lie below titles and remarks: it is the first line that a form is recognised by.
    above += range(1, len(beginning)) if said is None else ()
    tables = (_csv_with_header(path, beginning, skip, said[1] if said else None) for skip in above)
    first = next(tables)
    if recognise(first.paths) is not None:
        return first
    return next((table for table in tables if _below_titles(first, table)), first)


def _below_titles(first: Table, table: Table) -> bool:
    """Whether a line further down is the header: the first line has fewer columns, and no numbers as data have."""
    return len(table.columns) > len(first.columns) and recognise(table.paths) is not None


def _csv_with_header(path: Path, beginning: list[str], skip: int, delimiter: str | None) -> Table:
    above_header = skip - (delimiter is not None)
    header = beginning[skip] if skip < len(beginning) else ""
    delimiter = delimiter or max(",;\t|", key=header.count)
    with open_text(path) as file:
        rows = csv.reader(islice(file, skip, None), delimiter=delimiter)
        names = next(rows, [])
        if not above_header and len({name.strip().lower() for name in names if name.strip()}) < sum(
            map(_filled, names)
        ):
            raise UserError(f"{path}: two columns have the same name")
        sample, trailing = [], False
        for row in islice(rows, SAMPLE):
            trailing = trailing or (len(row) == len(names) + 1 and not row[-1].strip())
            sample.append(dict(zip(names, row, strict=False)))
    if above_header == 0 and any("\ufffd" in name for name in names):
        raise UserError(f"{path} is not UTF-8: save it as UTF-8")
    columns = tuple(name if name.strip() else f"\0{k}" for k, name in enumerate(names))
    if len(set(columns)) < len(columns):
        columns = ()
    surplus = (SURPLUS,) if trailing else ()
    rows_seen = tuple(sample) or (dict.fromkeys(names, ""),)
    return Table(path, "csv", (*columns, *surplus), delimiter, skip, rows_seen)


def _filled(name: str) -> bool:
    return bool(name.strip())


def _describe_json(path: Path) -> Table:
    with open_text(path) as file:
        lines = (line for line in file if line.strip())
        first = next(lines, "")
        alone = next(lines, None) is None
    if not first:
        raise UserError(f"{path} is empty")
    if first.lstrip().startswith("["):
        return _described_array(path)
    whole = json_object(first) is not None
    if alone if whole else path.suffix.lower() == ".json" and first.lstrip().startswith("{"):
        return _described_document(path)
    return _described_lines(path)


def _described_lines(path: Path) -> Table:
    """JSON lines: rows of them, or documents with several records each."""
    with open_text(path) as file:
        sample = _first_records(json_object(line) for line in file if line.strip())
    if not sample:
        return _described_document(path)
    return _rows_or_documents(Table(path, "jsonl", sample=sample))


def _described_array(path: Path) -> Table:
    query = f"SELECT json FROM read_json_objects(?, format='array') LIMIT {LOOKED_AT}"
    with connect() as database:
        cursor = run(database, path, query, [_literal(path)])
        batches = iter(lambda: cursor.fetchmany(SAMPLE), [])
        sample = _first_records(json_object(row[0]) for batch in batches for row in batch)
    if not sample:
        raise UserError(f"{path} holds no JSON objects with token counts")
    return _rows_or_documents(Table(path, "json", sample=sample))


def _first_records(records: Iterator[Record | None]) -> tuple[Record, ...]:
    """The first records, and the first with token counts where it comes later."""
    objects = (record for record in islice(records, LOOKED_AT) if record is not None)
    sample: list[Record] = []
    size = 0
    for record in islice(objects, SAMPLE):
        sample.append(record)
        size += len(str(record))
        if size > SAMPLE_BYTES:
            break
    seen: set[frozenset[str]] = set()
    if not _has_counts(sample):
        for record in objects:
            kinds = frozenset(Paths.of([record]).leaves)
            if kinds not in seen and _has_counts([record]):
                return (*sample, record)
            seen.add(kinds)
    return tuple(sample)


def _has_counts(records: list[Record]) -> bool:
    form = recognise(Paths.of(records))
    return form is not None and form.refused is None


def _rows_or_documents(table: Table) -> Table:
    """Rows that a form is recognised by are read as such; others may have records inside."""
    columns = tuple(dict.fromkeys(key for record in table.sample for key in record))
    form = recognise(table.paths)
    nested = [record for record in table.sample if any(isinstance(value, list) for value in record.values())]
    if nested and (form is None or form.refused is not None or form.rows == "sums"):
        inside = [record for document in table.sample for record in records_in(document)]
        if inside and (found := recognise(Paths.of(inside))) is not None and found.refused is None:
            return replace(table, format="documents", sample=tuple(inside[:SAMPLE]))
    return replace(table, columns=columns)


def _described_document(path: Path) -> Table:
    """One JSON document, or several that span lines."""
    sample = tuple(record for document in documents(path) for record in records_in(document))
    if sample:
        return Table(path, "documents", sample=sample)
    shallow = [document for document in documents(path) if isinstance(document, Mapping)]
    if not shallow:
        raise UserError(f"{path} {NO_OBJECTS}")
    if not shallow[0]:
        raise UserError(f"{path} holds no JSON objects with token counts")
    return Table(path, "documents", tuple(shallow[0]), sample=tuple(shallow))


def documents(path: Path) -> Iterator[Any]:
    """The JSON values of a file, one behind the other. Raises UserError for what is none, and for too long a file."""
    with open_text(path) as file:
        text = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(text) > MAX_DOCUMENT_BYTES:
        raise UserError(f"{path} is one document of more than 512 MB: write it as JSON lines, a record in each line")
    decoder, at = json.JSONDecoder(), 0
    try:
        while at < len(text) and (found := re.compile(r"\S").search(text, at)):
            value, at = decoder.raw_decode(text, found.start())
            yield value
    except (ValueError, RecursionError):
        raise UserError(f"{path} {NO_OBJECTS}") from None


@contextmanager
def open_text(path: Path, errors: str = "replace") -> Iterator[TextIO]:
    """A file, unpacked where it is packed. Whatever is wrong with its bytes becomes one line."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        with opener(path, "rb") as raw:
            if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise UserError(f"{path} is UTF-16: save it as UTF-8")
        with opener(path, "rt", encoding="utf-8-sig", errors=errors, newline="") as file:
            yield file
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(f"can't read {path}: {error}") from None


def json_object(line: str) -> dict[str, Any] | None:
    """The object of a line; None for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
