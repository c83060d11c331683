"""Power sources: every other file here, except ``base``, is one."""

from __future__ import annotations

import importlib
import pkgutil

from harness.errors import UserError
from harness.probes.base import Probe


def names() -> list[str]:
    """Names of all probes, in alphabetical order."""
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name.replace("_", "-") for name in files if name != "base")


def create(name: str) -> Probe:
    """The probe called ``name``; what follows a colon is handed to it (``replay:trial.npz``).

    Raises UserError for an unknown name or an option that the probe doesn't take.
    """
    base, _, option = name.partition(":")
    if base not in names():
        raise UserError(f"unknown probe {base!r}: choose from {', '.join(names())}, or auto or none")
    module = importlib.import_module(f"{__name__}.{base.replace('-', '_')}")
    probe: Probe = module.create(option or None)
    return probe


def refuse_option(name: str, option: str | None) -> None:
    """For probes that take no option. Raises UserError when there is one."""
    if option is not None:
        raise UserError(f"probe {name} takes no option, but was given {option!r}")
