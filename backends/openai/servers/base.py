"""What a kind of server is to those who start one: where its program is, its command line, its environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backends.base import InvalidConfig, NotInstalled
from backends.openai.placement import SECRET_FLAG

HOST = "127.0.0.1"
"""Servers started here are for this machine alone."""
CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class ServerModel:
    """The model to serve."""

    name: str
    """As the user names it; requests name it so too."""
    path: str
    """What the server is told to load: a file, a folder or a hub id."""


class Launcher(Protocol):
    """One kind of server."""

    name: str
    """As on the command line after ``--serve``."""
    refused_flags: Mapping[str, str]
    """Flags that are not the user's to give, each with the reason."""
    key_variable: str
    """Environment variable from which the server takes its key."""

    def find_model(self, name: str, dtype: str, seed: int) -> ServerModel:
        """The model a name means, made where it is a preset. Raises InvalidConfig or NotInstalled."""

    def command(
        self, program: str, model: ServerModel, port: int, threads: int, device: str, dtype: str, flags: Sequence[str]
    ) -> list[str]:
        """The command line. ``flags`` come last, so that they overrule. Raises InvalidConfig."""

    def environment(self, threads: int) -> dict[str, str]:
        """What is added to the environment."""


def find_program(name: str) -> str:
    """The server's program. Raises NotInstalled naming the command that installs it.

    Looked for in the folder ``$JOULEBENCH_SERVERS`` and in ``.servers`` of the checkout, where
    ``scripts/setup/servers.sh`` puts it, then beside this Python, then on PATH.
    """
    roots = [os.environ.get("JOULEBENCH_SERVERS"), str(CHECKOUT / ".servers")]
    places = [Path(root) / name / "bin" for root in roots if root] + [Path(sys.executable).parent]
    for place in places:
        if os.access(place / name, os.X_OK) and (place / name).is_file():
            return str(place / name)
    found = shutil.which(name)
    if found is None:
        remedy = f"run bash scripts/setup/servers.sh {name} in a checkout, or put it on PATH"
        raise NotInstalled(f"there is no program {name} here; {remedy}")
    return found


def given(flags: Sequence[str], *names: str) -> bool:
    """Whether one of these flags is among those the user gave, as ``--name value`` or ``--name=value``."""
    return any(flag.split("=", 1)[0] in names for flag in flags)


def refuse_flags(flags: Sequence[str], launcher: Launcher) -> None:
    """Refuse flags that are ours to give, and keys, which would be recorded. Raises InvalidConfig."""
    for flag in flags:
        name = flag.split("=", 1)[0]
        if name in launcher.refused_flags:
            raise InvalidConfig(f"leave '{name}' out of {launcher.name}'s flags: {launcher.refused_flags[name]}")
        if SECRET_FLAG.fullmatch(name):
            remedy = "name an environment variable that holds the server's key with --api-key-env, others export"
            raise InvalidConfig(f"'{name}' would be recorded with the command line; leave it out, and {remedy}")
