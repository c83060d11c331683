"""A file of requests: its form, and where its values lie."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from harness.core.errors import UserError
from harness.deciding.logs import form_called, recognise
from harness.deciding.logs.form import BATCH_SIZE, SKIPS, LogForm, bare_name
from harness.deciding.logs.judge import SIDES
from harness.deciding.logs.names import KeyPath, Paths, pairs_of, sums_of
from harness.deciding.logs.records import printed_records, raw_value, value_at
from harness.deciding.logs.tables import SAMPLE, Table

PERIODS = ("date", "day", "month", "week", "usage_date", "usage_date_utc", "period", "bucket", "start_date")
IDS = ("id", "request_id", "uuid", "generation_id", "trace_id", "response_id")
DATE = re.compile(r"\d{4}-\d{2}(-\d{2})?|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
MANY_TOKENS = 20_000
"""A mean input from which on rows with a date each are taken for sums."""
MAX_NAME = 40
"""Characters of a column's name that is shown."""
NATIVE = ("inputtokens", "usageinputtokens", "inputtokencount", "uncachedinputtokens")
"""Names of an input that is counted without its cached part, where nothing else says how."""


@dataclass(frozen=True)
class Log:
    """A file of requests, its form, and where its values lie."""

    table: Table
    form: LogForm
    numbers: Mapping[str, Sequence[Sequence[KeyPath]]]
    """By what they count: alternatives, each a sum of paths."""
    said: Mapping[str, KeyPath]
    """By the names of ``Skip``."""
    time: KeyPath | None
    blocks: KeyPath | None
    identity: KeyPath | None
    named: bool = False
    """The columns were named by the user, who knows what they hold: no total is asked."""

    @cached_property
    def used(self) -> list[KeyPath]:
        """Every path that is used, once."""
        counts = [path for found in self.numbers.values() for parts in found for path in parts]
        others = [path for path in (self.time, self.identity, self.blocks) if path is not None]
        return list(dict.fromkeys([*counts, *self.said.values(), *others]))

    @cached_property
    def nested(self) -> dict[str, list[KeyPath]]:
        """The paths used inside each column."""
        inside: dict[str, list[KeyPath]] = {}
        for path in self.used:
            if len(path) > 1:
                inside.setdefault(path[0], []).append(path)
        return inside

    @property
    def columns(self) -> dict[str, str]:
        """What was used for what, for people."""
        return {
            what: " or ".join(dict.fromkeys(" + ".join(".".join(path) for path in parts) for parts in found))
            for what, found in self.numbers.items()
        }

    @property
    def headers(self) -> tuple[str, str]:
        m, n = (self.numbers[side][0][0][-1] for side in SIDES)
        return m, n

    @property
    def native_input(self) -> bool:
        """Whether the input's name is one that most count without its cached part."""
        return bare_name(self.headers[0]) in NATIVE

    @property
    def semicolons(self) -> bool:
        return self.table.format == "csv" and self.table.delimiter == ";"


def open_log(table: Table, form_name: str | None, input_column: str | None, output_column: str | None) -> Log:
    """Find a file's form and where its values lie. Raises UserError where no form fits, or the one named doesn't."""
    if (input_column is None) != (output_column is None):
        raise UserError("name both token columns: --input-column and --output-column")
    form = form_called(form_name) if form_name else None
    if table.format == "text":
        form = form or form_called("llama-server-log")
        table = replace(table, sample=tuple(islice(printed_records(table, form), SAMPLE)))
    paths = table.paths
    form = form or recognise(paths)
    named = None
    if input_column is not None and output_column is not None:
        named = _named(table, paths, input_column, output_column)
        form = form if form is not None and form_name else form_called("columns")
    if form is None:
        raise UserError(_unknown(table))
    if named is None and form.refused is not None:
        raise UserError(f"{table.path} {form.refused.replace('FILE', str(table.path))}")
    pairs = [named] if named else pairs_of(form, paths)
    if not pairs:
        wanted = " or ".join("/".join(pair) for pair in form.pairs[:5])
        raise UserError(
            f"{table.path} has no columns {wanted}, as the form {form.name} has; it has {shown_columns(table)}"
        )
    log = _log(table, form, pairs, named is not None)
    _refuse_doubles(log)
    if form_name is None and named is None:
        _refuse_periods(log)
    return log


def _refuse_doubles(log: Log) -> None:
    """Raise UserError where another column has the name of one that is used, spelled a little differently."""
    names = [bare_name(name) for name in log.table.columns]
    used = {path[0] for side in SIDES for parts in log.numbers[side] for path in parts if len(path) == 1}
    if not log.named and (doubled := [name for name in sorted(used) if names.count(bare_name(name)) > 1]):
        raise UserError(
            f"{log.table.path}: two columns have the same name, {doubled[0]}: say which with --input-column and "
            "--output-column"
        )


def _refuse_periods(log: Log) -> None:
    """Raise UserError for rows that seem to sum up a day or a month: one for each, of very many tokens."""
    paths = log.table.paths
    dates = next((path for name in PERIODS if (path := paths.find(name))), None)
    if dates is not None and log.form.rows == "sizes":
        raise UserError(
            f"{log.table.path}: rows have a {dates[-1]} and a count: are they sums of so many requests (--form sums), "
            "or the sizes of each (--form counted)?"
        )
    if log.form.rows != "requests":
        return
    if dates is None or any(paths.find(name) for name in IDS) or len(log.table.sample) < 2:
        return
    counts = {path for alternatives in log.numbers.values() for parts in alternatives for path in parts}
    kinds = [path for path in paths.leaves.values() if path not in counts]
    said = [tuple(str(value_at(record, path)) for path in kinds) for record in log.table.sample]
    tokens = [raw_value(record, log.numbers["input"]) for record in log.table.sample]
    many = [float(str(each)) for each in tokens if str(each).replace(".", "", 1).isdigit()]
    days = [str(value_at(record, dates)).strip() for record in log.table.sample]
    if (
        all(DATE.fullmatch(day) for day in days)
        and len(set(said)) == len(said)
        and sum(many) > MANY_TOKENS * max(len(many), 1)
    ):
        raise UserError(
            f"{log.table.path}: each row seems to sum up the requests of a {dates[-1]}, and nothing says of how many: "
            f"export single requests; if each row is one request, say --form {log.form.name}"
        )


def _log(table: Table, form: LogForm, pairs: Sequence[tuple[KeyPath, KeyPath]], named: bool) -> Log:
    paths = table.paths
    numbers: dict[str, Sequence[Sequence[KeyPath]]] = {
        side: [[pair[k]] for pair in pairs] for k, side in enumerate(SIDES)
    }
    taken = {path for pair in pairs for path in pair}
    names = {
        "cached": form.cached,
        "cache_read": () if named else form.cache_read,
        "cache_write": () if named else form.cache_write,
        "more_input": () if named else form.more_input,
        "reasoning": () if named else form.reasoning,
        "total": () if named else form.total,
        "count": form.count,
        "batch": BATCH_SIZE,
    }
    for what, alternatives in names.items():
        found = [parts for parts in sums_of(alternatives, paths) if not taken & set(parts)]
        if found:
            # Alternatives are names for one thing; only interfaces that stand side by side need more than one.
            numbers[what] = found if form.mixed else found[:1]
    skips = {name for skip in (*form.skips, *SKIPS) for name in skip.names}
    said = {name: path for name in sorted(skips) if (path := paths.find(name, holders=True)) and path not in taken}
    times = [path for name in form.time if (path := paths.find(name))]
    blocks = [path for name in form.blocks if (path := paths.find(name, holders=True))]
    same = [path for name in form.identity if (path := paths.find(name))]
    time, block, identity = (next(iter(found), None) for found in (times, blocks, same))
    return Log(table, form, numbers, said, time, block, identity, named)


def _named(table: Table, paths: Paths, input_column: str, output_column: str) -> tuple[KeyPath, KeyPath]:
    if input_column.lower() == output_column.lower():
        raise UserError("--input-column and --output-column name the same column")
    found = []
    for name in (input_column, output_column):
        exact = {path[0].strip().lower(): path for path in paths.leaves.values() if len(path) == 1}
        path = exact.get(name.strip().lower()) or paths.find(name)
        if path is None:
            raise UserError(
                f"{table.path} has no columns {input_column}/{output_column}; it has {shown_columns(table)}"
            )
        found.append(path)
    return found[0], found[1]


def _unknown(table: Table) -> str:
    if not any(value not in ("", None) for record in table.sample for value in record.values()):
        return f"{table.path} has no requests: nothing stands below the names of its columns"
    if _headerless(table):
        return f"{table.path} has no columns with names: its first line has numbers. Add a line of names above it"
    return (
        f"{table.path} has no columns of input and output tokens that are known, such as input_tokens/output_tokens; "
        f"it has {shown_columns(table)}. Name them with --input-column and --output-column (a.b.c for nested ones), or "
        "the form with --form"
    )


def _headerless(table: Table) -> bool:
    """Whether the first line of a CSV is data: the texts in it must not be taken for names."""
    return table.format == "csv" and any(_is_number(name) for name in table.columns)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def shown_columns(table: Table) -> str:
    """Names of a file's columns, but of none that may be a text: a file without a header has its first row there."""
    if _headerless(table):
        return "numbers in place of names: add a line of names above the first"
    paths = table.paths
    nested = [path for path in (*paths.leaves.values(), *paths.lists.values()) if len(path) > 1]
    top = table.columns or tuple(dict.fromkeys(key for record in table.sample for key in record))
    names = [*(name for name in top if name not in {path[0] for path in nested}), *map(".".join, nested)]
    shown = [n.strip() for n in names if len(n) <= MAX_NAME and len(n.split()) <= 3 and "\0" not in n][:20]
    hidden = len([name for name in names if "\0" not in name]) - len(shown)
    return ", ".join([*shown, *([f"{hidden} more"] if hidden else [])]) or "none"
