"""What is measured and how: components of a machine, methods of reading energy, boundaries. No I/O."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from harness.core.errors import UserError

Method = Literal["counter", "integrated", "modelled", "estimated"]
"""How an energy was obtained, best first: hardware counter, integrated power samples, vendor's model, guess."""

Component = Literal["gpu", "cpu", "dram", "ane", "system"]
"""A part of the machine whose energy counts; ``system`` is all of it."""

COMPONENTS: tuple[Component, ...] = get_args(Component)

METERS = ("nvml", "rapl", "powermetrics", "ioreport", "amd", "hwmon", "battery", "external", "estimate")
"""Kinds of meters that measurements made elsewhere can be of; ``external`` is a plug's or a bench's."""

Facts = Mapping[str, object]
"""A JSON object whose keys only its source knows, such as what a driver says of its device."""


def weakest(methods: Iterable[Any]) -> Method | None:
    """The last of the known ``methods`` in the order of ``Method``: a sum is as good as its weakest part.

    What is no method, such as None or NaN in a table, is passed over; None where nothing is left.
    """
    best_first = get_args(Method)
    return max((method for method in methods if method in best_first), key=best_first.index, default=None)


LARGEST_NUMBER = 1e30
"""Beyond it sums and products of what people ask for could overflow."""


def check_number(name: str, value: float | None) -> None:
    """Raises UserError for NaN, infinities and what would overflow to one; ``name`` is the option that gave it."""
    if value is not None and not abs(value) <= LARGEST_NUMBER:
        raise UserError(f"{name} must be a number of at most {LARGEST_NUMBER:g}, not {value:g}")


def parse_boundary(boundary: str | Iterable[str] | None) -> tuple[Component, ...] | None:
    """Components from ``gpu``, ``cpu+gpu`` or a sequence of names, in alphabetical order. Raises UserError."""
    if boundary is None:
        return None
    names = boundary.split("+") if isinstance(boundary, str) else list(boundary)
    known: tuple[Component, ...] = ("ane", "cpu", "dram", "gpu", "system")
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise UserError(f"'{'+'.join(names)}' is no boundary; join any of {', '.join(known)} with +, such as cpu+gpu")
    if "system" in names and len(set(names)) > 1:
        raise UserError(f"'{'+'.join(names)}' is no boundary: system contains the other components; name it alone")
    return tuple(component for component in known if component in names)
