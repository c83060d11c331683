"""Where a server computes: on this machine in which processes and with what, or somewhere else."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from backends.base import Config, InvalidConfig
from backends.openai.control import Address
from backends.openai.devices import UNKNOWN, ServerDevice, device_of

FORWARDERS = {
    *("ssh", "sshd", "autossh", "docker-proxy", "rootlessport", "slirp4netns", "pasta", "kubectl", "socat"),
    *("nginx", "haproxy", "caddy", "envoy", "traefik", "litellm", "com.docker.backend"),
}
"""Programs that listen for others: what they take they pass on, and compute nothing."""
SECRET_FLAG = re.compile(r"-.*(?:^|[-_])(?:keys?|token|secret|password)", re.IGNORECASE)


@dataclass(frozen=True)
class Placement:
    """Processes that compute, what they use, and why this machine's meters don't see them, if they don't."""

    device: ServerDevice
    pids: tuple[int, ...] = ()
    no_energy: str | None = None
    command: tuple[str, ...] = ()
    """The first process's command line, without keys."""


def place(config: Config, address: Address) -> Placement:
    """Find the server's processes: the one that ``server_pid`` names, or the owner of its port.

    Raises InvalidConfig for a process that isn't there, or a device other than the server's own.
    """
    if not _is_here(address.host):
        if config.server_pid is not None:
            raise InvalidConfig(f"--server-pid {config.server_pid}: the server at {address.url} is on another machine")
        remedy = f"name a joulebench meter there, --meter-url http://{address.host}:PORT"
        return _unseen(config, f"the server is on another machine; {remedy}")
    pids, reason = _processes(config, address)
    if not pids:
        return _unseen(config, f"{reason}; name its process, --server-pid N")
    return Placement(_declared(config, device_of(pids)), pids, command=_command(pids[0]))


def _unseen(config: Config, no_energy: str) -> Placement:
    return Placement(_declared(config, ServerDevice(UNKNOWN)), no_energy=no_energy)


def _is_here(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    import psutil

    try:
        found = {str(entry[4][0]).split("%")[0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {entry.address.split("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries}
    return all(address.startswith("127.") or address in ("::1", "0.0.0.0", "::") or address in own for address in found)


def _processes(config: Config, address: Address) -> tuple[tuple[int, ...], str]:
    """The server's processes, or none and why."""
    import psutil

    if config.server_pid is not None:
        if not psutil.pid_exists(config.server_pid):
            raise InvalidConfig(f"--server-pid {config.server_pid}: there is no such process; give the server's")
        return (config.server_pid,), ""
    pids = _listeners(address.port)
    if not pids:
        return (), f"the process that listens on port {address.port} can't be seen"
    name = psutil.Process(pids[0]).name()
    if name in FORWARDERS:
        return (), f"{name} listens on port {address.port} and passes requests on to a server that can't be seen"
    return _topmost(pids), ""


def _listeners(port: int) -> list[int]:
    import psutil

    try:
        found = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return []
    listening = (
        entry for entry in found if entry.status == psutil.CONN_LISTEN and entry.laddr and entry.laddr.port == port
    )
    return sorted({entry.pid for entry in listening if entry.pid})


def _topmost(pids: Sequence[int]) -> tuple[int, ...]:
    """Those whose parents aren't among them: the others are started by these."""
    import psutil

    return tuple(pid for pid in pids if not {parent.pid for parent in psutil.Process(pid).parents()} & set(pids))


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
