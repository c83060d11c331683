"""Where a server computes: its processes, its devices, and a command line without keys."""

import os
import socket
import subprocess
import sys

import pytest

from backends.base import Config, InvalidConfig
from backends.openai.address import parse_url
from backends.openai.devices import device_of
from backends.openai.placement import flag, place, without_keys

LISTENER = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


@pytest.fixture
def listener():
    """A process that listens on a port; yields its pid and address."""
    command = [sys.executable, "-c", LISTENER, "--api-key", "sk-secret", "--max-num-seqs", "16"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield process.pid, parse_url(f"http://127.0.0.1:{int(process.stdout.readline())}")
        process.kill()


def test_the_owner_of_the_port_is_found_and_its_command_line_without_keys(listener):
    pid, address = listener
    found = place(Config("m", url=address.url), address)
    assert found.pids == (pid,)
    assert found.no_energy is None
    assert "sk-secret" not in found.command
    assert flag(found.command, ("--max-num-seqs",)) == 16


def test_the_process_that_is_named_is_taken_for_the_ports_owner(listener):
    _, address = listener
    assert place(Config("m", url=address.url, server_pid=os.getpid()), address).pids == (os.getpid(),)


def test_a_process_that_is_not_there_is_refused(listener):
    _, address = listener
    with pytest.raises(InvalidConfig, match="no such process"):
        place(Config("m", url=address.url, server_pid=2**22 + 7), address)


def test_a_server_whose_process_can_not_be_seen_has_no_energy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = parse_url(f"http://127.0.0.1:{free.getsockname()[1]}")
        found = place(Config("m", url=address.url), address)
    assert found.pids == ()
    assert "--server-pid" in str(found.no_energy)
    assert found.device.kind == "unknown"


def test_a_server_on_another_machine_has_no_energy_here():
    address = parse_url("http://192.0.2.1:8000")
    found = place(Config("m", url=address.url, device="cuda"), address)
    assert "--meter-url" in str(found.no_energy)
    assert found.device.kind == "cuda"
    with pytest.raises(InvalidConfig, match="another machine"):
        place(Config("m", url=address.url, server_pid=1), address)


@pytest.mark.skipif(sys.platform != "linux", reason="a process's devices are read from /proc")
def test_a_process_without_a_gpu_computes_on_the_cpu(listener):
    pid, address = listener
    assert device_of([pid]).kind == "cpu"
    with pytest.raises(InvalidConfig, match="computes on cpu"):
        place(Config("m", url=address.url, device="cuda"), address)


def test_processes_that_are_gone_tell_nothing():
    assert device_of([2**22 + 7]).kind == "unknown"
    assert device_of([]).kind == "unknown"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("vllm serve m --api-key a b --port 8000", "vllm serve m --api-key … … --port 8000"),
        ("s --api-key=a --hf-token t --tokenizer x", "s --api-key=… --hf-token … --tokenizer x"),
        ("s --max-num-batched-tokens 8 --key-length 3", "s --max-num-batched-tokens 8 --key-length 3"),
        ("s --key k --ssl-key-password p", "s --key … --ssl-key-password …"),
        ("s -hft t --apikey k --max-tokens 3", "s -hft … --apikey … --max-tokens 3"),
    ],
)
def test_keys_are_left_out_of_command_lines(command, shown):
    assert " ".join(without_keys(command.split())) == shown


@pytest.mark.parametrize(
    ("command", "found"),
    [("s --n 4", 4), ("s --n=4 --n 8", 8), ("s --n", None), ("s --n x", None), ("s 4", None), ("", None)],
)
def test_a_number_among_flags_is_read(command, found):
    assert flag(command.split(), ("--n",)) == found
