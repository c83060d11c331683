"""Numbers as text: whether a point or a comma stands before decimals or between thousands. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SPACES = re.compile(r"(?<=\d)[\s'’_](?=\d{3})")
_GROUPED_POINTS, _GROUPED_COMMAS = (re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:{mark}\d{{3}})+") for mark in (r"\.", ","))
_DECIMAL_POINT = re.compile(r"[+-]?(?:\d*\.(?:\d{1,2}|\d{4,})|\d{4,}\.\d+|0\.\d+)(?:[eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(?:\d*,(?:\d{1,2}|\d{4,})|\d{4,},\d+|0,\d+)(?:[eE][+-]?\d+)?")
_POINTS_THEN_COMMA = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+")
_COMMAS_THEN_POINT = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+\.\d+")


@dataclass(frozen=True)
class Unclear:
    """A number that can be read in two ways."""

    column: str
    text: str


@dataclass(frozen=True)
class Marks:
    """What a point and a comma mean in a file's numbers."""

    decimal: str = "."

    def number(self, text: str) -> float:
        """The number that a text is; NaN where it is none."""
        said = _SPACES.sub("", text.strip())
        if self.decimal == ",":
            said = said.replace(".", "").replace(",", ".") if _regular(said, ",", ".") else "nan"
        elif "," in said:
            said = said.replace(",", "") if _regular(said, ".", ",") else "nan"
        elif len(said.split(".")) > 2:
            # 1.234.567 can only be thousands.
            said = said.replace(".", "") if _GROUPED_POINTS.fullmatch(said) else "nan"
        try:
            return float(said) if "_" not in said else float("nan")
        except ValueError:
            return float("nan")


def _regular(said: str, decimal: str, group: str) -> bool:
    """Whether thousands stand in threes before the one decimal mark."""
    whole, *decimals = re.split(r"[eE]", said)[0].split(decimal)
    in_threes = re.fullmatch(rf"[+-]?\d{{1,3}}(?:{re.escape(group)}\d{{3}})+", whole)
    return len(decimals) <= 1 and group not in "".join(decimals) and bool(in_threes or group not in whole)


def marks_of(columns: Mapping[str, Sequence[str]], tokens: Iterable[str], semicolons: bool) -> Marks | Unclear:
    """What points and commas mean, judged by the numbers of each column; ``tokens`` are columns of whole numbers.

    A number that tells is one that can be read in one way only, such as 0,5 or 1.234,5. Where none does, and a number
    can be read in two ways, it is returned.
    """
    said = {name: [_SPACES.sub("", text) for text in texts] for name, texts in columns.items()}
    every = [text for texts in said.values() for text in texts]
    comma = any(_DECIMAL_COMMA.fullmatch(text) or _POINTS_THEN_COMMA.fullmatch(text) for text in every)
    point = any(_DECIMAL_POINT.fullmatch(text) or _COMMAS_THEN_POINT.fullmatch(text) for text in every)
    if comma and not point:
        return Marks(",")
    whole = set(tokens)
    for name, texts in said.items():
        if point:
            break
        for text in texts:
            if text.count(",") == 1 and _GROUPED_COMMAS.fullmatch(text) and (semicolons or name not in whole):
                return Unclear(name, text)
    return _tokens_in_points(said, whole) or Marks()


def _tokens_in_points(said: Mapping[str, Sequence[str]], tokens: set[str]) -> Unclear | None:
    """Token counts like 1.024: thousands, or 1 and a fraction. Decimals elsewhere in the column say the latter."""
    for name in tokens & set(said):
        grouped = [text for text in said[name] if text.count(".") == 1 and _GROUPED_POINTS.fullmatch(text)]
        if grouped and not any(_DECIMAL_POINT.fullmatch(text) for text in said[name]):
            return Unclear(name, grouped[0])
    return None
