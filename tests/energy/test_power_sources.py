"""Which power sources ``auto`` takes: real probes of files, with the others out of the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.energy import probes
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter, MeterDescription
from harness.energy.probes.base import ProbeContext
from tests.energy.sysfs_tree import kept_up_to_date, write_files

CREATE = probes.create


@pytest.fixture
def live() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def auto(monkeypatch: pytest.MonkeyPatch, **sources: str) -> MeterDescription:
    """What ``auto`` opens for a CPU where only these sources exist, each with its option."""
    monkeypatch.setattr(probes, "names", lambda: sorted(sources))
    monkeypatch.setattr(probes, "create", lambda name: CREATE(f"{name}:{sources[name]}" if sources[name] else name))
    with Meter.open(EnergyConfig(max_foreign_load=None), ProbeContext(device="cpu")) as meter:
        return meter.describe()


def moving(value: int) -> Callable[[float], int]:
    return lambda now: value + int(now * 1e4) % 100


def acpi(root: Path, live: ExitStack, period_s: float) -> str:
    folder = write_files(root / "class" / "hwmon" / "hwmon0" / "device", name="power_meter")
    live.enter_context(kept_up_to_date(folder, period_s, power1_average=moving(90_000_000)))
    return str(root)


def rapl(root: Path, live: ExitStack) -> str:
    folder = write_files(root / "class" / "powercap" / "intel-rapl:0", name="package-0", max_energy_range_uj=10**12)
    live.enter_context(kept_up_to_date(folder, 0.005, energy_uj=lambda now: int(now * 50e6)))
    return str(root)


def laptop(root: Path, live: ExitStack, period_s: float) -> str:
    folder = write_files(root / "class" / "power_supply" / "BAT0", type="Battery", status="Discharging")
    live.enter_context(kept_up_to_date(folder, period_s, power_now=moving(15_000_000)))
    return str(root)


def test_a_slow_meter_of_the_machine_neither_replaces_better_ones_nor_lengthens_windows(
    tmp_path: Path, live: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {"hwmon": acpi(tmp_path / "a", live, 0.7), "rapl": rapl(tmp_path / "b", live), "estimate": ""}
    found = auto(monkeypatch, **sources)
    assert found.components == {"cpu": ["cpu-package-0"]}
    assert found.needed_window_s < 1.0
    (left,) = found.left_out
    assert "the whole machine's power every 0.7" in left.reason
    assert left.remedy == "name it to use it: --probes hwmon"


def test_a_quick_meter_of_the_machine_stands_beside_the_parts_and_leaves_windows_short(
    tmp_path: Path, live: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = auto(monkeypatch, hwmon=acpi(tmp_path / "a", live, 0.1), rapl=rapl(tmp_path / "b", live))
    assert found.components == {"system": ["power-meter-power1"], "cpu": ["cpu-package-0"]}
    assert found.needed_window_s < 1.0


def test_where_nothing_else_sees_the_cpu_a_meter_of_the_machine_goes_before_an_estimate(
    tmp_path: Path, live: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = auto(monkeypatch, hwmon=acpi(tmp_path / "a", live, 0.7), estimate="")
    assert found.components == {"system": ["power-meter-power1"]}
    found = auto(monkeypatch, battery=laptop(tmp_path / "c", live, 0.3), estimate="")
    assert found.components == {"system": ["battery"]}


def test_a_battery_isnt_even_tried_where_a_meter_sees_the_cpu(
    tmp_path: Path, live: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = auto(monkeypatch, battery=laptop(tmp_path / "c", live, 0.3), rapl=rapl(tmp_path / "b", live))
    assert found.components == {"cpu": ["cpu-package-0"]}
    assert not found.left_out


def test_a_meter_that_is_too_slow_for_any_window_is_for_who_names_it(
    tmp_path: Path, live: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = auto(monkeypatch, battery=laptop(tmp_path / "c", live, 2.5), estimate="")
    assert found.components == {"cpu": ["cpu-time"]}
    assert "every 2.5 s" in found.left_out[0].reason
