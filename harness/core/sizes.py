"""Request sizes, and how people write them. Pure."""

import re
from dataclasses import dataclass

from harness.core.errors import UserError
from harness.core.wording import number

MAX_TOKENS = 10_000_000
MAX_CONCURRENCY = 65_536
MAX_ARRIVALS = 1_000_000
MAX_ARRIVAL_S = 1e6
"""Longest time from the first request of a log to its last."""


@dataclass(frozen=True, order=True)
class Point:
    """What is measured: requests of m input and n output tokens, c of them in flight."""

    input_tokens: int
    output_tokens: int
    concurrency: int = 1

    def words(self) -> str:
        """As ``request_words``."""
        return request_words(self.input_tokens, self.output_tokens, self.concurrency)


@dataclass(frozen=True, order=True)
class Arrival:
    """A request of a log: when it came, in seconds after the first, and its size."""

    offset_s: float
    input_tokens: int
    output_tokens: int


_RANGE = re.compile(r"(\d+)-(\d+)([+*])(\d+)")


def request_words(input_tokens: float, output_tokens: float, concurrency: int = 1) -> str:
    """``32 in, 16 out``, and how many are in flight where that is more than one.

    Measured sizes are means over trials and may be fractions: four digits of these, whole numbers in full.
    """
    m, n = (number(tokens, max(4, len(f"{tokens:.0f}"))) for tokens in (input_tokens, output_tokens))
    m, n = (text.rstrip("0").rstrip(".") if "." in text else text for text in (m, n))
    return f"{m} in, {n} out{f', {concurrency} in flight' if concurrency > 1 else ''}"


def parse_tokens(text: str) -> list[int]:
    """Token counts from ``8,64,512``, ``a-b+step``, ``a-b*factor`` or a comma-separated mix of them.

    Ranges start at a and never pass b. Returns each count once, in the order given. Raises UserError.
    """
    counts: dict[int, None] = {}
    for part in text.split(","):
        counts.update(dict.fromkeys(_parse_part(part.strip(), text)))
    return list(counts)


def parse_cached_tokens(text: str) -> list[int]:
    """Numbers of cached tokens, written as token counts are; 0 is one too. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    some = ",".join(part for part in parts if part != "0")
    return [*([0] if "0" in parts else []), *(parse_tokens(some) if some else [])]


def parse_concurrency(text: str) -> list[int]:
    """Numbers of requests in flight, written as token counts are, in ascending order. Raises UserError."""
    try:
        counts = sorted(parse_tokens(text))
    except UserError:
        counts = []
    if not counts or counts[-1] > MAX_CONCURRENCY:
        raise UserError(f"-c {text}: write requests in flight as 1,2,4 or 1-64*2; there can be 1 to {MAX_CONCURRENCY}")
    return counts


def _parse_part(part: str, text: str) -> list[int]:
    match = _RANGE.fullmatch(part)
    if not match:
        if not part.isascii() or not part.isdigit():
            raise UserError(f"'{text}' is not a list of token counts; write 8,64,512 or 8-2048*2 or 128-1024+128")
        return [_positive(int(part), text)]
    first, last, operator, step = int(match[1]), int(match[2]), match[3], int(match[4])
    _positive(first, text)
    _positive(last, text)
    if first > last:
        raise UserError(f"range '{part}' runs backwards; write the smaller count first")
    if step < (2 if operator == "*" else 1):
        raise UserError(f"range '{part}' never ends; use a factor of at least 2 or a step of at least 1")
    if operator == "+":
        if (last - first) // step >= 10_000:
            raise UserError(f"range '{part}' has more than 10000 counts; use a larger step")
        return list(range(first, last + 1, step))
    values = []
    while first <= last:
        values.append(first)
        first *= step
    return values


def _positive(count: int, text: str) -> int:
    if not 1 <= count <= MAX_TOKENS:
        raise UserError(f"token count {count} in '{text}' is out of range; use 1 to {MAX_TOKENS}")
    return count


def parse_point(text: str) -> Point:
    """A point from ``m,n``. Raises UserError."""
    match = re.fullmatch(r"\s*([0-9]+)\s*,\s*([0-9]+)\s*", text)
    if not match:
        raise UserError(f"'{text}' is not a point; write input and output tokens as 128,256")
    return Point(_positive(int(match[1]), text), _positive(int(match[2]), text))
