"""The acceptance scripts as a user starts them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT, environment


def command(machine: str) -> list[str]:
    """What starts the script of ``gpu`` or ``mac``."""
    return ["bash", str(ROOT / "scripts" / machine / "acceptance.sh")]


def measured(machine: str, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """A start of the script, with some environment variables changed."""
    return subprocess.run(
        [*command(machine), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "JOULEBENCH_PYTHON": sys.executable, **changes},
        timeout=800,
    )


def steps(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The steps that a start made, in order."""
    return [line.split()[1] for line in done.stdout.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]


def tabled(machine: str, out: Path) -> subprocess.CompletedProcess[str]:
    """The table of what is in a folder."""
    program = [sys.executable, str(ROOT / "scripts" / "acceptance" / f"{machine}_table.py"), str(out)]
    return subprocess.run(program, capture_output=True, text=True, env=environment())


def table(out: Path) -> dict[str, dict]:
    """The rows of the table that was made of a folder, by what they are about."""
    return {row["what"]: row for row in json.loads((out / "acceptance.json").read_text())}


def python_that_says(folder: Path, what: str) -> Path:
    """An interpreter that, for a command line that holds " measure ", notes it in ``folder/asked`` and fails.

    ``what`` is more of the shell's ``case``.
    """
    python = folder / "python"
    measures = f'*" -m harness measure "*) echo "$*" >>{folder}/asked; echo "nothing here" >&2; exit 1;;'
    limited = "*limited.py*) ;;"
    python.write_text(f'#!/bin/sh\ncase "$*" in {limited} {what} {measures} esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python
