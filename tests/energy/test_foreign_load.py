"""The CPU time that other programs take, and who they are."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness.energy import foreign_load
from harness.energy.foreign_load import CpuLoad, ForeignLoad, Look, clean_name
from harness.energy.process_tree import times_of
from tests.helpers import others_computing


@pytest.fixture
def busy() -> Iterator[int]:
    """The id of a child that computes."""
    with others_computing() as (pid,):
        yield pid


def test_foreign_load_counts_everybody_but_us_and_the_worker(busy: int) -> None:
    """Watched at the same time, the shares with and without a worker differ by what the worker spent."""
    theirs, ours = ForeignLoad(), ForeignLoad()
    child = psutil.Process(busy)

    def sample() -> tuple[int, float]:
        theirs.sample()
        ours.sample(busy)
        return time.monotonic_ns(), times_of(child).cpu_s

    def watch() -> tuple[float, float]:
        """The difference between the shares and what the worker spent."""
        _, first_s = sample()
        start_ns = time.monotonic_ns()
        time.sleep(1.5)
        end_ns = time.monotonic_ns()
        after_ns, last_s = sample()
        foreign, without_worker = theirs.over(start_ns, end_ns), ours.over(start_ns, end_ns)
        assert foreign is not None
        assert without_worker is not None
        assert busy not in [program.pid for program in without_worker.programs]
        spent = (last_s - first_s) / ((after_ns - start_ns) / 1e9 * (psutil.cpu_count() or 1))
        assert spent > 0.05 / (psutil.cpu_count() or 1)
        return foreign.share - without_worker.share, spent

    # A pause between the two samples of one moment spoils a try.
    tries = [watch() for _ in range(3)]
    assert sum(difference == pytest.approx(spent, rel=0.3) for difference, spent in tries) >= 2, tries


def test_what_the_worker_starts_is_ours_too() -> None:
    """Such as the processes that torch compiles in, while they live and once they are waited for."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    worker = subprocess.Popen([sys.executable, "-c", code])
    try:
        children: list[psutil.Process] = []
        while not children:
            time.sleep(0.05)
            children = psutil.Process(worker.pid).children()
        theirs, ours = ForeignLoad(), ForeignLoad()
        for load in (theirs, ours):
            load.sample(*([worker.pid] if load is ours else []))
        start_ns = time.monotonic_ns()
        time.sleep(1.5)
        end_ns = time.monotonic_ns()
        for load in (theirs, ours):
            load.sample(*([worker.pid] if load is ours else []))
        with_it, without_it = theirs.over(start_ns, end_ns), ours.over(start_ns, end_ns)
    finally:
        for process in (*children, worker):
            process.kill()
        worker.wait()
    assert with_it is not None
    assert without_it is not None
    assert with_it.share - without_it.share > 0.05 / (psutil.cpu_count() or 1)
    assert not {children[0].pid, worker.pid} & {program.pid for program in without_it.programs}


def test_a_server_that_others_started_is_ours_with_its_children() -> None:
    """As one that ran before: the worker is no parent of it."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    server = subprocess.Popen([sys.executable, "-c", code])
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        children: list[psutil.Process] = []
        while not children:
            time.sleep(0.05)
            children = psutil.Process(server.pid).children()
        with_it, without_it = ForeignLoad(), ForeignLoad()
        for load, roots in ((with_it, [worker.pid, server.pid]), (without_it, [worker.pid])):
            load.sample(*roots)
        start_ns = time.monotonic_ns()
        time.sleep(1.5)
        end_ns = time.monotonic_ns()
        for load, roots in ((with_it, [worker.pid, server.pid]), (without_it, [worker.pid])):
            load.sample(*roots)
        ours, foreign = with_it.over(start_ns, end_ns), without_it.over(start_ns, end_ns)
    finally:
        for process in (*children, server, worker):
            process.kill()
        server.wait()
        worker.wait()
    assert ours is not None
    assert foreign is not None
    assert foreign.share - ours.share > 0.05 / (psutil.cpu_count() or 1)
    assert not {children[0].pid, server.pid} & {program.pid for program in ours.programs}


class Machine:
    """Processes on four processors, by what they take of one: their CPU times grow with real time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **takes: tuple[int, float]) -> None:
        self.takes, self.begun_s = takes, time.monotonic()
        monkeypatch.setattr(psutil, "process_iter", lambda: [self.process(name) for name in takes])
        monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=sum(map(self.cpu_s, takes)), idle=1e6))
        monkeypatch.setattr(psutil, "cpu_count", lambda: 4)

    def cpu_s(self, name: str) -> float:
        return self.takes[name][1] * (time.monotonic() - self.begun_s)

    def process(self, name: str) -> Any:
        times = SimpleNamespace(user=self.cpu_s(name), system=0.0)
        return SimpleNamespace(
            pid=self.takes[name][0],
            oneshot=contextlib.nullcontext,
            name=lambda: name,
            ppid=lambda: 1,
            create_time=lambda: 0.0,
            cpu_times=lambda: times,
        )


def test_a_look_names_the_three_that_take_most(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getpid()
    Machine(monkeypatch, cc1=(21, 0.2), ours=(own, 1.0), ffmpeg=(22, 0.8), ld=(23, 0.4), sh=(24, 0.1), idle=(25, 0.0))
    load = Look().load(0.5)
    assert load is not None
    assert load.share == pytest.approx(1.5 / 4, rel=0.05)
    assert [str(program) for program in load.programs] == ["ffmpeg (pid 22)", "ld (pid 23)", "cc1 (pid 21)"]
    assert [program.share for program in load.programs] == pytest.approx([0.2, 0.1, 0.05], rel=0.05)


@pytest.mark.parametrize(
    ("share", "limit", "said"),
    [
        (0.63, 0.1, "other programs used 63 % of the CPU (limit 10 %)"),
        (0.1, 0.1, None),
        (0.9, None, None),
    ],
)
def test_an_excess_says_how_much_and_what_is_let_pass(share: float, limit: float | None, said: str | None) -> None:
    assert CpuLoad(share).excess(limit) == said


def test_names_are_text_whatever_their_owner_wrote_into_them() -> None:
    assert clean_name("\x1b[31mred\n<b>") == "??31mred??b?"
    assert clean_name("[bold]x" * 20) == ("?bold?x" * 20)[:40]
    assert clean_name(" ") == "unnamed"
    assert clean_name("kworker/0:1") == "kworker/0:1"


def test_a_load_that_is_hidden_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    assert foreign_load.Look().load(0.3) is None


def test_foreign_load_of_a_moment_or_across_a_restart_is_unknown() -> None:
    load = ForeignLoad()
    load.sample()
    now = time.monotonic_ns()
    load.sample()
    assert load.over(now, now) is None
    time.sleep(0.3)
    load.sample(os.getpid())
    assert load.over(now, time.monotonic_ns() - 1) is None
