"""What tests of served models need: a stub server with known delays, and quick runs against it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.helpers import ROOT, environment

TTFT_S, TPOT_S = 0.012, 0.001
DELAYS = ("--ttft", str(TTFT_S), "--tpot", str(TPOT_S))
# Other programs on a test machine must not decide which trials count.
QUICK = ("--max-foreign-load", "1", "--min-window", "0.1", "--max-window", "0.15")
WITHOUT_METER = (*QUICK, "--probes", "none")


@dataclass(frozen=True)
class Stub:
    """A stub server that runs."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def stub_server(*options: str, delays: tuple[str, ...] = DELAYS, port: int = 0) -> Iterator[Stub]:
    """A stub server, ended afterwards."""
    command = [sys.executable, "-m", "tests.stub_server", "--port", str(port), *delays, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout
        try:
            yield Stub(process, json.loads(process.stdout.readline())["port"])
        finally:
            process.kill()
