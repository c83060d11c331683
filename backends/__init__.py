"""Runtimes that execute inference: one folder each, one line each in ``BACKENDS``; see ``base``.

Another package adds its own through an entry point of the group ``joulebench.backends``, whose name is that of the
backend and whose object is a function like ``create`` in ``backends.base``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from backends.base import Backend, InvalidConfig

GROUP = "joulebench.backends"

BACKENDS = {
    "fake": "backends.fake.backend",
    "llama-cpp": "backends.llama_cpp.backend",
    "openai": "backends.openai.backend",
    "transformers": "backends.transformers.backend",
}
"""By the name on the command line, the module that has ``create() -> Backend``; imported when it is asked for."""


def names() -> list[str]:
    """Names of all backends as written on the command line. Imports none of them."""
    return sorted({*BACKENDS, *entry_points(group=GROUP).names})


def create(name: str) -> Backend:
    """A fresh backend. Raises InvalidConfig for a name that isn't one, or whose package can't be loaded."""
    if name in BACKENDS:
        return import_module(BACKENDS[name]).create()
    for entry in entry_points(group=GROUP, name=name):
        try:
            guest: Backend = entry.load()()
            return guest
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise InvalidConfig(f"the package of the backend '{name}' can't be loaded: {said}; mend it") from error
    raise InvalidConfig(f"unknown backend '{name}'; choose one of {', '.join(names())}")
