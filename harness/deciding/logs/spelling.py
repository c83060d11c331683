"""Numbers as people's programs write them: points or commas between thousands, or before decimals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

SPACES = re.compile(r"(?<=\d)[\s'’_\u00a0\u202f](?=\d)")
POINTS, COMMAS = (re.compile(rf"[+-]?\d{{1,3}}(?:{mark}\d{{3}})+") for mark in (r"\.", ","))
LONG_POINT, LONG_COMMA = (re.compile(rf"[+-]?\d{{4,}}{mark}\d+") for mark in (r"\.", ","))
DECIMAL_COMMA = re.compile(r"[+-]?\d+,(?:\d{1,2}|\d{4,})")
BOTH_POINTS_FIRST = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+")
BOTH_COMMAS_FIRST = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+\.\d+")


@dataclass(frozen=True)
class Spelling:
    """What a point and a comma mean in the token counts of a file."""

    points_group: bool = False
    """A point stands between thousands; otherwise before decimals."""
    commas_group: bool = True
    unclear: str = ""
    """A number that can be read in two ways, and nothing in the file says in which."""

    def number(self, text: str) -> float:
        """The number; NaN for what is none."""
        return _number(text, self.points_group, self.commas_group)


@cache
def _number(text: str, points_group: bool, commas_group: bool) -> float:
    said = SPACES.sub("", text.strip())
    if POINTS.fullmatch(said) and points_group:
        said = said.replace(".", "")
    elif COMMAS.fullmatch(said):
        said = said.replace(",", "" if commas_group else ".")
    elif BOTH_POINTS_FIRST.fullmatch(said):
        said = said.replace(".", "").replace(",", ".")
    elif BOTH_COMMAS_FIRST.fullmatch(said):
        said = said.replace(",", "")
    elif DECIMAL_COMMA.fullmatch(said) or LONG_COMMA.fullmatch(said):
        said = said.replace(",", ".")
    try:
        # In ASCII, since DuckDB reads no other digits.
        return float(said.encode("ascii"))
    except ValueError:
        return float("nan")


def spelling_of(columns: Iterable[tuple[Iterable[str], bool]], semicolons: bool) -> Spelling:
    """Judge the odd numbers of each column, given whether the column has plain numbers beside them.

    Tokens are whole: 1.234 can only be 1,234 of them. 1.000 is unclear, unless another number of its column has no
    point (a program that writes decimals writes them everywhere), or a file's commas say what its points are.
    ``semicolons``: the file parts its columns by semicolons, as programs do whose comma stands before decimals.
    """
    seen = [({SPACES.sub("", text.strip()) for text in texts}, plain) for texts, plain in columns]
    every = set().union(*(texts for texts, _ in seen)) if seen else set()
    both_points = any(map(BOTH_POINTS_FIRST.fullmatch, every))
    both_commas = any(map(BOTH_COMMAS_FIRST.fullmatch, every))
    decimal_comma = any(DECIMAL_COMMA.fullmatch(text) or LONG_COMMA.fullmatch(text) for text in every)
    grouped = {"points": _grouped(seen, POINTS, LONG_POINT, "."), "commas": _grouped(seen, COMMAS, LONG_COMMA, ",")}
    points, commas = grouped["points"], grouped["commas"]
    if points is None:
        points = True if both_points or decimal_comma else False if both_commas else None
    if commas is None:
        commas = False if both_points or decimal_comma else True if both_commas or not semicolons else None
    unclear = next((t for t in sorted(every) if (points is None and POINTS.fullmatch(t))), "") or next(
        (t for t in sorted(every) if (commas is None and COMMAS.fullmatch(t))), ""
    )
    return Spelling(bool(points), commas is None or commas, unclear)


def _grouped(
    seen: list[tuple[set[str], bool]], groups: re.Pattern[str], decimals: re.Pattern[str], mark: str
) -> bool | None:
    """Whether a mark stands between thousands; None where nothing says so, or no number has it."""
    if any(decimals.fullmatch(text) for texts, _ in seen for text in texts):
        return False
    for texts, plain in seen:
        found = [text for text in texts if groups.fullmatch(text)]
        if found and (plain or any(text.count(mark) > 1 or not text.endswith("000") for text in found)):
            return True
    return None
