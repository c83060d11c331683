"""The records of a file one by one, with their places."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from harness.core.errors import UserError
from harness.deciding.logs.documents import records_in
from harness.deciding.logs.form import LogForm, Record
from harness.deciding.logs.names import KeyPath, packed
from harness.deciding.logs.tables import SURPLUS, Table, connect, documents, json_object, open_text, run

BATCH = 10_000
"""Records read at a time."""


def numbered_records(table: Table, form: LogForm) -> Iterator[tuple[str, str, Record]]:
    """(place, what makes it unreadable, record) of each row."""
    if table.format == "csv":
        yield from _csv_records(table)
    elif table.format == "jsonl":
        with open_text(table.path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = json_object(line)
                    yield f"line {number}", "" if record is not None else "is not a JSON object", record or {}
    else:
        records = _other_records(table, form)
        yield from ((f"row {number}", "", record) for number, record in enumerate(records, start=1))


def _other_records(table: Table, form: LogForm) -> Iterator[Record]:
    if table.format == "text":
        yield from printed_records(table, form)
    elif table.format == "documents":
        for document in documents(table.path):
            yield from records_in(document) or ([document] if isinstance(document, Mapping) else [])
    else:
        scan, parameters = table.scan()
        with connect() as database:
            cursor = run(database, table.path, f"SELECT to_json(r) FROM {scan} AS r", parameters)
            while rows := cursor.fetchmany(BATCH):
                yield from (json.loads(row[0]) for row in rows)


def _csv_records(table: Table) -> Iterator[tuple[str, str, Record]]:
    names = [name for name in table.columns if name != SURPLUS]
    # Bytes that are no UTF-8 become characters that UTF-8 can't have.
    with open_text(table.path, "surrogateescape") as file:
        reader = csv.reader(islice(file, table.skip, None), delimiter=table.delimiter, strict=True)
        next(reader)
        while True:
            place = f"line {table.skip + reader.line_num + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield place, f": {error} (is a quote missing?)", {}
                continue
            spare = SURPLUS in table.columns and len(fields) == len(names) + 1 and not fields[-1].strip()
            fits = len(fields) == len(names) or spare
            if fields:
                wrong = "" if fits else f"has {len(fields)} of {len(names)} columns"
                if any("\udc80" <= c <= "\udcff" for field in fields for c in field):
                    wrong = "is not UTF-8 (save the file as UTF-8)"
                yield place, wrong, dict(zip(names, fields, strict=False))


def value_at(record: Any, path: KeyPath) -> Any:
    """What stands at a path of a record; None where nothing does."""
    for key in path:
        record = packed(record) if isinstance(record, str) else record
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def raw_value(record: Record, alternatives: Sequence[Sequence[KeyPath]]) -> Any:
    """The first alternative that a record has."""
    found = (value_at(record, parts[0]) for parts in alternatives)
    return next((value for value in found if value is not None), None)


def printed_records(table: Table, form: LogForm) -> Iterator[Record]:
    """What a log that is text says of each request."""
    if form.lines is None:
        raise UserError(f"{table.path} is text, which the form {form.name} isn't")
    with open_text(table.path) as file:
        yield from form.lines(file)
