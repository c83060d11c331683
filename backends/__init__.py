"""Runtimes that execute inference. A backend is a file here that exposes ``create()``; see ``base``."""

from __future__ import annotations

import importlib
import pkgutil

from backends.base import Backend, InvalidConfig


def names() -> list[str]:
    """Names of all backends as written on the command line."""
    modules = (info.name for info in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if hasattr(_module(name), "create"))


def create(name: str) -> Backend:
    """A fresh backend. Raises InvalidConfig for a name that isn't one."""
    if name not in names():
        raise InvalidConfig(f"unknown backend '{name}'; choose one of {', '.join(names())}")
    backend: Backend = _module(name.replace("-", "_")).create()
    return backend


def _module(name: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"{__name__}.{name}")
