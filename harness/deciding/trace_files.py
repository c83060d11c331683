"""Request logs as workloads. Files may be larger than memory: only the counts of sizes are kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding.logs.judge import SIDES, Meaning, Values, Verdict, judge, meaning_of, shared_out
from harness.deciding.logs.log import Log, open_log
from harness.deciding.logs.prefixes import cached_by_blocks
from harness.deciding.logs.records import raw_value, value_at
from harness.deciding.logs.rows import count_values, numbered_values, rows_of
from harness.deciding.logs.tables import Table, describe, matching_files
from harness.deciding.workload import (
    MEANS_ONLY,
    Workload,
    builtin_names,
    from_pairs,
    is_saved_workload,
    parse,
    with_output_tokens,
)

NAMED_BYTES = 2**24
"""Files up to this size are read again to name the rows that were left out."""
__all__ = ["Table", "describe", "load_workload", "read_request_log", "refuse_broken_rows", "rows_of", "token_columns"]

EXAMPLES = 5
"""Broken rows named in an error."""


@dataclass(frozen=True)
class Counted:
    """The requests of one file, and the rows that are none."""

    log: Log
    form: str
    input_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats
    """NaN where not known."""
    requests: Floats
    left_out: Counter[str]
    broken: int
    notes: tuple[str, ...]
    means_only: bool


def read_request_log(
    pattern: str,
    input_column: str | None = None,
    output_column: str | None = None,
    skip_bad: bool = False,
    form: str | None = None,
    sums: bool = False,
) -> Workload:
    """Count the sizes of one file's requests, or of all files' that a glob matches.

    The form of each file and its columns are found by their names, unless ``form`` or both columns are given. Rows that
    failed, were cancelled or answered from a cache are left out and counted. Rows that should be requests and have no
    whole numbers of tokens, below 1 or together above MAX_TOTAL_TOKENS, are refused with their line numbers, or left
    out with ``skip_bad``. Rows that sum up many requests are refused unless ``sums`` takes them at their mean sizes.
    Raises UserError for missing files, unknown columns and broken rows; MissingDependency without duckdb.
    """
    files: list[Counted] = []
    examples: list[str] = []
    for path in matching_files(pattern):
        log = open_log(describe(path), form, input_column, output_column)
        values, unreadable = count_values(log)
        meaning = _meaning(log, values)
        counted = _count(log, values, meaning, unreadable)
        files.append(counted)
        if counted.broken and not skip_bad and len(examples) < EXAMPLES:
            found = broken_rows(log, meaning)
            examples += [example for example, _ in zip(found, range(EXAMPLES - len(examples)), strict=False)]
    broken = sum(counted.broken for counted in files)
    if broken and not skip_bad:
        raise UserError(refusal(pattern, broken, examples, _remedy(files)))
    if not sums and any(counted.means_only for counted in files):
        raise UserError(f"{pattern} has rows that sum up many requests: {MEANS_ONLY}")
    return _workload(pattern, files)


def _remedy(files: Sequence[Counted]) -> str:
    said = "Mend the file or leave them out with --skip-bad"
    if not any("total disagrees" in counted.left_out for counted in files):
        return said
    return (
        f"{said}; --form gemini counts what a total has more as output; with --input-column and --output-column no "
        "total is asked"
    )


def _workload(pattern: str, files: Sequence[Counted]) -> Workload:
    left_out = sum((counted.left_out for counted in files), Counter[str]())
    m, n, requests, cached = (
        np.concatenate([getattr(counted, name) for counted in files])
        for name in ("input_tokens", "output_tokens", "requests", "cached_tokens")
    )
    if m.size == 0:
        said = ", ".join(f"{rows:,} {reason}" for reason, rows in left_out.items())
        raise UserError(f"{pattern} holds no requests{': ' + said if said else ''}")
    known = np.isfinite(cached).any()
    made = from_pairs(
        Path(pattern).name,
        pattern,
        m.astype(np.int64),
        n.astype(np.int64),
        requests,
        np.nan_to_num(cached) if known else None,
    )
    columns: dict[str, str] = {}
    for counted in files:
        columns = {**counted.log.columns, **columns}
    notes = dict.fromkeys(note for counted in files for note in counted.notes)
    if known and not np.isfinite(cached).all():
        notes["rows that don't say how many tokens were cached count as having none"] = None
    return replace(
        made,
        dropped_rows=sum(counted.broken for counted in files),
        left_out=dict(left_out),
        form=", ".join(dict.fromkeys(counted.form for counted in files)),
        columns=columns,
        notes=tuple(notes),
        means_only=any(counted.means_only for counted in files),
    )


def _meaning(log: Log, values: Values) -> Meaning:
    try:
        return meaning_of(values, log.form, log.semicolons, log.native_input, log.headers)
    except UserError as error:
        raise UserError(f"{log.table.path}: {error}") from None


def _count(log: Log, values: Values, meaning: Meaning, unreadable: int) -> Counted:
    verdict = judge(values, log.form, meaning)
    good = verdict.reason == ""
    left_out: Counter[str] = Counter()
    for reason in sorted(set(verdict.reason[~good].tolist())):
        left_out[reason] = int(values.rows[verdict.reason == reason].sum())
    if unreadable:
        left_out["unreadable"] += unreadable
    broken = int(values.rows[verdict.broken].sum()) + unreadable
    means_only = meaning.rows == "sums"
    m, n, cached = (x[good] for x in (verdict.input_tokens, verdict.output_tokens, verdict.cached_tokens))
    requests = verdict.count[good] * values.rows[good]
    notes = meaning.notes
    if left_out and log.table.path.stat().st_size <= NAMED_BYTES:
        notes = (*notes, *_named_rows(log, meaning))
    if log.blocks is not None:
        m, n, cached, note = cached_by_blocks(log, meaning)
        requests, notes = np.ones(m.shape), (*notes, note)
    if means_only:
        m, n, requests, cached, notes = _means(log, verdict, values, notes)
    name = "counted" if (meaning.rows, log.form.rows) == ("sizes", "sums") else log.form.name
    return Counted(log, name, m, n, cached, requests, left_out, broken, notes, means_only)


def _means(
    log: Log, verdict: Verdict, values: Values, notes: tuple[str, ...]
) -> tuple[Floats, Floats, Floats, Floats, tuple[str, ...]]:
    """Requests of their row's mean size. Raises UserError where nothing says how many requests a row sums up."""
    if "count" not in values.numbers:
        raise UserError(
            f"{log.table.path} has rows that sum up many requests, and no column says how many: export single "
            "requests, or a count of requests with each row"
        )
    good = verdict.reason == ""
    rows = values.rows[good]
    m, n, requests = (x[good] * rows for x in (verdict.input_tokens, verdict.output_tokens, verdict.count))
    if not requests.size:
        return m, n, requests, m, notes
    cached = (verdict.cached_tokens[good] * rows).sum() / m.sum()
    sums = len(requests)
    m, n, requests = shared_out(m, n, requests)
    said = "1 row sums up" if sums == 1 else f"{sums:,} rows sum up"
    note = f"{said} {requests.sum():,.0f} requests: sizes within a row are unknown and taken as their mean"
    return m, n, requests, cached * m, (*notes, note)


def broken_rows(log: Log, meaning: Meaning) -> Iterator[str]:
    """Where the broken rows are and what stands there, in file order."""
    name = log.table.path.name
    for places, values in numbered_values(log):
        verdict = judge(values, log.form, meaning, whole_file=False)
        for k, (where, wrong) in enumerate(zip(places.where, places.unreadable, strict=True)):
            if wrong:
                yield f"{name} {where}{'' if wrong.startswith(':') else ' '}{wrong}"
            elif verdict.broken[k]:
                m, n = (_shown_value(raw_value(places.records[k], log.numbers[side])) for side in SIDES)
                yield f"{name} {where} has {m} in, {n} out{_more(log, places.records[k], verdict.reason[k])}"


def _named_rows(log: Log, meaning: Meaning) -> list[str]:
    """Which rows were left out, the first of each reason."""
    places: dict[str, list[str]] = {}
    for batch, values in numbered_values(log):
        verdict = judge(values, log.form, meaning, whole_file=False)
        for where, reason, broken in zip(batch.where, verdict.reason.tolist(), verdict.broken.tolist(), strict=True):
            if reason and not broken:
                places.setdefault(reason, []).append(where)
    return [
        f"{log.table.path.name}: left out as {reason}: {', '.join(where[:EXAMPLES])}{' …' * (len(where) > EXAMPLES)}"
        for reason, where in places.items()
    ]


def _more(log: Log, record: object, reason: str) -> str:
    """What else is wrong with a row."""
    what = {"total disagrees": "total", "no count": "count"}.get(reason)
    if what is None:
        return ""
    said = next((_shown_value(value_at(record, parts[0])) for parts in log.numbers[what]), "nothing")
    return f" but a total of {said}" if what == "total" else f" and a count of {said}"


def _shown_value(value: object) -> str:
    """One line, whatever stands there; no words, since columns may hold what people wrote."""
    said = " ".join(("" if value is None else str(value)).split())
    if not said:
        return "nothing"
    looks_like_number = any(c.isdigit() for c in said) and not any(c.isalpha() and c not in "eE" for c in said)
    return said[:20] if looks_like_number or said.lower() in WORDS_SHOWN else "text"


WORDS_SHOWN = ("nan", "inf", "-inf", "true", "false", "null", "none")
"""Words that programs write where numbers should be."""


def refusal(where: str, broken: int, examples: Sequence[str], remedy: str) -> str:
    """One line that names the first broken rows."""
    more = " …" if broken > len(examples) else ""
    rows = "1 broken row" if broken == 1 else f"{broken:,} broken rows"
    return f"{where}: {rows}: {'; '.join(examples)}{more}. {remedy}"


def token_columns(table: Table, input_column: str | None, output_column: str | None) -> tuple[str, str]:
    """Names of a log's input and output token columns, nested ones as a.b.c. Raises UserError when there are none."""
    log = open_log(table, None, input_column, output_column)
    m, n = (".".join(log.numbers[side][0][0]) for side in SIDES)
    return m, n


def refuse_broken_rows(table: Table, m_column: str, n_column: str) -> None:
    """Raise UserError with the line numbers of rows that are no requests, which readers would pass over."""
    log = open_log(table, None, m_column, n_column)
    values, unreadable = count_values(log)
    meaning = _meaning(log, values)
    if broken := int(values.rows[judge(values, log.form, meaning).broken].sum()) + unreadable:
        examples = [example for example, _ in zip(broken_rows(log, meaning), range(EXAMPLES), strict=False)]
        raise UserError(refusal(str(table.path), broken, examples, "Mend the file"))


def load_workload(
    spec: str | os.PathLike[str],
    input_column: str | None = None,
    output_column: str | None = None,
    skip_bad: bool = False,
    output_tokens: int | None = None,
    form: str | None = None,
    sums: bool = False,
) -> Workload:
    """Load a workload: a built-in name, a file written by ``save``, or a log (CSV, Parquet, JSON, a glob).

    ``skip_bad`` leaves broken rows out instead of refusing; ``output_tokens`` sets every output length to this many;
    ``form`` names the log's form; ``sums`` takes rows that sum up many requests, at their mean sizes.
    Raises UserError when there is no such workload or its content can't be used.
    """
    name, path = os.fspath(spec), Path(spec)
    built_in = name in builtin_names()
    if built_in or (path.suffix == ".json" and path.is_file() and is_saved_workload(path)):
        if input_column is not None or output_column is not None or form is not None:
            raise UserError(f"{name} is a workload, not a trace: leave out --form, --input-column and --output-column")
        file = resources.files("profiles") / f"{name}.json" if built_in else path
        loaded = parse(file.read_text("utf-8"), name)
    else:
        loaded = read_request_log(name, input_column, output_column, skip_bad, form, sums)
    return loaded if output_tokens is None else with_output_tokens(loaded, output_tokens)
