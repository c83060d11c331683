"""Which process of this machine serves at an address."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

NAME_IT = "name the server's process with --server-pid"
_ELSEWHERE = {"ssh": "an SSH port forward", "sshd": "an SSH port forward", "kubectl": "a port forward of kubectl"}
"""Programs that pass connections on to a server on another machine."""
_PROXIES = ("docker-proxy", "rootlessport", "slirp4netns", "pasta", "socat", "wslrelay.exe")
"""Programs that pass connections on to a server that may be here, in a container."""


@dataclass(frozen=True)
class Owner:
    """Who listens at an address of this machine."""

    pid: int | None
    """None where it can't be told, or where it isn't the server."""
    reason: str | None = None
    """Why not, and what to do; None with a pid."""


def is_this_machine(host: str) -> bool:
    """Whether a URL's host is this machine: the loopback, or the address of one of its interfaces."""
    import psutil

    try:
        found = {str(info[4][0]).split("%")[0] for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return False
    own = {address.address.split("%")[0] for cards in psutil.net_if_addrs().values() for address in cards}
    return bool(found) and all(_is_local(address) or address in own for address in found)


def find_owner(host: str, port: int) -> Owner:
    """The process that serves at an address of this machine."""
    import psutil

    pid = listening_pid(host, port)
    if pid is None:
        return Owner(
            None, f"the process that listens at port {port} can't be told (it may be another user's); {NAME_IT}"
        )
    try:
        name = psutil.Process(pid).name()
    except psutil.Error:
        return Owner(None, f"the process that listens at port {port} has ended; {NAME_IT}")
    if name in _ELSEWHERE:
        reason = f"port {port} belongs to {_ELSEWHERE[name]} (pid {pid}): the server is elsewhere; if not, {NAME_IT}"
        return Owner(None, reason)
    if name in _PROXIES:
        return Owner(None, f"port {port} belongs to {name} (pid {pid}), which only passes connections on; {NAME_IT}")
    return Owner(pid)


def listening_pid(host: str, port: int) -> int | None:
    """The process that listens at the port, at this address or at all; None where the system doesn't tell.

    Of a process and the workers that inherited its socket it is the process.
    """
    import psutil

    pids = [pid for ip, own_port, pid in _listening() if own_port == port and _covers(ip, host)]
    if not pids:
        return None
    process = psutil.Process(pids[0]) if psutil.pid_exists(pids[0]) else None
    with contextlib.suppress(psutil.Error):
        while process and (parent := process.parent()) and any(at == port for _, at in _sockets(parent)):
            process = parent
    return process.pid if process else pids[0]


def _listening() -> Iterator[tuple[str, int, int]]:
    """Address, port and process of the listening sockets, as far as the system shows them.

    macOS shows to others than root only those of their own processes, and only when each is asked.
    """
    import psutil

    try:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.pid:
                yield found.laddr.ip, found.laddr.port, found.pid
        return
    except psutil.AccessDenied:
        pass
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            yield from ((ip, port, process.pid) for ip, port in _sockets(process))


def _sockets(process: psutil.Process) -> list[tuple[str, int]]:
    """Address and port of the sockets at which a process listens. Raises psutil.Error where it may not be asked."""
    import psutil

    found = process.net_connections("tcp")
    return [(own.laddr.ip, own.laddr.port) for own in found if own.status == psutil.CONN_LISTEN and own.laddr]


def _covers(listening: str, host: str) -> bool:
    """Whether a socket that listens at one address takes connections to a host."""
    if listening in ("0.0.0.0", "::", "*"):
        return True
    try:
        wanted = {str(info[4][0]) for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return False
    return listening.removeprefix("::ffff:") in wanted


def _is_local(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_unspecified
