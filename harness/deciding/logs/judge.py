"""Which rows of a log are requests, and of which sizes: totals decide, and every row that isn't one has its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding.logs.form import SAYS_NOTHING, SKIPS, LogForm, Skip, bare_name
from harness.deciding.logs.spelling import Spelling, spelling_of
from harness.modelling.cost_function import MAX_TOTAL_TOKENS

Texts = NDArray[np.object_]
NUMBERS = (
    "input",
    "output",
    "cached",
    "cache_read",
    "cache_write",
    "more_input",
    "reasoning",
    "total",
    "count",
    "batch",
)
SIDES = ("input", "output")
ROWS_OF_A_SUM = 4
TOKENS_OF_A_SUM = 100
"""From so many rows and tokens on, a row that is the sum of all others is no chance."""


@dataclass(frozen=True)
class Values:
    """What rows say, or groups of like rows: arrays of one length."""

    numbers: dict[str, Floats]
    """By what they count (``NUMBERS``), NaN where nothing stands; absent where the log has none."""
    odd: dict[str, Texts]
    """Numbers that aren't spelled as plain ones, otherwise None: input, output and what else one value says."""
    said: dict[str, Texts]
    """By the names of ``Skip``: what stands there, in lower case."""
    rows: Floats
    """How many rows each entry stands for."""
    totals: NDArray[np.bool_]
    """Rows that some column calls a total."""
    repeated: NDArray[np.bool_]
    """Rows of a request that another row says more of."""

    def number(self, what: str) -> Floats:
        return self.numbers.get(what, np.full(self.rows.shape, np.nan))


@dataclass(frozen=True)
class Meaning:
    """What the numbers of a file mean, the same for all its rows."""

    spelling: Spelling
    cache_beside: bool
    """Cached tokens are not in the input."""
    reasoning_beside: bool
    """Reasoning is not in the output."""
    rows: str
    """``requests``, ``sizes`` or ``sums``."""
    headers: tuple[str, str] = ("", "")
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """For each entry its size, or why it is no request."""

    input_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats
    """NaN where not known."""
    count: Floats
    """Requests that one row of the entry stands for."""
    reason: Texts
    """Empty for requests."""
    broken: NDArray[np.bool_]
    """Rows that should be requests and can't be read, of those with a reason."""


def meaning_of(
    values: Values, form: LogForm, semicolons: bool, native_input: bool, headers: tuple[str, str]
) -> Meaning:
    """What the numbers of all rows together say of themselves.

    ``native_input``: the input's name is one that is counted without its cached part. Raises UserError where numbers
    can be read in two ways.
    """
    columns = []
    for what, odd in values.odd.items():
        plain_too = bool(np.isfinite(values.number(what)[odd == None]).any())  # noqa: E711  entry by entry
        columns.append(([text for text in set(odd.tolist()) if text], plain_too))
    spelling = spelling_of(columns, semicolons)
    if spelling.unclear:
        raise UserError(
            f"'{spelling.unclear}' can be read as {spelling.unclear.replace('.', '').replace(',', '')} tokens or as "
            f"{spelling.unclear.split('.')[0].split(',')[0]}: write token counts without points and commas"
        )
    values = spelled(values, spelling)
    m, n = values.number("input"), values.number("output")
    with np.errstate(invalid="ignore"):
        cache_beside, cache_note = _cache_beside(values, m, n, form, native_input)
        reasoning_beside, reasoning_note = _reasoning_beside(values, m, n, form, cache_beside)
        rows, rows_note = _rows(values, m, n, form)
    return Meaning(spelling, cache_beside, reasoning_beside, rows, headers, (*cache_note, *reasoning_note, *rows_note))


def spelled(values: Values, spelling: Spelling) -> Values:
    """The same with the numbers that are spelled oddly."""
    numbers = dict(values.numbers)
    for what, texts in values.odd.items():
        odd = np.flatnonzero(texts != None)  # noqa: E711  entry by entry
        if odd.size:
            numbers[what] = numbers[what].copy()
            numbers[what][odd] = [spelling.number(text) for text in texts[odd]]
    return replace(values, numbers=numbers)


def _beside(values: Values) -> tuple[Floats, Floats]:
    """Cached tokens, and those beside the input altogether; 0 where nothing is said."""
    read = np.where(np.isnan(values.number("cache_read")), values.number("cached"), values.number("cache_read"))
    read, written = np.nan_to_num(read), np.nan_to_num(values.number("cache_write"))
    return read, read + written


def _cache_beside(values: Values, m: Floats, n: Floats, form: LogForm, native: bool) -> tuple[bool, tuple[str, ...]]:
    _, beside = _beside(values)
    some = beside > 0
    own_names = "cache_read" in values.numbers or "cache_write" in values.numbers
    declared = form.cache_beside if form.cache_beside is not None else native and own_names
    total, reasoning = values.number("total"), np.nan_to_num(values.number("reasoning"))
    within = some & ((total == m + n) | (total == m + n + reasoning))
    without = some & ((total == m + beside + n) | (total == m + beside + n + reasoning))
    if within.sum() != without.sum():
        found, why = bool(without.sum() > within.sum()), "their totals say so"
    elif bool((some & (beside > m)).any()):
        found, why = True, "it is larger in some rows"
    else:
        found, why = declared, ""
    if found == declared:
        return found, ()
    return found, (f"the cached part of prompts was taken to be {'beside' if found else 'in'} the input: {why}",)


def _reasoning_beside(
    values: Values, m: Floats, n: Floats, form: LogForm, cache_beside: bool
) -> tuple[bool, tuple[str, ...]]:
    reasoning = np.nan_to_num(values.number("reasoning"))
    some = reasoning > 0
    whole = m + (_beside(values)[1] if cache_beside else 0)
    total = values.number("total")
    within, without = some & (total == whole + n), some & (total == whole + n + reasoning)
    if within.sum() != without.sum():
        found, why = bool(without.sum() > within.sum()), "their totals say so"
    elif bool((some & (reasoning > n)).any()):
        found, why = True, "it is more than the output in some rows"
    else:
        found, why = form.reasoning_beside, ""
    if found == form.reasoning_beside:
        return found, ()
    return found, (f"reasoning tokens were taken to be {'beside' if found else 'in'} the output: {why}",)


def _rows(values: Values, m: Floats, n: Floats, form: LogForm) -> tuple[str, tuple[str, ...]]:
    """What rows stand for. Each of many requests has a token: a sum can't have fewer tokens than requests."""
    count = values.number("count")
    if not form.batches and bool((values.number("batch") > 1).any()):
        raise UserError(
            "some rows have a batch size above 1: with --form batches each row stands for so many requests of its "
            "sizes; if its sizes are those of the whole batch, divide them first"
        )
    if form.rows == "sums" and "count" in values.numbers and bool((count[count > 0] == 1).all()):
        return "requests", ()
    if form.rows == "sums" and bool(((m < count) | (n < count)).any()):
        return "sizes", ("rows were taken for sizes, with the number of requests of each: some have fewer tokens",)
    return form.rows, ()


def judge(values: Values, form: LogForm, meaning: Meaning, whole_file: bool = True) -> Verdict:
    """The size of every row, or why it is none. A row that is the sum of all others is known by the whole file only."""
    values = spelled(values, meaning.spelling)
    m, n = values.number("input"), values.number("output")
    reason = np.full(values.rows.shape, "", dtype=object)
    broken = np.zeros(values.rows.shape, dtype=bool)

    def leave(where: NDArray[np.bool_], why: str, as_broken: bool = False) -> None:
        found = where & (reason == "")
        reason[found] = why
        broken[found] = as_broken

    sizeless = np.isnan(m) & np.isnan(n) & (values.odd["input"] == None) & (values.odd["output"] == None)  # noqa: E711
    leave(values.totals, "total row")
    leave(values.repeated, "repeated")
    leave(_headers(values, meaning.headers), "repeated header")
    for skip in (*form.skips, *SKIPS):
        for name in skip.names:
            if (texts := values.said.get(name)) is not None:
                leave(_skipped(skip, texts) & (sizeless | (not skip.without_sizes)), skip.reason)
    with np.errstate(invalid="ignore"):
        read, beside = _beside(values)
        whole = m + (beside if meaning.cache_beside else 0)
        produced = n + (np.nan_to_num(values.number("reasoning")) if meaning.reasoning_beside else 0)
        whole, produced, disagree = _by_total(values, form, whole, produced)
        count = _counts(values, form, leave)
        _leave_unsized(values, form, m, whole, produced, leave)
        if meaning.rows != "sums":
            leave(whole + produced > MAX_TOTAL_TOKENS, "too long", True)
        leave(disagree, "total disagrees", True)
        if whole_file and meaning.rows == "requests":
            _leave_sum(values, whole, produced, reason, leave)
    known = ~np.isnan(values.number("cached")) | ~np.isnan(values.number("cache_read"))
    cached = np.where(known, np.minimum(read, np.nan_to_num(whole)), np.nan)
    return Verdict(whole, produced, cached, count, reason, broken)


Leave = Callable[..., None]


def _by_total(
    values: Values, form: LogForm, whole: Floats, produced: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Sizes that agree with the rows' totals, and where nothing does."""
    more = np.nan_to_num(values.number("more_input"))
    total = values.number("total")
    stated = total > 0
    # Tokens of the prompt beside the input: in it after all where only that makes the total.
    whole = np.where(stated & (total == whole + produced), whole, whole + more)
    if form.rest_is_output:
        produced = np.where(stated & (total > whole + produced), total - whole, produced)
    reasoning = np.nan_to_num(values.number("reasoning"))
    for other in (produced + reasoning, produced - reasoning):
        produced = np.where(stated & (total != whole + produced) & (total == whole + other), other, produced)
    return whole, produced, stated & np.isfinite(whole + produced) & (total != whole + produced)


def _leave_unsized(values: Values, form: LogForm, m: Floats, whole: Floats, produced: Floats, leave: Leave) -> None:
    """Rows without whole numbers of at least 1."""
    no_m, no_n = (np.isnan(x) & (values.odd[side] == None) for x, side in ((whole, "input"), (produced, "output")))  # noqa: E711
    leave(no_m & no_n, form.no_sizes or "no sizes", form.no_sizes is None)
    leave(no_m, form.no_input or "no input", form.no_input is None)
    leave(produced == 0, form.no_output or "output 0", form.no_output is None)
    leave(no_n, form.no_output or "no output", form.no_output is None)
    leave(whole == 0, form.no_input or "input 0", form.no_input is None)
    for side in (whole, produced):
        leave(~((side >= 1) & (side == np.floor(side))), "not a whole number", True)


def _counts(values: Values, form: LogForm, leave: Leave) -> Floats:
    """Requests of a row."""
    batch = values.number("batch")
    if "count" not in values.numbers:
        return np.where(batch > 1, batch, 1.0)
    count = values.number("count")
    leave(count == 0, "no requests")
    leave(~((count >= 1) & (count == np.floor(count))), "no count", True)
    return count


def _leave_sum(values: Values, whole: Floats, produced: Floats, reason: Texts, leave: Leave) -> None:
    """A last row without a name that is the sum of all others."""
    good = np.flatnonzero(reason == "")
    if values.rows[good].sum() < ROWS_OF_A_SUM:
        return
    largest = good[np.argmax(whole[good])]
    sums = [(side[good] * values.rows[good]).sum() for side in (whole, produced)]
    if min(whole[largest], produced[largest]) < TOKENS_OF_A_SUM:
        return
    if values.rows[largest] == 1 and sums == [2 * whole[largest], 2 * produced[largest]]:
        leave(np.arange(whole.size) == largest, "total row")


def _headers(values: Values, headers: tuple[str, str]) -> NDArray[np.bool_]:
    """Rows that repeat the header, as where files were put one behind the other."""
    if not all(headers):
        return np.zeros(values.rows.shape, dtype=bool)
    like = [
        np.array([text is not None and bare_name(text) == bare_name(name) for text in values.odd[side]], dtype=bool)
        for side, name in zip(SIDES, headers, strict=True)
    ]
    return like[0] & like[1]


def _skipped(skip: Skip, texts: Texts) -> NDArray[np.bool_]:
    kinds, inverse = np.unique(np.where(texts == None, "", texts).astype(str), return_inverse=True)  # noqa: E711
    hit = np.array([_says(skip, text) for text in kinds.tolist()], dtype=bool)
    found: NDArray[np.bool_] = hit[inverse]
    return found


def _says(skip: Skip, text: str) -> bool:
    if text in skip.values or any(part in text for part in skip.containing):
        return True
    if skip.filled:
        return text not in SAYS_NOTHING
    if skip.other_than:
        return bool(text) and text not in skip.other_than
    if skip.from_number is not None:
        try:
            return skip.from_number <= float(text) < 1000
        except ValueError:
            return False
    return False


def shared_out(m: Floats, n: Floats, requests: Floats) -> tuple[Floats, Floats, Floats]:
    """Sums of many requests as requests of their mean size: (m, n, count), with the same sums."""
    low = [np.floor(side / requests) for side in (m, n)]
    above = [side - requests * least for side, least in zip((m, n), low, strict=True)]
    both = np.minimum(*above)
    parts = (
        (low[0] + 1, low[1] + 1, both),
        (low[0] + 1, low[1], above[0] - both),
        (low[0], low[1] + 1, above[1] - both),
        (low[0], low[1], requests - np.maximum(*above)),
    )
    m, n, count = (np.concatenate(side) for side in zip(*parts, strict=True))
    some = count > 0
    return m[some], n[some], count[some]
