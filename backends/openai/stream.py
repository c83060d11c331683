"""What the bytes of an answer mean: events of a stream, their tokens, and what the server counted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.base import BackendError, Reply, Request

LONGEST_MESSAGE = 300
MOST_TOKENS = 1 << 31
"""Of a count that a server may tell; there are no such requests, and more than an array's integers hold is a fault."""
GZIP = b"\x1f\x8b"
PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
"""Names of a server's own times: they come into records, tables and pages."""


@dataclass(slots=True)
class Answer:
    """The answer to one request as it came. Times are CLOCK_MONOTONIC nanoseconds."""

    request: Request
    start_ns: int
    parts: list[tuple[int, bytes]] = field(default_factory=list)
    """Bytes of the body with the time of the read that brought them; the parts of one read have the same time."""
    status: int = 0
    """Of HTTP; 0 until the answer has ended."""


@dataclass(frozen=True)
class _Piece:
    """An event that may carry output tokens."""

    stamp_ns: int
    text: str
    ids: int | None
    """Token ids in it; None where it has no list of them."""
    running: int | None
    """Output tokens so far by the usage in this event; None where it has none."""
    opens: bool
    """Whether it only names the role that speaks."""
    ends: bool
    """Whether it says why the output ended."""


def events(parts: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Data of each server-sent event with the time of the read that completed it.

    An event is complete with the empty line after it, however its bytes were split over reads; one that the end of the
    stream completes has the last read's time. Comments and other fields are left out, lines of data joined.
    """
    lines: list[bytes] = []
    rest = b""
    stamp_ns = 0
    for stamp_ns, part in parts:
        *complete, rest = (rest + part).split(b"\n")
        for line in complete:
            line = line.removesuffix(b"\r")
            if line:
                lines.append(line)
            elif lines:
                yield from _event(stamp_ns, lines)
                lines = []
    if rest or lines:
        yield from _event(stamp_ns, [*lines, rest.removesuffix(b"\r")])


def _event(stamp_ns: int, lines: list[bytes]) -> Iterator[tuple[int, bytes]]:
    data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    if data:
        yield stamp_ns, b"\n".join(data)


def read_reply(answer: Answer, exact: bool) -> Reply:
    """Times and counts of an answer; with ``exact`` its sizes must be those asked for.

    Tokens of a piece are counted by its ids, or else by usage where every piece brings it. Otherwise as many pieces as
    the usage at the end counts tokens have one each. Over fewer pieces it is spread evenly, the later ones having one
    more, and ``Reply.counted`` is false. Raises BackendError.
    """
    pieces: list[_Piece] = []
    last: dict[str, Any] = {}
    done = False
    for stamp_ns, data in events(answer.parts):
        if data == b"[DONE]":
            done = True
            break
        said = _parse(data)
        pieces += _pieces(stamp_ns, said)
        last |= {name: said[name] for name in ("usage", "timings") if isinstance(said.get(name), dict)}
    if not done and not last:
        raise BackendError(_unfinished(answer))
    usage, timings = last.get("usage"), last.get("timings", {})
    if usage is None:
        raise BackendError("the server sent no usage with its answer, so that its tokens can't be counted")
    m, n = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    asked = answer.request
    if exact and (m, n) != (asked.input_tokens, asked.output_tokens):
        raise BackendError(
            f"the server counted {m} input and {n} output tokens, not {asked.input_tokens} and {asked.output_tokens}"
        )
    stamps, counts, counted = _spread(pieces, n)
    return Reply(
        start_ns=answer.start_ns,
        token_ns=stamps,
        token_counts=counts,
        end_ns=stamps[-1],
        input_tokens=m,
        output_tokens=n,
        cached_tokens=_cached(usage, timings),
        said=_times(timings),
        counted=counted,
    )


def _unfinished(answer: Answer) -> str:
    body = b"".join(part for _, part in answer.parts)
    if body.startswith(GZIP):
        return "the server compresses its answers, though nobody asked it to; switch that off in it or in its proxy"
    if body.lstrip()[:1] == b"{":
        return f"the server answered without streaming: {one_line(body)}"
    return f"the server's answer ended early, after {len(body)} bytes" if body else "the server's answer was empty"


def _parse(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        raise BackendError(f"the server sent what isn't JSON: {one_line(data)}") from None
    if not isinstance(said, dict):
        raise BackendError(f"the server sent what isn't an event of an answer: {one_line(data)}")
    if said.get("error") or said.get("object") == "error":
        raise BackendError(f"the server failed in mid answer: {error_message(data)}")
    return said


def _pieces(stamp_ns: int, said: Mapping[str, Any]) -> list[_Piece]:
    choices = said.get("choices")
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        return []
    choice = choices[0]
    delta = choice.get("delta")
    holder = delta if isinstance(delta, dict) else choice
    texts = [holder.get(name) for name in ("text", "content", "reasoning_content", "reasoning")]
    ids = next((found for found in (choice.get("token_ids"), said.get("tokens")) if isinstance(found, list)), None)
    usage = said.get("usage")
    return [
        _Piece(
            stamp_ns=stamp_ns,
            text="".join(text for text in texts if isinstance(text, str)),
            ids=None if ids is None else len(ids),
            running=_count(usage, "completion_tokens") if isinstance(usage, dict) else None,
            opens="role" in holder,
            ends=choice.get("finish_reason") is not None,
        )
    ]


def _spread(pieces: list[_Piece], n: int) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Times of the pieces that have tokens, the tokens of each, and whether these were counted, not spread."""
    if n < 1:
        raise BackendError("the server produced no output token")
    known = [piece.ids or 0 for piece in pieces]
    if sum(known) != n and pieces and all(piece.running is not None for piece in pieces):
        sums = [piece.running or 0 for piece in pieces]
        known = [b - a for a, b in zip([0, *sums], sums, strict=False)]
    if sum(known) == n and min(known) >= 0:
        some = [(piece.stamp_ns, count) for piece, count in zip(pieces, known, strict=True) if count]
        return tuple(stamp for stamp, _ in some), tuple(count for _, count in some), True
    chosen = _with_tokens(pieces, n)
    share, more = divmod(n, len(chosen))
    counts = [share] * (len(chosen) - more) + [share + 1] * more
    return tuple(piece.stamp_ns for piece in chosen), tuple(counts), len(chosen) == n


def _with_tokens(pieces: list[_Piece], n: int) -> list[_Piece]:
    """The pieces that carry n tokens: those with text, or where text is withheld, as many as fit the count."""
    written = [piece for piece in pieces if piece.text]
    bare = [piece for piece in pieces if piece.text or not (piece.opens or piece.ends)]
    ending = [piece for piece in pieces if not piece.opens]
    # An end without text carries no token where others have text, as in llama-server; where none has, it may.
    choices = (written, bare) if written else (bare, ending)
    exact = next((some for some in choices if len(some) == n), None)
    found = exact or next((some for some in choices if 0 < len(some) < n), None)
    if found is None:
        raise BackendError(f"the server counted {n} output tokens but sent {len(written)} pieces of text")
    return found


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST_TOKENS:
        raise BackendError(f"the server's usage has no count {name}: {one_line(json.dumps(usage))}")
    return value


def _cached(usage: Mapping[str, Any], timings: Mapping[str, Any]) -> int | None:
    details = usage.get("prompt_tokens_details")
    found = details.get("cached_tokens") if isinstance(details, dict) else timings.get("cache_n")
    known = isinstance(found, int) and not isinstance(found, bool) and 0 <= found < MOST_TOKENS
    return found if known else None


def _times(timings: Mapping[str, Any]) -> dict[str, float]:
    found = {name: value for name, value in timings.items() if PLAIN_NAME.fullmatch(name) and _is_number(value)}
    return {f"{name.removesuffix('_ms')}_s": value / 1000 for name, value in found.items() if name.endswith("_ms")}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < MOST_TOKENS if isinstance(value, int) else math.isfinite(value)


def error_message(body: bytes) -> str:
    """What a server says of an error, in one line: the message in its JSON, or else the text itself."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return one_line(body) or "it says nothing more"
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    return one_line(said if isinstance(said, str) else json.dumps(said, ensure_ascii=False))


def one_line(text: str | bytes) -> str:
    """Text of a server for a message: one line without control characters, cut where it is long."""
    if isinstance(text, bytes):
        text = text[: 8 * LONGEST_MESSAGE].decode(errors="replace")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 1]}…"
