"""How true energies are that are read from a simulated RAPL tree, beside other tools where they are installed.

    python scripts/bench/rapl_tree.py [--windows 0.5,2,10] [--repeats N] [--json]

A process of its own advances the counter of a powercap tree in real time, about every millisecond, under a load that
alternates between 20 and 90 W. Windows of each length begin at random phases of it; the true energy of each is known
from the load's formula. Errors and half-widths are relative to it. ``wrapping`` is the same with a counter that wraps
about every second.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison import OneLineParser

from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes.base import ProbeContext

LOW_W, HIGH_W, HALF_S = 20.0, 90.0, 0.173
"""The square wave; half of its period is no simple fraction of any window."""
UPDATE_S = 0.001
ZONE = Path("class") / "powercap" / "intel-rapl:0"
WRAP_UJ, SHORT_WRAP_UJ = 262_143_328_850, 65_000_000
SHORT_WRAP_REPEATS = 10
WINDOWS_S = (0.5, 2.0, 10.0)
LONGEST_S = 600.0


@dataclass(frozen=True)
class SquareWave:
    """A load that began at a time of CLOCK_MONOTONIC, in s."""

    began_s: float

    def energy_j(self, time_s: float) -> float:
        """Exact energy since it began."""
        halves, rest = divmod(time_s - self.began_s, HALF_S)
        whole = int(halves)
        done = (whole // 2) * (LOW_W + HIGH_W) * HALF_S + (whole % 2) * LOW_W * HALF_S
        return done + rest * (HIGH_W if whole % 2 else LOW_W)

    def between_j(self, start_s: float, end_s: float) -> float:
        """Exact energy between two times."""
        return self.energy_j(end_s) - self.energy_j(start_s)


def advance(files: list[str], began_s: float, wrap_uj: int) -> None:
    """Keep the counters at the energy of their time, until this process is ended."""
    wave = SquareWave(began_s)
    handles = [os.open(file, os.O_WRONLY) for file in files]
    # Real counters are never late. Without the right to go first, other programs make this one so.
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while True:
        # One write of one length: no reader sees half a number.
        text = f"{int(wave.energy_j(time.monotonic()) * 1e6) % wrap_uj:015d}\n".encode()
        for handle in handles:
            os.pwrite(handle, text, 0)
        time.sleep(UPDATE_S)


@contextlib.contextmanager
def rapl_tree(wrap_uj: int = WRAP_UJ) -> Iterator[tuple[Path, SquareWave]]:
    """A sysfs with one package whose counter moves, in memory where the system has a place for that."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        zone = Path(folder) / ZONE
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0\n")
        (zone / "max_energy_range_uj").write_text(f"{wrap_uj}\n")
        (zone / "energy_uj").write_text(f"{0:015d}\n")
        wave = SquareWave(time.monotonic())
        process = multiprocessing.get_context("spawn").Process(
            target=advance, args=([str(zone / "energy_uj")], wave.began_s, wrap_uj), daemon=True
        )
        process.start()
        try:
            while not int((zone / "energy_uj").read_text() or 0):
                time.sleep(0.01)
            yield Path(folder), wave
        finally:
            process.terminate()
            process.join()


def measure(window_s: float, repeats: int, wrap_uj: int = WRAP_UJ) -> dict[str, Any]:
    """Errors and intervals of ours over so many windows, and of other tools that read one of their own after each."""
    ours: list[tuple[float, float]] = []
    theirs: dict[str, list[float]] = {}
    with rapl_tree(wrap_uj) as (root, wave), Meter.open(EnergyConfig(f"rapl:{root}"), ProbeContext()) as meter:
        rivals = {name: open_rival(root) for name, open_rival in RIVALS.items() if importlib.util.find_spec(name)}
        for _ in range(repeats):
            pause()
            with meter.window() as window:
                time.sleep(window_s)
            true_j = wave.between_j(window.marks.start_ns[0] / 1e9, window.marks.end_ns[-1] / 1e9)
            if window.energy_j is None or window.ci95_j is None:
                raise SystemExit(f"rapl_tree.py: a window of {window_s:g} s has no energy: {window.reason}")
            ours.append((abs(window.energy_j / true_j - 1.0), window.ci95_j / true_j))
            for name, read_j in rivals.items():
                pause()
                before_j, start_s = read_j(), time.monotonic()
                time.sleep(window_s)
                end_s, after_j = time.monotonic(), read_j()
                theirs.setdefault(name, []).append(abs((after_j - before_j) / wave.between_j(start_s, end_s) - 1.0))
    errors, widths = zip(*ours, strict=True)
    return {
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "ci95": statistics.median(widths),
        "coverage": statistics.fmean(error <= width for error, width in ours),
        "others": {name: {"median_error": statistics.median(e), "worst_error": max(e)} for name, e in theirs.items()},
    }


def pause() -> None:
    """Let the next window begin anywhere in the square wave."""
    time.sleep(random.uniform(0.3, 0.3 + 2 * HALF_S))


def open_zeus(root: Path) -> Callable[[], float]:
    """Joules as Zeus reads them from the tree's package."""
    from zeus.device.cpu.rapl import RAPLFile

    file = RAPLFile(str(root / ZONE))
    return lambda: file.read() / 1000.0


def open_pyrapl(root: Path) -> Callable[[], float]:
    """Joules as pyRAPL reads them, told where the tree lies: it looks in /sys alone."""
    from pyRAPL.device_api import PkgAPI

    class Package(PkgAPI):
        def _get_socket_directory_names(self) -> list[tuple[str, int]]:
            return [(str(root / ZONE), 0)]

    package = Package()
    return lambda: package.energy()[0] / 1e6


RIVALS: dict[str, Callable[[Path], Callable[[], float]]] = {"zeus": open_zeus, "pyRAPL": open_pyrapl}
"""By the name of their package. They are read in this process, where they are installed."""


def parse_windows(text: str) -> list[float]:
    """Window lengths in s, from numbers joined by commas. Raises argparse.ArgumentTypeError."""
    try:
        lengths_s = [float(part) for part in text.split(",")]
    except ValueError:
        lengths_s = [0.0]
    if not all(0.0 < length_s <= LONGEST_S for length_s in lengths_s):
        raise argparse.ArgumentTypeError(f"{text!r} is not lengths in s above 0, at most {LONGEST_S:g}: 0.5,2,10")
    return lengths_s


def table(windows: dict[str, dict[str, Any]], wrapping: dict[str, Any]) -> list[str]:
    """The results as lines."""
    lines = [f"{'window':<12}{'median error':>14}{'worst error':>14}{'± 95 %':>10}{'covered':>10}"]
    for name, row in {**{f"{name} s": row for name, row in windows.items()}, "wrapping": wrapping}.items():
        errors = f"{row['median_error']:>14.4%}{row['worst_error']:>14.4%}"
        lines.append(f"{name:<12}{errors}{row['ci95']:>10.3%}{row['coverage']:>10.0%}")
        for other, found in row["others"].items():
            lines.append(f"  {other:<10}{found['median_error']:>14.4%}{found['worst_error']:>14.4%}")
    return lines


def results(lengths: Sequence[float] = WINDOWS_S, repeats: int = 20) -> tuple[dict[str, Any], dict[str, Any]]:
    """By length of window what came out, and the same of a counter that wraps."""
    windows = {f"{length:g}": measure(length, repeats) for length in lengths}
    return windows, measure(min(2.0, max(lengths)), min(repeats, SHORT_WRAP_REPEATS), SHORT_WRAP_UJ)


def main() -> None:
    """Prints the table, or JSON."""
    parser = OneLineParser(description="How true energies from a simulated RAPL tree are.")
    parser.add_argument("--windows", type=parse_windows, default=WINDOWS_S, help="lengths in s, joined by commas")
    parser.add_argument("--repeats", type=int, default=20, help="windows of each length")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    windows, wrapping = results(arguments.windows, arguments.repeats)
    if arguments.json:
        print(json.dumps({"windows": windows, "wrapping": wrapping}, indent=1))
    else:
        print("\n".join(table(windows, wrapping)))


if __name__ == "__main__":
    main()
