"""What tests of served models need: a stub server with known delays, and quick runs against it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers import ROOT, environment

TTFT_S, TPOT_S = 0.012, 0.001
DELAYS = ("--ttft", str(TTFT_S), "--tpot", str(TPOT_S))
# Other programs on a test machine must not decide which trials count.
QUICK = ("--max-foreign-load", "1", "--min-window", "0.1", "--max-window", "0.15")
WITHOUT_METER = (*QUICK, "--probes", "none")

MEASURE = """
from harness.cli import main
from harness.measuring.session import MeasuringSession
MeasuringSession._note_idle = lambda self, when: None
main()
"""
"""Reading the idle power would take most of the time."""


@dataclass(frozen=True)
class Stub:
    """A stub server that runs."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def stub_server(*options: str, port: int = 0, **variables: str) -> Iterator[Stub]:
    """A stub server, ended afterwards."""
    command = [sys.executable, "-m", "tests.stub_server", "--port", str(port), *DELAYS, *options]
    variables = {**environment(), **variables}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout
        try:
            yield Stub(process, json.loads(process.stdout.readline())["port"])
        finally:
            process.kill()


def free_port() -> int:
    """A port for a server that is to come back where it was."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def measuring(command: Sequence[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
    """``joulebench`` in another process, ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", MEASURE, *command],
        env={**environment(), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_trials(count: int, directory: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run has so many trials."""
    path, until = directory / "trials.jsonl", time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All that came of a process."""
    return psutil.Process(process.pid).children(recursive=True)


def still_running(processes: Sequence[psutil.Process], within_s: float = 15.0) -> list[psutil.Process]:
    """Those that have not ended within that time; where nobody waits for orphans they stay as zombies."""
    until = time.monotonic() + within_s
    while (left := list(filter(_runs, processes))) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
