"""Paths of a log's values: which there are, and which of them a name means."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.deciding.logs.form import LogForm, bare_name

MAX_DEPTH = 6
KeyPath = tuple[str, ...]


@dataclass
class Paths:
    """The paths of some records, in the order in which they were seen, by their plain name."""

    leaves: dict[str, KeyPath] = field(default_factory=dict)
    holders: dict[str, KeyPath] = field(default_factory=dict)
    """Paths of objects: of use only to know whether they are there."""
    lists: dict[str, KeyPath] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Paths:
        found = cls()
        for record in records:
            found._add(record, ())
        return found

    def _add(self, record: Mapping[str, Any], above: KeyPath) -> None:
        for key, value in record.items():
            path = (*above, str(key))
            inner = packed(value) if isinstance(value, str) else value
            if isinstance(inner, Mapping):
                self.holders.setdefault(bare_name(".".join(path)), path)
                if len(path) < MAX_DEPTH:
                    self._add(inner, path)
            elif isinstance(value, list):
                self.lists.setdefault(bare_name(".".join(path)), path)
            else:
                self.leaves.setdefault(bare_name(".".join(path)), path)

    def find(self, name: str, holders: bool = False) -> KeyPath | None:
        """The shallowest path that ends with a name; those of objects and lists too where ``holders`` are asked for."""
        wanted = bare_name(name)
        among = {**self.holders, **self.lists, **self.leaves} if holders else self.leaves
        if wanted in among:
            return among[wanted]
        ends = [key for key in among if key.endswith("." + wanted)]
        return among[min(ends, key=lambda key: key.count("."))] if ends else None

    def has_mark(self, mark: str) -> bool:
        """Whether one of the names of a mark, ``a|b``, is there."""
        return any(self.find(name, holders=True) for name in mark.split("|"))


def packed(text: str) -> Mapping[str, Any] | None:
    """The object that a text holds as JSON, as exports to CSV have them; None for other text."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fits(form: LogForm, paths: Paths) -> bool:
    """Whether a form's marks and one of its pairs are there."""
    return all(map(paths.has_mark, form.marks)) and (not form.pairs or bool(pairs_of(form, paths)))


def pairs_of(form: LogForm, paths: Paths) -> list[tuple[KeyPath, KeyPath]]:
    """Where input and output lie: the first pair that is there, or all of them in a mixed log."""
    found = [(paths.find(m), paths.find(n)) for m, n in form.pairs]
    there = [(m, n) for m, n in found if m is not None and n is not None and m != n]
    return there if form.mixed else there[:1]


def sums_of(names: tuple[str, ...], paths: Paths) -> list[list[KeyPath]]:
    """For each name that is there the paths whose values are added up."""
    parts = ([paths.find(part) for part in name.split("+")] for name in names)
    return [[path for path in part if path is not None] for part in parts if any(part)]
