"""How true the energies are, and what measuring them costs.

    python scripts/energy_rows.py [sensors|sampler]

``sensors`` watches random loads of known energy through models of real sensors. ``sampler`` reads power at 20 Hz
and prints what that takes of one core.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from comparison import Comparison, Options, rates
from synthetic import ORIGIN_NS, SENSORS, Sensor, random_load

from harness.energy.config import EnergyConfig
from harness.energy.integrate import margin_s, window_energy
from harness.energy.meter import Meter
from harness.energy.probes.base import ProbeContext

RATE_HZ = EnergyConfig().rate_hz
POLL_S = 1.0 / RATE_HZ
LONG, SHORT = (50.0, 200.0), (3.0, 10.0)
"""Window lengths in periods of the slower of sensor and sampler."""


@dataclass(frozen=True)
class Coverage:
    """How one sensor did over many loads; shares of the true energy."""

    sensor: str
    shapes: int
    mean_error: float
    mean_absolute_error: float
    mean_ci95: float
    covered: float
    """Share of loads whose true energy lies in the stated 95 % interval."""
    lowest_j: float
    unknown: int
    """Loads for which no energy was given."""


def coverage(sensor: Sensor, periods: tuple[float, float], shapes: int = 1000, seed: int = 0) -> Coverage:
    """Watch ``shapes`` random loads through one sensor; deterministic for a seed."""
    rng = np.random.default_rng([seed, *sensor.name.encode()])
    margin = margin_s(sensor.domain(), POLL_S) + 0.3
    energies, errors, widths = [], [], []
    for _ in range(shapes):
        window_s = np.exp(rng.uniform(*np.log(periods))) * max(sensor.period_s, POLL_S)
        load = random_load(rng, window_s, margin + 3.0)
        trace = sensor.observe(load, -margin, window_s + margin, rng, RATE_HZ)
        energy = window_energy(trace, ORIGIN_NS, ORIGIN_NS + int(window_s * 1e9))
        if energy.joules is None or energy.ci95_j is None:
            continue
        true_j = float(load.energy_j(0.0, window_s))
        energies.append(energy.joules)
        errors.append(energy.joules / true_j - 1.0)
        widths.append(energy.ci95_j / true_j)
    error, width = np.array(errors), np.array(widths)
    return Coverage(
        sensor=sensor.name,
        shapes=shapes,
        mean_error=float(error.mean()),
        mean_absolute_error=float(np.abs(error).mean()),
        mean_ci95=float(width.mean()),
        covered=float((np.abs(error) <= width).mean()),
        lowest_j=min(energies),
        unknown=shapes - len(energies),
    )


def sensors(shapes: int = 1000) -> list[str]:
    """The coverage table, as lines."""
    lines = []
    for title, periods in (("50-200", LONG), ("3-10", SHORT)):
        lines.append(f"windows of {title} periods, {shapes} random loads each")
        lines.append(f"{'sensor':<32}{'mean error':>12}{'mean |error|':>14}{'mean ±':>10}{'covered':>10}{'null':>6}")
        for sensor in SENSORS:
            row = coverage(sensor, periods, shapes)
            lines.append(
                f"{row.sensor:<32}{row.mean_error:>+12.2%}{row.mean_absolute_error:>14.2%}"
                f"{row.mean_ci95:>10.2%}{row.covered:>10.1%}{row.unknown:>6}"
            )
        lines.append("")
    return lines


def sampler(seconds: float = 5.0) -> list[str]:
    """What sampling at 20 Hz takes of a core, as lines."""
    lines = [f"{'source':<32}{'share of one core at 20 Hz':>28}"]
    with tempfile.TemporaryDirectory() as folder:
        for label, selection in (
            ("synthetic counter", "fake"),
            ("CPU time of a process", "estimate"),
            ("RAPL files, 2 packages + DRAM", f"rapl:{_powercap(Path(folder))}"),
        ):
            lines.append(f"{label:<32}{_core_share(selection, seconds):>28.2%}")
    return lines


def against_no_sampling(options: Options) -> list[Comparison]:
    """Computations/s of CPU time in a child whose machine is sampled at 20 Hz against one that is left alone."""
    rounds = max(options.rounds, 4 if options.short else 30)
    ours, alone = rates(lambda: 1 / _child_s(True), lambda: 1 / _child_s(False), rounds)
    return [Comparison("a child, power sampled", "runs/s", ours, alone, "not sampled", 0.995)]


def _core_share(selection: str, seconds: float) -> float:
    """CPU time of this process while it only samples, over wall time."""
    with Meter.open(EnergyConfig(selection), ProbeContext(worker_pid=1)):
        time.sleep(0.5)
        used, started = time.process_time(), time.monotonic()
        time.sleep(seconds)
        return (time.process_time() - used) / (time.monotonic() - started)


def _child_s(sampled: bool) -> float:
    """CPU time of a fixed computation in a child.

    It shows what the sampler costs through caches and interrupts, and other programs disturb it less than runtime.
    """
    with Meter.open(EnergyConfig("fake,estimate" if sampled else "none"), ProbeContext()) as meter:
        code = "import time; sum(i * i for i in range(3_000_000)); print(time.process_time())"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
            meter.set_worker(child.pid)
            return float(child.communicate()[0])


def _powercap(root: Path) -> Path:
    """A sysfs with two packages and their DRAM."""
    for zone, name in (("0", "package-0"), ("0:0", "dram"), ("1", "package-1"), ("1:0", "dram")):
        folder = root / "class" / "powercap" / f"intel-rapl:{zone}"
        folder.mkdir(parents=True)
        for file, text in (("name", name), ("energy_uj", "1000000"), ("max_energy_range_uj", "262143328850")):
            (folder / file).write_text(text)
    return root


TABLES = {"sensors": sensors, "sampler": sampler}


if __name__ == "__main__":
    for wanted in sys.argv[1:] or list(TABLES):
        if wanted not in TABLES:
            sys.exit(f"energy_rows.py: no table {wanted!r}: choose from {', '.join(TABLES)}")
        print("\n".join(TABLES[wanted]()))
