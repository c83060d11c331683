"""How long the command line takes to answer ``--help``, beside a bare typer program."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from comparison import Comparison, Options, per_second, rates

STARTS = 10

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


def against_bare_typer(options: Options) -> list[Comparison]:
    """Starts/s of ``joulebench --help`` against a program of typer's with two empty commands."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(_BARE, encoding="utf-8")

        def started(*command: str) -> Callable[[], float]:
            command = (sys.executable, *command, "--help")
            return per_second(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))

        # One start takes a quarter of a second: many cost nothing and tell more.
        rounds = max(options.rounds, STARTS)
        ours, theirs = rates(started("-m", "harness"), started(str(bare)), rounds)
    return [Comparison("joulebench --help", "starts/s", ours, theirs, "bare typer", 0.67)]
