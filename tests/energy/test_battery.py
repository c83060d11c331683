"""The battery probe against a tree of files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from harness.core.errors import ProbeUnavailable
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes import battery
from harness.energy.probes.base import ProbeContext
from tests.energy.sysfs_tree import kept_up_to_date, write_files

MICROWATTS = 15_000_000


def ripple(value: int) -> Callable[[float], int]:
    return lambda now: value + (1 if int(now / 0.2) % 2 else -1) * value // 100


def laptop(root: Path, status: str = "Discharging", online: int = 0) -> Path:
    supplies = root / "class" / "power_supply"
    write_files(supplies / "AC", type="Mains", online=online)
    write_files(supplies / "hidpp_battery_0", type="Battery", scope="Device", status="Discharging", power_now=1)
    return write_files(supplies / "BAT0", type="Battery", status=status, capacity=80)


def test_power_of_the_whole_machine_while_it_discharges(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    with (
        kept_up_to_date(folder, 0.2, power_now=ripple(MICROWATTS)),
        Meter.open(EnergyConfig(f"battery:{tmp_path}", max_foreign_load=None), ProbeContext()) as meter,
    ):
        with meter.window() as window:
            time.sleep(2.0)
        (domain,) = meter.describe().domains.values()
    assert (domain.component, domain.kind) == ("system", "power")
    assert domain.period_s == pytest.approx(0.2, rel=0.3)
    assert window.energy_j == pytest.approx(30.0, rel=0.05)
    assert abs(window.energy_j - 30.0) <= window.ci95_j
    assert window.conditions["battery:" + str(tmp_path)]["charge_percent"] == {"min": 80, "max": 80}


def test_current_times_voltage_where_the_battery_tells_no_power_and_whatever_the_sign(tmp_path: Path) -> None:
    folder = write_files(laptop(tmp_path), voltage_now=12_000_000)
    second = write_files(folder.with_name("BAT1"), type="Battery", status="Not charging", power_now=7_000_000)
    with kept_up_to_date(folder, 0.1, current_now=ripple(-1_000_000)):
        probe = battery.Battery(str(tmp_path))
        probe.open(ProbeContext())
        assert probe.read()[0].value == pytest.approx(12.0, rel=0.02)
    assert second.exists()


@pytest.mark.parametrize(
    ("status", "online", "reason"),
    [
        ("Charging", 1, r"the charger is plugged in \(AC\)"),
        ("Discharging", 1, r"the charger is plugged in \(AC\)"),
        ("Full", 0, "BAT0 is full"),
    ],
)
def test_a_battery_that_does_not_power_the_machine_is_refused(
    tmp_path: Path, status: str, online: int, reason: str
) -> None:
    write_files(laptop(tmp_path, status, online), power_now=MICROWATTS)
    with pytest.raises(ProbeUnavailable, match=reason):
        battery.Battery(str(tmp_path)).open(ProbeContext())


def test_a_machine_without_a_battery_says_so(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="no battery that powers the machine"):
        battery.Battery(str(tmp_path)).open(ProbeContext())


def test_a_reading_that_stands_still_is_refused(tmp_path: Path) -> None:
    write_files(laptop(tmp_path), power_now=MICROWATTS)
    with patch.object(battery, "_WATCH_S", (0.1, 0.2)), pytest.raises(ProbeUnavailable, match="changed less than"):
        battery.Battery(str(tmp_path)).open(ProbeContext())


def test_a_charger_plugged_in_within_a_window_makes_its_energy_null_with_the_reason(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    with (
        kept_up_to_date(folder, 0.2, power_now=ripple(MICROWATTS)),
        Meter.open(EnergyConfig(f"battery:{tmp_path}", max_foreign_load=None), ProbeContext()) as meter,
        meter.window() as window,
    ):
        time.sleep(1.0)
        write_files(folder.with_name("AC"), online=1)
        time.sleep(0.5)
    assert window.energy_j is None
    assert "the charger is plugged in (AC)" in window.reason


@pytest.mark.parametrize(("kind", "online"), [("USB", 2), ("Wireless", 1), ("BrickID", 1)])
def test_every_kind_of_charger_counts(tmp_path: Path, kind: str, online: int) -> None:
    laptop(tmp_path)
    write_files(tmp_path / "class" / "power_supply" / "charger", type=kind, online=online)
    with pytest.raises(ProbeUnavailable, match=r"the charger is plugged in \(charger\)"):
        battery.Battery(str(tmp_path)).open(ProbeContext())


def test_a_battery_that_delivers_nothing_makes_the_energy_null_with_the_reason(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    with (
        kept_up_to_date(folder, 0.2, power_now=lambda now: MICROWATTS if int(now / 0.2) % 2 else 0),
        Meter.open(EnergyConfig(f"battery:{tmp_path}", max_foreign_load=None), ProbeContext()) as meter,
        meter.window() as window,
    ):
        time.sleep(1.5)
    assert window.energy_j is None
    assert "discharges and delivers 0 W" in (window.reason or "")
