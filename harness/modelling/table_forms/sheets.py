"""Files of measurements as rows: CSV, JSON, JSON lines, Parquet. No error quotes what stands in a cell."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from harness.core.errors import MissingDependency, UserError, pip_install
from harness.modelling.table_forms.form import Sheet, TableForm, TableRow, plain_column

TEXT = (".csv", ".tsv", ".txt")
LINES = (".jsonl", ".ndjson")
MOST_BYTES = 2**29
HEADER_LINES = 30
"""Lines among which a header is looked for: exports have titles above it."""
_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
Recognised = Callable[[Sequence[str]], bool]
Headerless = Callable[[Sequence[str]], TableForm | None]


def read_sheet(path: Path, recognised: Recognised, headerless: Headerless, needs: str) -> Sheet:
    """The rows of a file. Raises UserError.

    ``recognised`` says whether column names are those of some form, ``headerless`` gives the form of a file without
    them, by the cells of its first line. ``needs`` says what a table needs.
    """
    suffix = path.suffix.lower()
    if suffix in _SPREADSHEETS:
        raise UserError(f"{path} can't be read: save the sheet as CSV")
    if suffix == ".parquet":
        return _parquet(path)
    text = _text(path)
    if suffix in LINES or suffix == ".json" or (suffix not in TEXT and text.lstrip()[:1] in ("{", "[")):
        return _json(path, text, suffix in LINES, needs)
    return _csv(path, text, recognised, headerless, needs)


def _text(path: Path) -> str:
    what = "JSON" if path.suffix.lower() in (".json", *LINES) else "CSV"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is larger than 512 MB: that is no table of trials")
        content = path.read_bytes()
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{path} can't be read as {what}: it is UTF-16; save it as UTF-8")
        return content.decode("utf-8-sig")
    except UnicodeError:
        raise UserError(f"{path} can't be read as {what}: it is not UTF-8; save it as that") from None
    except OSError as error:
        raise UserError(f"{path} can't be read as {what}: {error.strerror or error}") from None


def _csv(path: Path, text: str, recognised: Recognised, headerless: Headerless, needs: str) -> Sheet:
    text = _table_lines(text)
    said = re.match(r"sep=(.)\r?\n", text)
    body = text[said.end() :] if said else text
    first = body.lstrip("\r\n").partition("\n")[0]
    delimiter = said[1] if said else max(",;\t|", key=first.count)
    try:
        reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num + bool(said), row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{path} can't be read as CSV: {error}") from None
    if not lines:
        raise UserError(f"{path} holds no trials; it needs {needs}")
    if form := headerless(lines[0][1]):
        sheet = _filled(path, form.header[: len(lines[0][1])], lines, delimiter)
        return replace(sheet, form=form.name)
    titles = next((k for k, (_, row) in enumerate(lines[:HEADER_LINES]) if recognised(row)), 0)
    header = tuple(name.strip() or f"column {k + 1}" for k, name in enumerate(lines[titles][1]))
    return _filled(path, header, lines[titles + 1 :], delimiter, needs)


def _table_lines(text: str) -> str:
    """A table in Markdown without its frame, its line numbers kept; other text as it is."""
    lines = text.splitlines()
    if sum(line.lstrip().startswith("|") for line in lines[:HEADER_LINES]) < 3:
        return text
    inner = [line.strip().strip("|") if line.lstrip().startswith("|") else "" for line in lines]
    return "\n".join("" if set(line) <= set("-:| ") else line for line in inner)


def _filled(
    path: Path, header: tuple[str, ...], lines: Sequence[tuple[int, list[str]]], delimiter: str, needs: str = ""
) -> Sheet:
    if not lines:
        raise UserError(f"{path} holds no trials; it needs {needs}")
    spelled = [plain_column(name) for name in header]
    twice = {name for name, plainly in zip(header, spelled, strict=True) if plainly and spelled.count(plainly) > 1}
    if twice:
        raise UserError(f"{path} has the column {min(twice).lower()} twice")
    # Spreadsheets end in rows without anything.
    lines = [(line, row) for line, row in lines if any(cell.strip() for cell in row)]
    wrong = [(line, row) for line, row in lines if len(row) != len(header)]
    if wrong:
        line, row = wrong[0]
        more = f"; so have {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{path}, line {line} has {len(row)} fields, the header {len(header)}{more}")
    rows = tuple(TableRow(f"line {line}", dict(zip(header, row, strict=True))) for line, row in lines)
    return Sheet(path, header, rows, semicolons=delimiter == ";")


def _json(path: Path, text: str, lines: bool, needs: str) -> Sheet:
    by_line = lines or not _parses(text)
    values = list(_json_lines(path, text)) if by_line else [("record", json.loads(text))]
    rows = [row for label, value in values for row in _records(label, value)]
    if not rows:
        raise UserError(f"{path} holds no trials; it needs {needs}")
    columns = dict.fromkeys(name for row in rows for name in row.cells)
    return Sheet(path, tuple(columns), tuple(rows))


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{path}, line {number} is no JSON") from None


def _records(label: str, value: Any) -> Iterator[TableRow]:
    """The records of a JSON value: an object, an array of them, or those of an array in an object, each with what
    stands beside it; or of an object of columns, as arrays or by row numbers."""
    if isinstance(value, list):
        for number, item in enumerate(value, start=1):
            yield from _records(f"record {number}", item)
    if not isinstance(value, Mapping):
        return
    if columns := _columns_of(value):
        for number, cells in enumerate(zip(*columns.values(), strict=True), start=1):
            yield TableRow(f"row {number}", dict(zip(columns, cells, strict=True)))
        return
    inner = [key for key, held in value.items() if _are_objects(held)]
    if not inner:
        yield TableRow(label, dict(_flat(value)))
        return
    key = max(inner, key=lambda name: len(value[name]))
    beside = dict(_flat({name: held for name, held in value.items() if name not in inner}))
    for number, item in enumerate(value[key], start=1):
        yield TableRow(f"{key}, record {number}", beside | dict(_flat(item)))


def _columns_of(value: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns of an object that has nothing but columns of one length; empty where it is none."""
    columns = {name: list(held.values()) if isinstance(held, Mapping) else held for name, held in value.items()}
    lengths = {len(held) if isinstance(held, list) else -1 for held in columns.values()}
    if len(columns) < 3 or len(lengths) != 1 or lengths <= {-1, 0}:
        return {}
    nested = any(isinstance(cell, Mapping | list) for held in columns.values() for cell in held)
    rows = {tuple(held) for held in value.values() if isinstance(held, Mapping)}
    return {} if nested or len(rows) > 1 else columns


def _are_objects(held: Any) -> bool:
    return isinstance(held, list) and bool(held) and all(isinstance(item, Mapping) for item in held)


def _flat(record: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping) and depth < 20:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _parquet(path: Path) -> Sheet:
    import pandas as pd

    try:
        records = pd.read_parquet(path, engine="pyarrow").to_dict("records")
    except ImportError:
        raise MissingDependency(f"Parquet needs pyarrow: install it with {pip_install('pyarrow>=15')}") from None
    except OSError as error:
        raise UserError(f"{path} can't be read as Parquet: {error.strerror or 'it is damaged or none'}") from None
    except ValueError:
        # As pyarrow's errors are.
        raise UserError(f"{path} can't be read as Parquet: it is damaged or none") from None
    rows = tuple(
        TableRow(f"row {number}", dict(_flat(cast("Mapping[str, Any]", record))))
        for number, record in enumerate(records, start=1)
    )
    if not rows:
        raise UserError(f"{path} holds no trials")
    return Sheet(path, tuple(dict.fromkeys(name for row in rows for name in row.cells)), rows)


def is_missing(cell: Any) -> bool:
    """Whether nothing stands in a cell."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return isinstance(cell, str) and cell.strip().lower() in ("", "nan", "na", "n/a", "null", "none", "-", "<na>")


def texts(cells: Iterable[Any]) -> list[str]:
    """The cells that are text, without those that are missing."""
    return [cell.strip() for cell in cells if isinstance(cell, str) and not is_missing(cell)]
