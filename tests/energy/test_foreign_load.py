"""The CPU time that other programs take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from harness.energy.foreign_load import ForeignLoad, process_cpu_s


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A child that computes."""
    child = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
    yield child
    child.kill()
    child.wait()


def test_foreign_load_counts_everybody_but_us_and_the_worker(busy: subprocess.Popen[bytes]) -> None:
    """Watched at the same time, the shares with and without a worker differ by what the worker spent."""
    theirs, ours = ForeignLoad(), ForeignLoad()
    child = psutil.Process(busy.pid)

    def sample() -> tuple[int, float]:
        theirs.sample(None)
        ours.sample(busy.pid)
        return time.monotonic_ns(), process_cpu_s(child)

    def watch() -> tuple[float, float]:
        """The difference between the shares and what the worker spent."""
        _, first_s = sample()
        start_ns = time.monotonic_ns()
        time.sleep(1.5)
        end_ns = time.monotonic_ns()
        after_ns, last_s = sample()
        foreign, without_worker = theirs.share(start_ns, end_ns), ours.share(start_ns, end_ns)
        assert foreign is not None
        assert without_worker is not None
        spent = (last_s - first_s) / ((after_ns - start_ns) / 1e9 * (psutil.cpu_count() or 1))
        assert spent > 0.05 / (psutil.cpu_count() or 1)
        return foreign - without_worker, spent

    # A pause between the two samples of one moment spoils a try.
    tries = [watch() for _ in range(3)]
    assert sum(difference == pytest.approx(spent, rel=0.3) for difference, spent in tries) >= 2, tries


def test_foreign_load_of_a_moment_or_across_a_restart_is_unknown() -> None:
    load = ForeignLoad()
    load.sample(None)
    now = time.monotonic_ns()
    load.sample(None)
    assert load.share(now, now) is None
    time.sleep(0.3)
    load.sample(os.getpid())
    assert load.share(now, time.monotonic_ns() - 1) is None
