"""Options that a caller gives, checked against the types and limits of the fields that they fill."""

import json
import reprlib
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import TypeVar

from harness.core.errors import UserError
from harness.core.quantities import Facts

_Kind = TypeVar("_Kind")
_OPTIONS = {"rate_hz": "--sample-rate", "calibration": "--calibrate"}
"""Options of the command whose name is not that of their field."""


def validated(kind: type[_Kind], values: Facts) -> _Kind:
    """The dataclass ``kind`` made of ``values``, of which NumPy's numbers, paths and dataclasses may be.

    Raises UserError, in one line that names the field, for a value of another type or outside the field's limits.
    """
    from pydantic import TypeAdapter, ValidationError

    for name, value in values.items():
        try:
            json.dumps(value, default=_plain, allow_nan=False)
        except (TypeError, ValueError):
            raise UserError(f"{_spelled(name)} can't be {_shown(value)}") from None
    try:
        # By way of text: only there a list may stand for a tuple where types are strict. What passes can be recorded.
        return TypeAdapter(kind).validate_json(json.dumps(values, default=_plain), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        said = first["msg"].removeprefix("Input ").replace("should be", "must be")
        raise UserError(f"{_spelled(name)} can't be {_shown(values.get(name))}: it {said}") from None


def option_of(name: str) -> str:
    """The option of the command that fills a field; it leaves the unit out."""
    return _OPTIONS.get(name, f"--{name.removesuffix('_s').replace('_', '-')}")


def _spelled(name: str) -> str:
    return f"{name} ({option_of(name)})"


def _plain(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(value)
    return item()


def _shown(value: object) -> str:
    return " ".join(reprlib.repr(value).split())
