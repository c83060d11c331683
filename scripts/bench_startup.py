"""How long the command line takes to answer ``--help``, beside a bare typer program."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

_BARE = """
import typer

app = typer.Typer()


@app.command()
def one(number: int = 1) -> None:
    "One command."


@app.command()
def two(number: int = 2) -> None:
    "Another."


app()
"""


def sides(stack: ExitStack) -> tuple[Callable[[], float], Callable[[], float]]:
    """Two functions that each start a program once and return starts/s: joulebench, and a bare typer program."""
    bare = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "bare.py"
    bare.write_text(_BARE, encoding="utf-8")

    def starts_per_s(*command: str) -> float:
        started_ns = time.monotonic_ns()
        subprocess.run([sys.executable, *command, "--help"], check=True, stdout=subprocess.DEVNULL)
        return 1e9 / (time.monotonic_ns() - started_ns)

    return lambda: starts_per_s("-m", "harness.cli"), lambda: starts_per_s(str(bare))
