"""Who serves at an address of this machine."""

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backends.openai import port_owner
from backends.openai.port_owner import Owner, find_owner, is_this_machine, listening_pid

LISTEN = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def listener(tmp_path):
    """Start a program that listens; returns its process and port."""
    started = []

    def start(host="127.0.0.1", name=None):
        program = Path(sys.executable).resolve()
        if name:
            (tmp_path / name).symlink_to(program)
            program = tmp_path / name
        command = [str(program), "-IS", "-c", LISTEN, host]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_owner_of_a_port_is_the_process_that_listens(listener):
    process, port = listener()
    assert find_owner("127.0.0.1", port) == Owner(process.pid)
    assert find_owner("localhost", port) == Owner(process.pid)
    everywhere, port = listener("0.0.0.0")
    assert find_owner("127.0.0.1", port) == Owner(everywhere.pid)


def test_a_connection_is_no_owner(listener):
    _, port = listener()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert listening_pid("127.0.0.1", connection.getsockname()[1]) is None


def test_two_addresses_have_an_owner_each(listener):
    process, port = listener("127.0.0.2") if sys.platform == "linux" else listener()
    if sys.platform == "linux":
        assert listening_pid("127.0.0.1", port) is None
        assert listening_pid("127.0.0.2", port) == process.pid


def test_port_without_a_known_owner_asks_for_the_process():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    owner = find_owner("127.0.0.1", port)
    assert owner.pid is None
    assert "--server-pid" in owner.reason


@pytest.mark.parametrize(("name", "said"), [("ssh", "elsewhere"), ("kubectl", "elsewhere"), ("docker-proxy", "passes")])
def test_programs_that_only_pass_connections_on_are_not_the_server(listener, name, said):
    process, port = listener(name=name)
    owner = find_owner("127.0.0.1", port)
    assert owner.pid is None
    assert said in owner.reason
    assert f"pid {process.pid}" in owner.reason
    assert "--server-pid" in owner.reason


def test_first_of_several_that_share_a_socket_is_the_owner(listener):
    if sys.platform != "linux":
        pytest.skip("forks share the socket on Linux")
    fork = "import os, socket, sys, time\nlistener = socket.create_server(('127.0.0.1', 0))\n"
    fork += "child = os.fork()\nif child: print(listener.getsockname()[1], flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-IS", "-c", fork]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert listening_pid("127.0.0.1", int(process.stdout.readline())) == process.pid
    finally:
        process.communicate("")


def test_where_the_system_hides_sockets_each_process_is_asked(listener, monkeypatch):
    process, port = listener()

    def hidden(kind):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", hidden)
    assert find_owner("127.0.0.1", port) == Owner(process.pid)


def test_loopback_and_own_addresses_are_this_machine(monkeypatch):
    assert is_this_machine("localhost")
    assert is_this_machine("127.0.0.1")
    assert is_this_machine("127.0.0.53")
    assert is_this_machine("[::1]")
    own = [
        address.address
        for cards in psutil.net_if_addrs().values()
        for address in cards
        if address.family == socket.AF_INET
    ]
    assert all(map(is_this_machine, own))
    assert not is_this_machine("192.0.2.77")
    monkeypatch.setattr(port_owner.socket, "getaddrinfo", lambda *asked: (_ for _ in ()).throw(socket.gaierror()))
    assert not is_this_machine("no-such-host.invalid")
