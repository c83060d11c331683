"""Where a server computes: on this machine in which processes and with what, or somewhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.base import Config, InvalidConfig
from backends.openai.address import Address
from backends.openai.devices import UNKNOWN, ServerDevice, device_of
from backends.openai.port_owner import NAME_IT, find_owner, is_this_machine

if TYPE_CHECKING:
    import psutil

SECRET_FLAG = re.compile(r"-(hft|.*(keys?|token|secret|password))", re.IGNORECASE)
"""Flags of servers whose values nobody else may see."""


@dataclass(frozen=True)
class Placement:
    """Processes that compute, what they use, and why this machine's meters don't see them, if they don't."""

    device: ServerDevice
    pids: tuple[int, ...] = ()
    no_energy: str | None = None
    command: tuple[str, ...] = ()
    """The first process's command line, without keys."""


def place(config: Config, address: Address) -> Placement:
    """Find the processes of a server that runs already: the one that is named, or the owner of its port.

    Raises InvalidConfig for a process that isn't there, or a device other than the server's own.
    """
    if not is_this_machine(address.host):
        if config.server_pid is not None:
            raise InvalidConfig(f"--server-pid {config.server_pid}: the server at {address.url} is on another machine")
        remedy = f"name a joulebench meter there, --meter-url http://{address.host}:PORT"
        return _unseen(config, f"the server is on another machine; {remedy}")
    if config.server_pid is None:
        owner = find_owner(address.host, address.port)
        if owner.pid is None:
            return _unseen(config, owner.reason or f"nobody is seen to listen on port {address.port}; {NAME_IT}")
        return _seen(config, owner.pid)
    import psutil

    if not psutil.pid_exists(config.server_pid):
        raise InvalidConfig(f"--server-pid {config.server_pid}: there is no such process; give the server's")
    return _seen(config, config.server_pid)


def place_started(config: Config, pid: int, command: Sequence[str]) -> Placement:
    """Where a server computes that this process started.

    The port on its command line is another one at each start, and says nothing of what is measured.
    """
    ports = {index + 1 for index, word in enumerate(command) if word == "--port"}
    words = ["PORT" if index in ports else word for index, word in enumerate(command)]
    return Placement(_declared(config, device_of([pid])), command=without_keys(words))


def running(pids: Sequence[int]) -> list[psutil.Process]:
    """The processes with these ids; they know that they have ended, also where an id is another's by then."""
    import psutil

    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def _seen(config: Config, pid: int) -> Placement:
    return Placement(_declared(config, device_of([pid])), (pid,), command=_command(pid))


def _unseen(config: Config, no_energy: str) -> Placement:
    return Placement(_declared(config, ServerDevice(UNKNOWN)), no_energy=no_energy)


def _declared(config: Config, found: ServerDevice) -> ServerDevice:
    """What was found out, or what the user says where nothing was. Raises InvalidConfig where the two differ."""
    if config.device == "auto" or config.device == found.kind:
        return found
    if found.kind != UNKNOWN:
        raise InvalidConfig(f"--device {config.device}: the server computes on {found.kind}; leave --device out")
    return ServerDevice(config.device, ("cpu",) if config.device == "cpu" else ())


def _command(pid: int) -> tuple[str, ...]:
    import psutil

    try:
        return without_keys(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()


def without_keys(command: Sequence[str]) -> tuple[str, ...]:
    """A command line with what follows a key's flag left out; some take several keys."""
    shown: list[str] = []
    secret = False
    for word in command:
        name, given, _ = word.partition("=")
        secret = bool(SECRET_FLAG.fullmatch(name)) if word.startswith("-") else secret
        shown.append(f"{name}=…" if given and secret else "…" if secret and not word.startswith("-") else word)
    return tuple(shown)


def flag(command: Sequence[str], names: Sequence[str]) -> int | None:
    """The whole number that a command line gives to the last flag of one of these names; None where it gives none."""
    found = None
    for word, following in zip(command, [*command, ""][1:], strict=True):
        name, given, value = word.partition("=")
        text = value if given else following
        if name in names and text.isdecimal():
            found = int(text)
    return found
