"""Run the walk of the README on the recorded run in tests/data, and show or renew the output that it prints.

    python -m tests.readme_outputs           # lists the commands whose output differs; exit code 1 if any does
    python -m tests.readme_outputs --write   # puts the output of each into README.md

The walk is every ``console`` block: a line that begins with ``$ `` is a command, the lines after it are its output.
All run in one empty directory in which ``runs/first`` is the recorded run.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import ROOT, joulebench

README = ROOT / "README.md"
RUN = ROOT / "tests" / "data" / "run-first"
_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def walk(block: str) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with the output shown below it."""
    command, shown = None, []
    for line in block.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, "\n".join(shown)
            command, shown = line[2:], []
        else:
            shown.append(line)
    if command is not None:
        yield command, "\n".join(shown)


def blocks(text: str) -> list[str]:
    """The console blocks of the README."""
    return _BLOCK.findall(text)


def run(command: str, directory: Path) -> str:
    """What a ``joulebench`` command prints, without trailing blanks. Raises CalledProcessError when it fails.

    Of a command that ends in ``| tail -n N``, its last N lines.
    """
    command, _, lines = command.partition(" | tail -n ")
    program, *arguments = shlex.split(command)
    assert program == "joulebench", f"the walk is about joulebench, not {program}"
    done = joulebench(*arguments, cwd=directory, COLUMNS="100", NO_COLOR="1")
    done.check_returncode()
    printed = [line.rstrip() for line in done.stdout.rstrip().splitlines()]
    return "\n".join(printed[-int(lines or len(printed)) :])


def prepare(directory: Path) -> None:
    """Lay the recorded run where the walk expects it."""
    shutil.copytree(RUN, directory / "runs" / "first")


def renewed(text: str, directory: Path) -> str:
    """The README with the output that its walk prints now."""

    def renew(match: re.Match[str]) -> str:
        return "".join(f"$ {command}\n{run(command, directory)}\n" for command, _ in walk(match[0]))

    return _BLOCK.sub(renew, text)


def main() -> None:
    """Compare or write."""
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        new = renewed(text, Path(scratch))
    if "--write" in sys.argv[1:]:
        README.write_text(new, encoding="utf-8")
        return
    pairs = zip(blocks(text), blocks(new), strict=True)
    stale = [a[0] for old, now in pairs for a, b in zip(walk(old), walk(now), strict=True) if a != b]
    print(*(f"differs: {command}" for command in stale), sep="\n")
    sys.exit(bool(stale))


if __name__ == "__main__":
    main()
