"""An exported rule, read back and followed: which system it sends a request to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from harness.core.errors import UserError
from harness.deciding.rule_schema import RULE_VERSION, AnyRule, InputRoute, OutputRoute, ThresholdRule, parse_rule

Lengths = NDArray[np.int64]
_KEYS = {
    "input": lambda m, n: m,
    "output": lambda m, n: n,
    "total": lambda m, n: m + n,
    "product": lambda m, n: m * n,
}


def read_rule(path: str | os.PathLike[str]) -> AnyRule:
    """A rule that ``threshold --export`` or ``route --export`` wrote, also in the version before. Raises UserError."""
    try:
        return parse_rule(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"rule {path} can't be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its beginning"
        raise UserError(
            f"{path} is not a rule of schema version {RULE_VERSION} (at {where}: {first['msg'][:120]}): "
            "write one with joulebench route … --export rule.json"
        ) from None


def followed(rule: AnyRule, input_tokens: Lengths, output_tokens: Lengths) -> NDArray[np.object_]:
    """The rule's name of the system that each request goes to; None where it has none. Arrays of one entry each."""
    if isinstance(rule, ThresholdRule):
        key = _KEYS[rule.key](input_tokens, output_tokens)
        names = np.array([rule.at_most, rule.above], dtype=object)
        return names[(key > rule.threshold).astype(int)]
    if rule.by_input is not None:
        return _last(rule.by_input, [each.from_input_tokens for each in rule.by_input], input_tokens)
    assert rule.regions is not None
    region = _places([each.from_input_tokens for each in rule.regions], input_tokens)
    chosen = np.full(input_tokens.size, None, dtype=object)
    for place in np.unique(region):
        inside = region == place
        routes = rule.regions[place].routes
        chosen[inside] = _last(routes, [each.from_output_tokens for each in routes], output_tokens[inside])
    return chosen


def _last(routes: list[InputRoute] | list[OutputRoute], starts: list[int], lengths: Lengths) -> NDArray[np.object_]:
    systems = np.array([each.system for each in routes], dtype=object)
    return np.asarray(systems[_places(starts, lengths)])


def _places(starts: list[int], lengths: Lengths) -> NDArray[np.intp]:
    """The last row that begins at or below each length."""
    return np.maximum(np.searchsorted(np.array(starts), lengths, side="right") - 1, 0)
