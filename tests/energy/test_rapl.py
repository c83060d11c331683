"""The rapl probe against a powercap tree made of files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from harness.core.errors import ProbeFailed, ProbeUnavailable
from harness.energy.attribution import EnergyReport, choose
from harness.energy.config import EnergyConfig
from harness.energy.integrate import window_energy
from harness.energy.meter import Meter
from harness.energy.probes import rapl
from harness.energy.probes.base import ProbeContext
from harness.energy.readings import Trace, Window

WRAP_UJ = 65_532_610_987


class Tree:
    """A sysfs with the zones a test asks for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "class" / "powercap" / "intel-rapl").mkdir(parents=True)

    def zone(self, folder: str, name: str, energy_uj: int = 1_000_000, wrap_uj: int = WRAP_UJ) -> Path:
        zone = self.root / "class" / "powercap" / folder
        zone.mkdir()
        (zone / "name").write_text(name + "\n")
        (zone / "energy_uj").write_text(f"{energy_uj}\n")
        (zone / "max_energy_range_uj").write_text(f"{wrap_uj}\n")
        return zone / "energy_uj"

    def probe(self) -> rapl.Rapl:
        probe = rapl.Rapl(str(self.root))
        probe.open(ProbeContext())
        return probe


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "sys")


def test_two_packages_with_dram_psys_and_the_mmio_twin(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0", 5_000_000)
    tree.zone("intel-rapl:0:0", "core")
    tree.zone("intel-rapl:0:1", "dram", 700_000)
    tree.zone("intel-rapl:1", "package-1")
    tree.zone("intel-rapl:2", "psys")
    tree.zone("intel-rapl-mmio:0", "package-0")
    probe = tree.probe()
    domains = {domain.name: domain for domain in probe.domains()}
    assert set(domains) == {"cpu-package-0", "cpu-package-1", "dram-0", "psys"}
    parts = [domains[name] for name in ("cpu-package-0", "cpu-package-1", "dram-0")]
    assert all(domains["psys"].contains(part) for part in parts)
    assert domains["cpu-package-0"].wrap_j == pytest.approx(WRAP_UJ * 1e-6)
    values = {reading.domain: reading.value for reading in probe.read()}
    assert values["cpu-package-0"] == pytest.approx(5.0)
    assert values["dram-0"] == pytest.approx(0.7)


def test_two_sockets_with_two_platform_zones_count_both(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0")
    tree.zone("intel-rapl:1", "psys")
    tree.zone("intel-rapl:2", "package-1")
    tree.zone("intel-rapl:3", "psys-1")
    domains = tree.probe().domains()
    assert {domain.name: domain.component for domain in domains} == {
        "cpu-package-0": "cpu", "cpu-package-1": "cpu", "psys": "system", "psys-1": "system"
    }  # fmt: skip
    assert set(choose(domains)["system"]) == {"psys", "psys-1"}
    assert set(choose(domains)["cpu"]) == {"cpu-package-0", "cpu-package-1"}


def test_packages_of_several_dies_and_their_dram_are_added_up(tree: Tree) -> None:
    for number in (0, 1):
        tree.zone(f"intel-rapl:{number}", f"package-0-die-{number}")
        tree.zone(f"intel-rapl:{number}:0", "dram")
    domains = tree.probe().domains()
    assert set(choose(domains)["cpu"]) == {"cpu-package-0-die-0", "cpu-package-0-die-1"}
    assert set(choose(domains)["dram"]) == {"dram-0-die-0", "dram-0-die-1"}


def test_mmio_zone_counts_where_the_package_has_no_other(tree: Tree) -> None:
    tree.zone("intel-rapl-mmio:0", "package-0", 7_000_000)
    probe = tree.probe()
    assert [domain.name for domain in probe.domains()] == ["cpu-package-0"]
    assert probe.read()[0].value == pytest.approx(7.0)


def test_amd_has_a_package_and_no_dram(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0")
    tree.zone("intel-rapl:0:0", "core")
    assert [domain.name for domain in tree.probe().domains()] == ["cpu-package-0"]


def test_no_tree_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="no RAPL zones") as caught:
        rapl.Rapl(str(tmp_path / "nothing")).open(ProbeContext())
    assert "rapl:/host/sys" in (caught.value.remedy or "")


def test_root_only_files_name_the_udev_rule(tree: Tree) -> None:
    file = tree.zone("intel-rapl:0", "package-0")
    file.chmod(0)
    with patch("os.access", return_value=False), pytest.raises(ProbeUnavailable) as caught:
        tree.probe()
    remedy = caught.value.remedy or ""
    assert 'SUBSYSTEM=="powercap"' in remedy
    assert "/etc/udev/rules.d/70-rapl.rules" in remedy
    assert "sudo" not in remedy


def test_a_group_without_a_name_is_told_by_its_number(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0")
    with (
        patch("os.access", return_value=False),
        patch("os.getgid", return_value=4_000_111),
        pytest.raises(ProbeUnavailable) as caught,
    ):
        tree.probe()
    assert "/bin/chgrp 4000111 " in (caught.value.remedy or "")


def test_a_counter_that_never_counted_is_left_out_with_a_note(tree: Tree) -> None:
    """Or else every total would be null."""
    tree.zone("intel-rapl:0", "package-0")
    tree.zone("intel-rapl:0:0", "dram", 0)
    probe = tree.probe()
    assert [domain.name for domain in probe.domains()] == ["cpu-package-0"]
    assert "dram-0 left out" in probe.note


def test_counters_that_all_stand_at_zero_are_refused(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0", 0)
    with pytest.raises(ProbeUnavailable, match="package-0 count nothing"):
        tree.probe()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_is_asked_of_the_kernel(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0").chmod(0)
    with pytest.raises(ProbeUnavailable, match="root only"):
        tree.probe()


def test_a_wrap_between_two_reads_is_undone(tree: Tree) -> None:
    file = tree.zone("intel-rapl:0", "package-0", WRAP_UJ - 3_000_000)
    probe = tree.probe()
    readings = [probe.read()[0]]
    for energy_uj in (WRAP_UJ - 1_000_000, 1_000_000, 3_000_000, 5_000_000):
        file.write_text(str(energy_uj))
        readings.append(probe.read()[0])
    times = np.arange(5) * 50_000_000
    trace = Trace(probe.domains()[0], times, np.array([reading.value for reading in readings]))
    energy = window_energy(trace, 50_000_000, 150_000_000)
    assert energy.joules == pytest.approx(4.0, abs=0.2)


def test_a_file_that_vanishes_ends_its_own_domain_only(tree: Tree) -> None:
    package, dram = tree.zone("intel-rapl:0", "package-0"), tree.zone("intel-rapl:0:0", "dram")
    probe = tree.probe()
    dram.unlink()
    with pytest.raises(ProbeFailed) as caught:
        probe.read()
    assert caught.value.domains == ("dram-0",)
    package.write_text("2000000")
    assert [(reading.domain, reading.value) for reading in probe.read()] == [("cpu-package-0", 2.0)]


def test_totals_leave_out_psys_and_turn_null_when_dram_dies(tree: Tree) -> None:
    files = [
        tree.zone("intel-rapl:0", "package-0"),
        tree.zone("intel-rapl:0:0", "dram"),
        tree.zone("intel-rapl:1", "psys"),
    ]
    started = time.monotonic()

    def advance() -> None:
        joules = (time.monotonic() - started) * np.array([100.0, 20.0, 150.0])
        for file, value in zip(files, joules, strict=True):
            if file.exists():
                fresh = file.with_name("fresh")
                fresh.write_text(str(int(value * 1e6)))
                fresh.replace(file)

    with Meter.open(EnergyConfig(f"rapl:{tree.root}", max_foreign_load=None), ProbeContext()) as meter:

        def work(seconds: float) -> Window:
            start = time.monotonic_ns()
            while time.monotonic_ns() < start + seconds * 1e9:
                advance()
                time.sleep(0.005)
            return Window(*(np.array([at]) for at in (start, time.monotonic_ns(), time.monotonic_ns())))

        def measured() -> EnergyReport:
            with meter.window() as window:
                window.mark(work(1.0))
                work(0.4)
            return window.energy

        work(0.4)
        report = measured()
        assert report.components.keys() == {"cpu", "dram", "system"}
        both = report.components["cpu"].request_j + report.components["dram"].request_j
        assert report.total.request_j == pytest.approx(both)
        assert report.components["system"].request_j > both
        files[1].unlink()
        report = measured()
        assert report.components["cpu"].request_j > 0
        assert report.total.request_j is None
        assert "dram-0" in report.total.reason


def test_thermal_throttling_spoils_a_window(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0")
    cpu = tree.root / "devices" / "system" / "cpu" / "cpu0"
    (cpu / "thermal_throttle").mkdir(parents=True)
    (cpu / "topology").mkdir()
    (cpu / "topology" / "physical_package_id").write_text("0\n")
    count = cpu / "thermal_throttle" / "package_throttle_count"
    count.write_text("7\n")
    probe = tree.probe()
    assert probe.conditions()["disturbed"] is None
    count.write_text("9\n")
    assert probe.conditions()["disturbed"] == "the CPU was thermally throttled"
    assert probe.conditions()["disturbed"] is None


@pytest.mark.parametrize("range_uj", ["0", "-7", "abc"])
def test_a_range_that_is_none_is_passed_over(tree: Tree, range_uj: str) -> None:
    tree.zone("intel-rapl:0", "package-0")
    (tree.root / "class" / "powercap" / "intel-rapl:0" / "max_energy_range_uj").write_text(range_uj)
    assert tree.probe().domains()[0].wrap_j is None
