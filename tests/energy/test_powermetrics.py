"""The powermetrics probe against programs named ``sudo`` and ``powermetrics``, first on PATH."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import ProbeFailed, ProbeUnavailable, UserError
from harness.energy.attribution import EnergyReport
from harness.energy.config import Attribution, EnergyConfig
from harness.energy.document_stream import IntervalEnds
from harness.energy.meter import Meter
from harness.energy.probes import powermetrics
from harness.energy.probes.base import ProbeContext
from tests.helpers import ROOT

STAND_IN = ROOT / "tests" / "data" / "powermetrics.py"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH with both programs; we are not root, so that sudo is used."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write(folder / "powermetrics", f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
    write(folder / "sudo", '#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\nexec "$@"\n')
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("POWERMETRICS_FAST", "1")
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    return folder


def write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def measure(
    seconds: float = 1.2, attribution: Attribution = "system", worker: int | None = None
) -> tuple[EnergyReport, dict[str, Any], float]:
    """Report, conditions and length of a window."""
    context = ProbeContext(worker_pid=worker)
    with Meter.open(EnergyConfig("powermetrics", max_foreign_load=None, attribution=attribution), context) as meter:
        time.sleep(0.7)
        with meter.window() as window:
            time.sleep(seconds)
    length_s = (window.marks.end_ns[0] - window.marks.start_ns[0]) / 1e9
    return window.energy, {**window.conditions, "disturbed": window.disturbed}, length_s


def test_rails_are_integrated_over_their_real_intervals(programs: Path) -> None:
    report, conditions, seconds = measure()
    for component, watts in (("cpu", 4.0), ("gpu", 10.0)):
        figure = report.components[component]
        assert figure.method == "modelled"
        assert figure.request_j == pytest.approx(watts * seconds, abs=figure.request_ci95_j)
        assert figure.request_j == pytest.approx(watts * seconds, rel=0.05)
    assert report.components["ane"].request_j == 0.0
    assert "dram" not in report.components
    assert report.total.request_j == pytest.approx(14.0 * seconds, rel=0.05)
    assert conditions["powermetrics"]["thermal_pressure"] == ["Nominal"]


def test_macos_12_keys_without_power(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERMETRICS_SCENARIO", "macos12")
    report, _, seconds = measure()
    assert report.components.keys() == {"cpu", "gpu", "ane", "dram"}
    assert report.components["dram"].request_j == pytest.approx(1.5 * seconds, rel=0.07)
    assert report.components["gpu"].request_j == pytest.approx(10.0 * seconds, rel=0.07)


def test_cpu_is_shared_by_energy_impact_and_the_gpu_is_whole(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERMETRICS_WORKER", "4242")
    report, _, seconds = measure(attribution="process", worker=4242)
    assert report.domains["soc-cpu-process"].request_j == pytest.approx(4.0 * seconds * 30 / 120, rel=0.05)
    assert report.components["gpu"].request_j == pytest.approx(10.0 * seconds, rel=0.05)


def test_without_a_worker_its_share_is_unknown_not_zero(programs: Path) -> None:
    report, _, _ = measure(0.5, "process")
    assert report.components["cpu"].request_j is None
    assert report.total.request_j is None
    assert report.components["gpu"].request_j > 0


def test_tasks_without_impact_are_refused(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERMETRICS_SCENARIO", "no impact")
    with pytest.raises(UserError, match="use --attribution system"):
        measure(attribution="process")


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [("dies", "something broke"), ("truncated", "exit status 0")],
)
def test_death_in_mid_stream_is_null_with_the_reason(
    programs: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, reason: str
) -> None:
    monkeypatch.setenv("POWERMETRICS_SCENARIO", scenario)
    report, _, _ = measure(1.5)
    assert report.total.request_j is None
    assert reason in report.total.reason


def test_rail_that_is_published_in_batches_says_how_little_is_known(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERMETRICS_SCENARIO", "batches")
    with Meter.open(EnergyConfig("powermetrics", max_foreign_load=None), ProbeContext()) as meter:
        periods_s = {name: domain.period_s for name, domain in meter.describe().domains.items()}
        assert periods_s["soc-cpu"] == pytest.approx(1.0, abs=0.3)
        assert periods_s["soc-gpu"] == pytest.approx(0.1, abs=0.05)
        with meter.window() as window:
            time.sleep(4.0)
    length_s = (window.marks.end_ns[0] - window.marks.start_ns[0]) / 1e9
    cpu = window.energy.components["cpu"]
    assert cpu.request_j == pytest.approx(4.0 * length_s, abs=cpu.request_ci95_j)
    assert cpu.request_ci95_j > 0.05 * cpu.request_j
    assert window.energy.components["gpu"].request_ci95_j < 0.05 * window.energy.components["gpu"].request_j


def test_one_document_that_cannot_be_read_costs_its_window_alone(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERMETRICS_SCENARIO", "garbage")
    with Meter.open(EnergyConfig("powermetrics", max_foreign_load=None), ProbeContext()) as meter:
        with meter.window() as hit:
            time.sleep(1.2)
        time.sleep(0.6)
        with meter.window() as after:
            time.sleep(1.2)
    assert hit.energy_j is None
    assert "soc-cpu: powermetrics sent a reading in or near the window that can't be understood" in (hit.reason or "")
    length_s = (after.marks.end_ns[0] - after.marks.start_ns[0]) / 1e9
    assert after.energy_j == pytest.approx(14.0 * length_s, rel=0.05)
    assert after.conditions["powermetrics"]["unreadable_documents"] == {"min": 1, "max": 1}


@pytest.mark.parametrize(
    "damage",
    [
        "<key>processor</key>.<dict>.*?</dict>=><key>processor</key><string>none</string>",
        "<key>gpu</key>.<dict>.*?</dict>=><key>gpu</key><array><integer>1</integer></array>",
        "<real>4000.0</real>=><string>much</string>",
        "<real>4000.0</real>=><real>nan</real>",
        "<real>4000.0</real>=><real>-4000.0</real>",
        "<real>4000.0</real>=><real>4e30</real>",
        "<string>Nominal</string>=><array><string>Nominal</string></array>",
        "<key>elapsed_ns</key>.<integer>=><key>elapsed_ns</key><integer>900",
    ],
)
def test_a_document_with_wrong_entries_costs_its_window_alone(
    programs: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    old, _, new = damage.partition("=>")
    monkeypatch.setenv("POWERMETRICS_DAMAGE", f"{old.replace('</key>.', '</key>' + chr(92) + 's*')}=>{new}")
    with Meter.open(EnergyConfig("powermetrics", max_foreign_load=None), ProbeContext()) as meter:
        with meter.window() as hit:
            time.sleep(1.2)
        time.sleep(0.6)
        with meter.window() as after:
            time.sleep(1.0)
    assert hit.energy_j is None
    assert "powermetrics sent a reading in or near the window that can't be understood" in (hit.reason or "")
    length_s = (after.marks.end_ns[0] - after.marks.start_ns[0]) / 1e9
    assert after.energy_j == pytest.approx(14.0 * length_s, rel=0.05)


def test_a_first_document_that_cannot_be_read_is_passed_over(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERMETRICS_SCENARIO", "garbage first")
    report, _, seconds = measure()
    assert report.total.request_j == pytest.approx(14.0 * seconds, rel=0.05)


RECORDED = ROOT.parent / "shared" / "data" / "powermetrics" / "m4-max.plist"


@pytest.mark.skipif(not RECORDED.exists(), reason="needs the recorded document")
def test_recorded_document_at_true_pace_loses_no_energy_and_is_dated_when_its_interval_ended(
    programs: Path, tmp_path: Path
) -> None:
    """A hundred documents of true size, their lengths and loads varied."""
    write(
        programs / "powermetrics", f"#!/bin/sh\nexec {sys.executable} {tmp_path}/stream.py {RECORDED} {tmp_path}/told\n"
    )
    (tmp_path / "stream.py").write_text(STREAM_OF_RECORDED)
    probe = powermetrics.create()
    probe.open(ProbeContext())
    readings = []
    with contextlib.closing(probe), contextlib.suppress(ProbeFailed):
        while True:
            readings += [reading for reading in probe.read() if reading.domain == "soc-cpu"]
            time.sleep(0.05)
    # The first documents only show what there is: what they tell of lies before the first window.
    times_ns, joules = np.loadtxt(tmp_path / "told", dtype=np.float64)[-len(readings) :].T
    assert 90 <= len(readings) < 100
    assert readings[-1].value == pytest.approx(joules.sum(), rel=0.001)
    late_ms = np.abs([reading.time_ns for reading in readings] - times_ns) / 1e6
    assert np.quantile(late_ms, 0.9) < 5


STREAM_OF_RECORDED = r"""
import random, re, sys, time
text, random = open(sys.argv[1], "rb").read(), random.Random(1)
with open(sys.argv[2], "w") as told:
    last = time.monotonic_ns()
    for number in range(100):
        time.sleep(random.uniform(0.06, 0.14))
        now = time.monotonic_ns()
        joules = random.uniform(0.5, 40.0) * (now - last) / 1e9
        milliwatts = joules * 1e12 / (now - last)
        changed = re.sub(rb"(<key>elapsed_ns</key><integer>)\d+", rb"\g<1>%d" % (now - last), text)
        changed = re.sub(rb"(<key>cpu_power</key>\s*<real>)[\d.e+]+", rb"\g<1>%.3f" % milliwatts, changed)
        last = now
        sys.stdout.buffer.write((b"\0" if number else b"") + changed)
        sys.stdout.buffer.flush()
        told.write(f"{now} {joules!r}\n")
    told.flush()
"""


def test_refusal_by_sudo_names_the_sudoers_line(programs: Path) -> None:
    write(programs / "sudo", "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    probe = powermetrics.create()
    with pytest.raises(ProbeUnavailable, match="a password is required") as caught:
        probe.open(ProbeContext())
    probe.close()
    assert f"ALL=(root) NOPASSWD: {programs / 'powermetrics'}" in (caught.value.remedy or "")


def test_thermal_pressure_spoils_a_window(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERMETRICS_SCENARIO", "hot")
    # Often enough that one look falls into the window, however late it comes.
    monkeypatch.setattr("harness.energy.sampler._CONDITIONS_EVERY_S", 0.2)
    _, conditions, _ = measure()
    assert conditions["disturbed"] == "thermal pressure was Heavy"


def test_a_megabyte_of_warnings_stops_nothing(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERMETRICS_SCENARIO", "talkative")
    report, _, seconds = measure()
    assert report.components["gpu"].request_j == pytest.approx(10.0 * seconds, rel=0.05)


def test_a_user_without_a_name_goes_by_the_number(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(programs / "sudo", "#!/bin/sh\nexit 1\n")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_111)
    probe = powermetrics.create()
    with pytest.raises(ProbeUnavailable) as caught:
        probe.open(ProbeContext())
    probe.close()
    assert "#4000111 ALL=(root)" in (caught.value.remedy or "")


def test_a_program_that_closes_its_output_and_lives_on_is_a_reason(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(programs / "sudo", "#!/bin/sh\nexec >&-\nexec sleep 20\n")
    probe = powermetrics.create()
    with pytest.raises(ProbeUnavailable, match="closed its output"):
        probe.open(ProbeContext())
    probe.close()


@pytest.mark.parametrize("gap_ns", [0, 1_000_000, -200_000])
def test_intervals_keep_time_for_hours_whatever_is_lost_between_them(gap_ns: int) -> None:
    """0.2 s intervals, 1 ms lost between each, and reports that are up to 50 ms late: 3 hours in a moment."""
    rng = np.random.default_rng(0)
    ends = IntervalEnds()
    true_ns = 10**12
    errors, found = [], []
    for _ in range(54_000):
        true_ns += 200_000_000 + gap_ns
        arrived_ns = true_ns + int(rng.integers(0, 50_000_000))
        found.append(ends.add(arrived_ns, 200_000_000))
        errors.append(found[-1] - true_ns)
        assert found[-1] <= arrived_ns
    assert np.max(np.abs(errors)) < 0.2e9
    assert np.median(np.abs(errors)) < max(0.01e9, 0.16 * abs(gap_ns) * 1000)
    assert np.all(np.diff(found) > 0)


def test_closing_ends_the_program(programs: Path) -> None:
    probe = powermetrics.Powermetrics()
    probe.open(ProbeContext())
    process = probe._process
    assert process is not None
    probe.close()
    probe.close()
    assert process.poll() is not None


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProbeUnavailable, match="exists only on macOS"):
        powermetrics.create().open(ProbeContext())


def test_bytes_without_end_are_refused_and_not_kept(programs: Path) -> None:
    write(programs / "powermetrics", "#!/bin/sh\nexec yes some text of no use that never ends\n")
    with pytest.raises(UserError, match="powermetrics wrote a document that can't be read"):
        Meter.open(EnergyConfig("powermetrics"), ProbeContext())
