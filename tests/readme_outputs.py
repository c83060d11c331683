"""Run what the README and the pages in docs/ show, and compare or renew the output that they print.

    python -m tests.readme_outputs           # lists the commands whose output differs; exit code 1 if any does
    python -m tests.readme_outputs --write   # puts the output of each into its page

A walk is every ``console`` block of a page, in order: a line that begins with ``$ `` is a command, the lines after it
are its output. The commands of one page run in one directory, as ``prepare`` lays it out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import ROOT, joulebench

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
RUN = ROOT / "tests" / "data" / "run-first"
SERVED = ROOT / "tests" / "data" / "run-served"
"""What `--serve llama-server -c 1,2,4 --point 128,32 -- -np 4 -c 8192` left, without its traces."""
_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
_CUT = re.compile(r" \| (head|tail) -n (\d+)")


def walk(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a page's console blocks, each with the output shown below it."""
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, shown.rstrip("\n")


def run(command: str, directory: Path) -> str:
    """What a ``joulebench`` command prints, without blanks around it. Raises CalledProcessError when it fails.

    ``| head -n N`` and ``| tail -n N`` after it keep the first or the last N lines.
    """
    program, *arguments = shlex.split(_CUT.sub("", command))
    assert program == "joulebench", f"console blocks are about joulebench, not {program}"
    # Where the command is on the path, what it says to type next is short.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = joulebench(*arguments, cwd=directory, COLUMNS="100", NO_COLOR="1", PATH=path)
    done.check_returncode()
    lines = [line.rstrip() for line in done.stdout.rstrip().splitlines()]
    for end, count in _CUT.findall(command):
        lines = lines[: int(count)] if end == "head" else lines[-int(count) :]
    return "\n".join(lines).strip("\n")


def prepare(directory: Path) -> None:
    """Lay out what the pages name: runs, one of another backend and one of a server, profiles, logs and trials."""
    for name in ("first", "x"):
        shutil.copytree(RUN, directory / "runs" / name)
    _other_backend(directory / "runs" / "llama")
    shutil.copytree(SERVED, directory / "runs" / "served")
    for name, profile in (("small", "m1-pro-llama-2-7b"), ("large", "swing-a100-llama-2-7b")):
        shutil.copy(ROOT / "profiles" / f"{profile}.json", directory / f"{name}.json")
    shutil.copy(ROOT / "profiles" / "m1-pro-mistral-7b.json", directory)
    sizes = [(20, 16), (40, 8), (300, 32)] * 20
    (directory / "log.csv").write_text("input_tokens,output_tokens\n" + "".join(f"{m},{n}\n" for m, n in sizes))
    times = "".join(f"{0.5 * row},{m},{n}\n" for row, (m, n) in enumerate(sizes))
    (directory / "arrivals.csv").write_text("timestamp,input_tokens,output_tokens\n" + times)
    _mixed_load(directory)
    trials = [(m, n, 0.1 + 0.001 * m + 0.03 * n) for m, n in [(8, 8), (64, 8), (8, 64), (64, 64), (32, 32), (16, 128)]]
    rows = "".join(f"{m},{n},{seconds},{20 * seconds}\n" for m, n, seconds in trials)
    (directory / "trials.csv").write_text("input_tokens,output_tokens,runtime_s,energy_j\n" + rows)
    (directory / "gains.toml").write_text("[cpu-time]\ngain = 1.05\noffset_w = 0.4\n")


def _mixed_load(directory: Path) -> None:
    """A profile with costs under load, the log of a server and a meter's readings meanwhile."""
    shutil.copy(ROOT / "tests" / "data" / "profile-schema-3.json", directory / "gpu.json")
    shutil.copy(ROOT / "tests" / "data" / "mixed-load.csv", directory / "served.csv")
    power = "".join(f"{0.5 * step - 2},180\n" for step in range(70))
    (directory / "power.csv").write_text("time_s,power_w\n" + power)


def _other_backend(directory: Path) -> None:
    """The recorded run as llama-cpp would have left it with weights of the same precision."""
    shutil.copytree(RUN, directory)
    facts = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
    facts["backend"] |= {"name": "llama-cpp", "settings": {}, "versions": {}}
    facts["model"]["dtype"] = "F32"
    (directory / "run.json").write_text(json.dumps(facts), encoding="utf-8")


def renewed(text: str, directory: Path) -> str:
    """A page with the output that its commands print now."""

    def renew(match: re.Match[str]) -> str:
        commands = [command for command, _ in walk(f"```console\n{match[0]}```")]
        return "".join(f"$ {command}\n{run(command, directory)}\n" for command in commands)

    return _BLOCK.sub(renew, text)


def main() -> None:
    """Compare or write."""
    stale: list[str] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            prepare(Path(scratch))
            new = renewed(text, Path(scratch))
        if "--write" in sys.argv[1:]:
            page.write_text(new, encoding="utf-8")
            continue
        pairs = zip(walk(text), walk(new), strict=True)
        stale += [f"{page.name} differs: {old[0]}" for old, now in pairs if old != now]
    print(*stale, sep="\n")
    sys.exit(bool(stale))


if __name__ == "__main__":
    main()
