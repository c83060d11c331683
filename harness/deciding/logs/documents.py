"""Records inside JSON documents: responses in pages, requests in results of load generators, spans in traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from harness.deciding.logs import recognise
from harness.deciding.logs.form import SKIPS, Record, bare_name
from harness.deciding.logs.names import Paths

OF_ONE_RECORD = {bare_name(name) for skip in SKIPS for name in skip.names}
"""Names whose values hold for the object that has them only."""
ATTRIBUTE_KEYS = ({"key", "value"}, {"key", "type", "value"})
"""Keys of an entry in a list of attributes, as OpenTelemetry and Jaeger write them."""


def records_in(document: Any) -> list[Record]:
    """The records of a document that have token counts, with those beside them in their lists.

    A record inherits the plain values of the objects around it, and ``in_list``, the name of its list. Arrays of one
    length, an entry for each request, become records. Empty where no form is recognised.
    """
    return list(_records(unpacked(document), {}, {}))


def _records(node: Any, around: Record, seen: dict[frozenset[str], bool]) -> Iterator[Record]:
    if isinstance(node, list):
        yield from _listed(node, around, seen)
        return
    if not isinstance(node, Mapping):
        return
    scalars = {key: value for key, value in node.items() if not isinstance(value, Mapping | list)}
    # "failed": 1 of a run counts its requests, and says nothing of each.
    own = {**around, **{key: value for key, value in scalars.items() if bare_name(key) not in OF_ONE_RECORD}}
    inside = []
    for key, value in node.items():
        if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            inside += _listed(value, {**own, "in_list": key}, seen)
        elif isinstance(value, Mapping) and any(isinstance(inner, Mapping | list) for inner in value.values()):
            inside += _records(value, own, seen) if _has_lists(value) else []
    if inside:
        yield from inside
    elif columns := _columns(node):
        yield from ({**own, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True))
    elif _counts_tokens(node, seen):
        yield {**around, **node}


def _has_lists(node: Any) -> bool:
    """Whether lists of objects lie somewhere inside."""
    if isinstance(node, list):
        return any(isinstance(entry, Mapping) for entry in node)
    return isinstance(node, Mapping) and any(map(_has_lists, node.values()))


def _listed(entries: Sequence[Any], around: Record, seen: dict[frozenset[str], bool]) -> list[Record]:
    """Records of a list. Where one of them counts tokens, those that don't are records too: they failed, perhaps."""
    objects = [entry for entry in entries if isinstance(entry, Mapping)]
    found = [list(_records(entry, around, seen)) for entry in objects]
    if not any(map(partial(_counts_tokens, seen=seen), objects)):
        inside = [record for records in found for record in records]
        if inside:
            return inside
        # A list of requests that all failed beside one of those that succeeded.
        return [{**around, **entry} for entry in objects] if around.get("in_list") in ("errored", "incomplete") else []
    return [
        record for entry, records in zip(objects, found, strict=True) for record in (records or [{**around, **entry}])
    ]


def _columns(node: Record) -> dict[str, list[Any]]:
    """Arrays with an entry for each request: those as long as the input's."""
    arrays = {
        key: value
        for key, value in node.items()
        if isinstance(value, list) and value and not any(isinstance(entry, Mapping) for entry in value)
    }
    numbers = {key: value[0] for key, value in arrays.items() if isinstance(value[0], int | float)}
    if len(numbers) < 2 or recognise(Paths.of([{**node, **numbers}])) is None:
        return {}
    without = recognise(Paths.of([{key: value for key, value in node.items() if key not in arrays}]))
    if without is not None and without.rows != "sums":
        return {}
    length = max(map(len, (arrays[key] for key in numbers)))
    return {
        key: [entry if not isinstance(entry, list) else None for entry in value]
        for key, value in arrays.items()
        if len(value) == length
    }


def _counts_tokens(node: Record, seen: dict[frozenset[str], bool]) -> bool:
    paths = Paths.of([node])
    keys = frozenset(paths.leaves)
    if keys not in seen:
        form = recognise(paths)
        seen[keys] = form is not None and form.refused is None
    return seen[keys]


def unpacked(node: Any) -> Any:
    """The same with lists of attributes as objects: [{key: a, value: {intValue: 1}}] → {a: 1}."""
    if isinstance(node, Mapping):
        return {key: unpacked(value) for key, value in node.items()}
    if not isinstance(node, list):
        return node
    if node and all(isinstance(entry, Mapping) and set(entry) in ATTRIBUTE_KEYS for entry in node):
        return {entry["key"]: _attribute(entry["value"]) for entry in node}
    return [unpacked(entry) for entry in node]


def _attribute(value: Any) -> Any:
    return next(iter(value.values())) if isinstance(value, Mapping) and len(value) == 1 else value
