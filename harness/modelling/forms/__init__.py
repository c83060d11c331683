"""Forms of the cost of a request: one file each, one line each in ``FORMS``; see ``base``."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from harness.core.errors import UserError

if TYPE_CHECKING:
    from harness.modelling.forms.base import Form

FORMS = {
    "phase": "harness.modelling.forms.phase.Phase",
    "bilinear": "harness.modelling.forms.bilinear.Bilinear",
}
"""By name, the class of each form; imported when it is asked for. The first is used unless another is named."""

DEFAULT = next(iter(FORMS))
AUTO = "auto"
"""Stands for the form with the smallest held-out error."""


def form_named(name: str) -> type[Form]:
    """The class of the form. Raises UserError for a name that isn't one."""
    if name not in FORMS:
        raise UserError(f"no form '{name}': choose one of {', '.join(FORMS)}")
    found: type[Form] = resolve_name(FORMS[name])
    return found
