"""CPU time of processes with all that they start: nothing twice, and nothing lost when one ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.energy import probes
from harness.energy.foreign_load import foreign_pids
from harness.energy.probes.base import ProbeContext
from harness.energy.process_tree import ProcessTimes, TreeMembers, TreeReader, TreeTime

ROOT = (1,)


def process(parent: int, cpu_s: float, reaped_s: float = 0.0, begun_s: float = 0.0) -> ProcessTimes:
    return ProcessTimes(parent, begun_s, cpu_s, reaped_s)


def spent(*looks: dict[int, ProcessTimes], roots: tuple[int, ...] = ROOT) -> float:
    tree = TreeTime()
    return [tree.add(roots, look) for look in looks][-1]


def test_live_children_count_and_what_was_before_the_first_look_does_not() -> None:
    first = {1: process(0, 5.0, 2.0), 2: process(1, 10.0)}
    assert spent(first) == 0.0
    assert spent(first, {1: process(0, 5.5, 2.0), 2: process(1, 13.0)}) == pytest.approx(3.5)


def test_a_child_that_is_waited_for_counts_once() -> None:
    before = {1: process(0, 1.0), 2: process(1, 0.0)}
    alive = {1: process(0, 1.0), 2: process(1, 4.0)}
    reaped = {1: process(0, 1.0, 4.5)}
    assert spent(before, alive, reaped) == pytest.approx(4.5)


@pytest.mark.parametrize("lost", [(2,), (2, 3), (3,)])
def test_a_child_that_nobody_waits_for_keeps_what_it_spent(lost: tuple[int, ...]) -> None:
    before = {pid: process(pid - 1, 0.0) for pid in (1, 2, 3)}
    alive = {1: process(0, 1.0), 2: process(1, 2.0), 3: process(2, 4.0)}
    left = {pid: each for pid, each in alive.items() if pid not in lost}
    assert spent(before, alive, left) == pytest.approx(7.0)
    assert spent(before, alive, left, left) == pytest.approx(7.0)


def test_of_two_that_ended_the_one_that_was_waited_for_is_told_by_its_time() -> None:
    before = {1: process(0, 0.0), 2: process(1, 0.0), 3: process(1, 0.0)}
    alive = before | {2: process(1, 8.0), 3: process(1, 3.0)}
    assert spent(before, alive, {1: process(0, 0.0, 3.1)}) == pytest.approx(11.1)


def test_a_new_child_counts_from_its_start_and_a_newcomer_from_when_it_came() -> None:
    tree = TreeTime()
    tree.add(ROOT, {1: process(0, 1.0)})
    assert tree.add(ROOT, {1: process(0, 1.0), 2: process(1, 0.7), 3: process(2, 0.2)}) == pytest.approx(0.9)
    stranger = {1: process(0, 1.0), 2: process(1, 0.7), 3: process(2, 0.2), 9: process(77, 100.0)}
    assert tree.add(ROOT, stranger) == pytest.approx(0.9)
    assert tree.add((1, 5), stranger | {5: process(77, 50.0)}) == pytest.approx(0.9)
    assert tree.add((1, 5), stranger | {5: process(77, 50.5)}) == pytest.approx(1.4)


def test_a_number_that_is_used_again_is_another_process() -> None:
    before = {1: process(0, 0.0), 2: process(1, 9.0)}
    assert spent(before, {1: process(0, 0.0), 2: process(1, 0.5, begun_s=7.0)}) == pytest.approx(0.5)


@given(st.data())
def test_the_time_never_steps_back_and_misses_nothing_that_is_waited_for(data: st.DataObject) -> None:
    """A tree that grows, computes and ends at random: each that ends is waited for by its parent, or by nobody."""
    parent, cpu, reaped = {1: 0}, {1: 0.0}, {1: 0.0}
    tree, true_s, unseen_s, last = TreeTime(), 0.0, 0.0, 0.0

    def look() -> float:
        return tree.add(ROOT, {pid: process(parent[pid], cpu[pid], reaped[pid], float(pid)) for pid in parent})

    look()
    for number in range(2, 12):
        parent[number] = data.draw(st.sampled_from(sorted(parent)))
        cpu[number] = reaped[number] = 0.0
        for pid in parent:
            more = data.draw(st.floats(0.1, 5.0))
            cpu[pid] += more
            true_s += more
        if data.draw(st.booleans()):
            now = look()
            assert now >= last
            last = now
        leaf = data.draw(st.sampled_from(sorted(pid for pid in parent if pid not in parent.values())))
        if leaf != 1 and data.draw(st.booleans()):
            whole = cpu.pop(leaf) + reaped.pop(leaf)
            if data.draw(st.booleans()):
                reaped[parent[leaf]] += whole
            else:
                unseen_s += whole  # at most that much was never seen
            del parent[leaf]
    assert true_s - unseen_s - 0.3 <= look() <= true_s + 0.3


BURN = "import time\nend = time.process_time() + {0}\nwhile time.process_time() < end: pass"
"""Computes for so many CPU seconds."""


@pytest.fixture
def careless() -> Iterator[subprocess.Popen[str]]:
    """A process whose child computes for 0.6 s of CPU time and ends without being waited for; it says so."""
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {BURN.format(0.6)!r}], stdout=subprocess.PIPE)
child.stdout.read()
print("ended", flush=True)
time.sleep(60)
"""
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    yield started
    started.kill()
    started.wait()


def test_a_live_child_counts_and_stays_counted_when_nobody_waits_for_it(careless: subprocess.Popen[str]) -> None:
    reader, seen = TreeReader(), [0.0]
    assert careless.stdout is not None
    while not select.select([careless.stdout], [], [], 0.01)[0]:
        read = reader.read((careless.pid,))
        assert read is not None
        assert read[1] >= seen[-1]
        seen.append(read[1])
    time.sleep(0.1)
    last = reader.read((careless.pid,))
    assert last is not None
    assert last[1] >= 0.3, "the child is gone, and what it spent is not"
    assert not psutil.Process(careless.pid).children()


def test_the_estimate_counts_servers_and_live_children() -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN.format(9)!r}])"
    server = subprocess.Popen([sys.executable, "-c", code])
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        while not (children := psutil.Process(server.pid).children()):
            time.sleep(0.02)
        joules = {}
        for roots in ((), (server.pid,)):
            probe = probes.create("estimate")
            probe.open(ProbeContext(worker_pid=idle.pid, server_pids=roots, cpu_watts=10.0 * (os.cpu_count() or 1)))
            before = probe.read()[0].value
            time.sleep(0.6)
            joules[roots] = probe.read()[0].value - before
    finally:
        for each in (*children, server, idle):
            each.kill()
        server.wait()
        idle.wait()
    assert joules[()] <= 0.3
    assert joules[(server.pid,)] > 1.0


def test_a_server_that_is_not_there_is_no_0() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    probe = probes.create("estimate")
    probe.open(ProbeContext(worker_pid=os.getpid(), server_pids=(gone.pid,)))
    (reading,) = probe.read()
    assert reading.value != reading.value
    assert "can't be read" in str(probe.domains()[0].lost_means)


def test_who_is_ours_is_looked_up_again_for_those_who_are_new() -> None:
    members = TreeMembers()
    assert members.of((os.getpid(),)) >= {os.getpid()}
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert child.pid in members.of((os.getpid(),), [child.pid])
        assert members.of(()) == frozenset()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_others_on_a_device_are_those_that_are_not_ours() -> None:
    assert foreign_pids({7, 8}, frozenset({7})) == [8]
    assert foreign_pids({7, os.getpid()}, frozenset({7})) == []
    assert foreign_pids({8}, frozenset({7})) is None
