"""Declarations that lie one in a file, of ours and of other packages. Imported when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from harness.core.errors import UserError


class Named(Protocol):
    """What can be registered."""

    @property
    def name(self) -> str:
        """Distinct among those of a registry."""


T = TypeVar("T", bound=Named)


def registered_forms(kind: type[T], what: str, group: str, package: str, modules: Iterable[str]) -> dict[str, T]:
    """All forms by name: those of other packages' entry points of ``group`` first, then ours in their order.

    Ours are the ``FORM`` of each of the ``modules`` of ``package``; ``what`` names such forms in messages. Raises
    UserError where another package's can't be loaded, or is none.
    """
    found: dict[str, T] = {}
    for entry in entry_points(group=group):
        try:
            form = entry.load()
        except Exception as error:  # whatever a package raises as it is imported
            raise UserError(
                f"the {what} {entry.name} can't be loaded ({type(error).__name__}): mend or uninstall its package"
            ) from None
        if not isinstance(form, kind):
            wanted = f"{kind.__module__}.{kind.__name__}"
            raise UserError(f"the {what} {entry.name} is no {wanted}: mend its package")
        found[form.name] = form
    for module in modules:
        ours: T = import_module(f"{package}.{module}").FORM
        found.setdefault(ours.name, ours)
    return found
