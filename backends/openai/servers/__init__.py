"""Servers that can be started for a measurement: one file each, one line each in ``LAUNCHERS``."""

from __future__ import annotations

from importlib import import_module

from backends.base import InvalidConfig
from backends.openai.servers.base import Launcher

LAUNCHERS = {
    "llama-server": "backends.openai.servers.llama_server",
    "vllm": "backends.openai.servers.vllm",
}
"""By the name after ``--serve``, the module whose ``launcher`` starts it."""


def launcher(name: str) -> Launcher:
    """How to start the server of this name. Raises InvalidConfig for a name that isn't one."""
    if name not in LAUNCHERS:
        raise InvalidConfig(f"unknown server '{name}'; --serve takes {' or '.join(LAUNCHERS)}, others run at --url")
    found: Launcher = import_module(LAUNCHERS[name]).launcher
    return found
