"""Kill joulebench, its server, or both at random instants of a real run, and see that nothing is left or lost.

Usage: python scripts/bench/kills.py [--kills 50] [--serve llama-server|vllm] [--seed N] [--directory DIR] [-- FLAGS]

Each kill interrupts ``joulebench measure --backend openai --serve …``; the next start of the same command resumes it.
After each no process may be left of those that there were; every trial that was on disk stays as it was; numbers of
trials are 0, 1, 2, … In the end the run resumes to its end and every point has its trials. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from backends.openai.servers.supervisor import lives
from harness.measuring.schedule import MAX_ERRORS

MARK = "JOULEBENCH_KILLS"
VICTIMS = ("measure", "worker", "server", "measure and server", "worker and server", "supervisor", "outer supervisor")
LEFT_AFTER_S = 45.0
"""How long ended processes may take: a server is given 5 s to end by itself, longer on a busy machine."""
POINTS = {(m, n, c) for m in (8, 16) for n in (4, 8) for c in (1, 2)}
KILLS_OF_A_RUN = 10
LEAST_TRIALS = 3
"""Of a point, by the protocol."""
FLAGS = {
    "llama-server": ("tiny-test", ["-np", "2", "-c", "512"]),
    "vllm": ("smollm2-135m", ["--enforce-eager", "--max-model-len", "512", "--kv-cache-memory-bytes", "300000000"]),
}


@dataclass
class Run:
    """A run directory and the command that measures into it."""

    serve: str
    flags: list[str]
    directory: Path
    mark: str

    def start(self) -> subprocess.Popen[bytes]:
        model, flags = FLAGS[self.serve]
        command = [
            *(sys.executable, "-m", "harness", "measure"),
            *("--backend", "openai", "--serve", self.serve, "-m", model),
        ]
        command += [option for m, n, _ in sorted(POINTS) for option in ("--point", f"{m},{n}")]
        command += ["-c", "1,2", "--protocol", "quick", "--max-foreign-load", "1", "-o", str(self.directory)]
        command += ["--", *(self.flags or flags)]
        with self.directory.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, MARK: self.mark}
            )

    def processes(self) -> dict[int, psutil.Process]:
        """Those that carry the mark, and what they started: some overwrite the place where marks are."""
        found = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found |= {each.pid: each for each in (process, *process.children(recursive=True))}
            except psutil.Error:
                continue
        return {pid: process for pid, process in found.items() if lives(process)}

    def lines(self) -> list[bytes]:
        """The whole lines of trials.jsonl."""
        path = self.directory / "trials.jsonl"
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def find_victims(run: Run, measure: subprocess.Popen[bytes], names: str) -> list[psutil.Process]:
    """The processes of these names that there are now."""
    return [process for process in run.processes().values() if role(run, measure, process) in names.split(" and ")]


def role(run: Run, measure: subprocess.Popen[bytes], process: psutil.Process) -> str:
    """What a process is; ``other`` for what the server started, which must not outlive it."""
    command = command_of(process)
    if process.pid == measure.pid:
        return "measure"
    if "supervisor.py" in command:
        return "supervisor" if "--inner" in command else "outer supervisor"
    if "harness.measuring.worker" in command:
        return "worker"
    return "server" if f"/{run.serve} " in command else "other"


def kill_once(run: Run, rng: random.Random, longest_s: float) -> str:
    """Start or go on, kill at a random instant, and check. Returns what happened."""
    measure = run.start()
    name, after_s = rng.choice(VICTIMS), rng.uniform(0, longest_s)
    try:
        measure.wait(after_s)
        return "ended before"
    except subprocess.TimeoutExpired:
        pass
    before = run.processes()
    victims = find_victims(run, measure, name)
    lines = run.lines()
    for process in victims:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    if not victims:
        name = f"measure ({name} was not there)"
    elif "measure" not in name:
        # Whoever is left goes on with another worker or server, until it is interrupted too.
        time.sleep(rng.uniform(0, 3))
        before |= run.processes()
    measure.kill()
    measure.wait()
    await_none(run, before)
    check_lines(run, lines)
    return name


def await_none(run: Run, before: dict[int, psutil.Process]) -> None:
    until = time.monotonic() + LEFT_AFTER_S
    while left := [process for process in {**before, **run.processes()}.values() if lives(process)]:
        if time.monotonic() > until:
            fail(f"left: {[(process.pid, command_of(process)[:80]) for process in left]}")
        time.sleep(0.05)


def check_lines(run: Run, before: list[bytes]) -> None:
    lines = run.lines()
    if lines[: len(before)] != before:
        fail("trials that were on disk are gone or changed")
    numbers = [json.loads(line)["id"] for line in lines]
    if numbers != list(range(len(numbers))):
        fail(f"numbers of trials are not 0, 1, 2, …: {numbers}")


def finish(run: Run, kills: int) -> str:
    """Let the run go on to its end. Every point has its trials then, unless kills hit it as often as it is tried."""
    code = run.start().wait()
    check_lines(run, [])
    trials = [json.loads(line) for line in run.lines()]
    count: dict[str, Counter[tuple[int, int, int]]] = {"ok": Counter(), "error": Counter()}
    for trial in trials:
        if trial["purpose"] == "measure" or trial["status"] == "error":
            point = (trial["input_tokens"], trial["output_tokens"], trial["concurrency"])
            count.setdefault(trial["status"], Counter())[point] += 1
    given_up = {point for point in POINTS if count["error"][point] >= MAX_ERRORS}
    short = {point for point in POINTS - given_up if count["ok"][point] < LEAST_TRIALS}
    if code or short:
        fail(f"the run does not get to its end: exit code {code}, too few trials at {short}")
    if count["error"].total() > kills:
        fail(f"{count['error'].total()} trials failed by {kills} kills")
    return f"{len(trials)} trials, {count['error'].total()} of them failed, {len(given_up)} points given up"


def fail(what: str) -> NoReturn:
    raise SystemExit(f"FAILED: {what}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--serve", choices=FLAGS, default="llama-server")
    options.add_argument("--longest", type=float, default=12.0, help="latest instant of a kill, in s")
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--directory", type=Path, default=None)
    options.add_argument("flags", nargs="*")
    given = options.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    rng = random.Random(seed)
    top = given.directory or Path(tempfile.mkdtemp(prefix="joulebench-kills-"))
    top.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, runs in {top}", flush=True)
    kills = 0
    while kills < given.kills:
        run = Run(given.serve, given.flags, top / f"run-{kills}", uuid.uuid4().hex)
        here = 0
        while here < KILLS_OF_A_RUN and kills < given.kills:
            happened = kill_once(run, rng, given.longest)
            if happened == "ended before":
                break
            kills, here = kills + 1, here + 1
            print(f"  {kills}: {happened}; {len(run.lines())} trials on disk", flush=True)
        print(f"  {run.directory.name} is whole: {finish(run, here)}", flush=True)
    print(f"{kills} kills: no process left, no trial lost or doubled")


if __name__ == "__main__":
    main()
