"""Logs of real GPU sensors (JimZeyuYang/GPU_Power_Benchmark, MIT) through our integration; skipped without them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from harness.energy.integrate import window_energy
from harness.energy.readings import Domain, Trace
from tests.helpers import ROOT

LOGS = ROOT.parent / "shared" / "data" / "gpu-power"
AVERAGING_S = {"a100": 0.025, "3090": 0.1, "4090": 0.1}
ORIGIN_NS = 10**12

pytestmark = pytest.mark.skipif(not LOGS.is_dir(), reason="needs the recorded logs")


def columns(path: Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("name", ["step-a100", "step-3090", "step-4090", "square-a100"])
def test_integral_of_a_log_is_that_of_its_rows(name: str) -> None:
    """From idle to idle around the load, so that no edge has power that the trapezoids and we date differently."""
    log = columns(LOGS / f"{name}-sensor.csv")
    times_s = log.pop("time_s")
    for column, watts in log.items():
        averaging_s = 1.0 if "average" in column else AVERAGING_S[name.partition("-")[2]]
        domain = Domain("gpu0-power", "gpu", "power", "integrated", "nvml", 0.01, 0.1, averaging_s)
        trace = Trace(domain, ORIGIN_NS + np.round(times_s * 1e9).astype(np.int64), watts)
        start_s, end_s = times_s[0] + 0.1, times_s[-1] - 1.5
        energy = window_energy(trace, ORIGIN_NS + int(start_s * 1e9), ORIGIN_NS + int(end_s * 1e9))
        inside = (times_s >= start_s) & (times_s <= end_s)
        plain_j = np.trapezoid(watts[inside], times_s[inside])
        assert energy.joules == pytest.approx(plain_j, rel=0.002), column
        assert energy.ci95_j < 0.1 * plain_j
