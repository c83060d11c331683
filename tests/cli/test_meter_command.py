"""``joulebench meter``: where it listens, what it refuses in one line, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from tests.helpers import environment, joulebench, refused, take_interrupts


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def started(free_port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "meter", "--listen", str(free_port), "--probes", "fake"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | {"PYTHONPATH": os.getcwd()},
        preexec_fn=take_interrupts,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_ended(started: subprocess.Popen[str], free_port: int, number: signal.Signals) -> None:
    assert started.stdout is not None
    said = started.stdout.readline()
    assert said == f"http://127.0.0.1:{free_port}/metrics serves fake; Ctrl-C ends it\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/clock", timeout=10) as answer:
        assert json.load(answer)["monotonic_ns"] > 0
    assert "is in use" in refused(joulebench("meter", "--listen", free_port, "--probes", "fake"))
    started.send_signal(number)
    _, errors = started.communicate(timeout=30)
    assert started.returncode == 0
    assert errors == "ended\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "joulebench meter --listen, at 127.0.0.1:9437"),
        (["--listen", "host"], "[HOST:]PORT"),
        (["--listen", "--probes", "watts"], "unknown probe 'watts'"),
        (["--listen", "0", "--probes", "fake:unavailable"], "does not work here"),
        (["--listen", "0.0.0.0:0"], "--token-env"),
        (["--listen", "0", "--token-env", "NO_TOKEN_HERE"], "NO_TOKEN_HERE"),
        (["--listen", "0", "--probes", "fake", "--calibrate", "gpu7=1,0"], "no power domain gpu7"),
        (["--listen", "0", "--sample-rate", "0"], "--sample-rate"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], said: str) -> None:
    assert said in refused(joulebench("meter", *arguments))


def test_an_empty_token_is_none() -> None:
    done = joulebench("meter", "--listen", "0.0.0.0:0", "--token-env", "METER_TOKEN", METER_TOKEN="")
    assert "holds no token" in refused(done)
