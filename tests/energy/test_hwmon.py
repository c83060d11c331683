"""The hwmon probe against a tree of files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.core.errors import ProbeFailed, ProbeUnavailable, UserError
from harness.energy.attribution import choose, innermost
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes import hwmon
from harness.energy.probes.base import ProbeContext
from harness.energy.readings import Domain
from tests.energy.sysfs_tree import kept_up_to_date, write_files

UNIQUE_ID = "a1b2c3d4e5f60718"


def jitter(value: int) -> Callable[[float], int]:
    """A value that moves a little at each update."""
    return lambda now: value + int(now * 1e4) % 7


@pytest.fixture
def live() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ina3221(root: Path, number: int, labels: tuple[str, str, str], live: ExitStack) -> Path:
    folder = root / "class" / "hwmon" / f"hwmon{number}"
    names = {f"in{at}_label": label for at, label in enumerate(labels, start=1)}
    volts = {f"in{at}_input": 5000 * at for at in (1, 2, 3)}
    write_files(folder, name="ina3221", **names, **volts)
    live.enter_context(kept_up_to_date(folder, 0.01, **{f"curr{at}_input": jitter(1000 * at) for at in (1, 2, 3)}))
    return folder


def opened(root: Path, context: ProbeContext | None = None) -> hwmon.Hwmon:
    probe = hwmon.Hwmon(str(root))
    probe.open(context or ProbeContext())
    return probe


def total(domains: list[Domain]) -> list[str]:
    return innermost(domains, choose(domains))


def test_a_jetson_orin_has_gpu_cpu_and_memory_and_names_what_it_leaves_out(tmp_path: Path, live: ExitStack) -> None:
    ina3221(tmp_path, 1, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), live)
    ina3221(tmp_path, 2, ("NC", "VDDQ_VDD2_1V8AO", "NC"), live)
    probe = opened(tmp_path)
    parts = {domain.component: domain.name for domain in probe.domains()}
    assert parts == {
        "gpu": "ina3221-vdd-gpu-soc",
        "cpu": "ina3221-vdd-cpu-cv",
        "dram": "ina3221-vddq-vdd2-1v8ao",
    }
    assert set(total(list(probe.domains()))) == set(parts.values())
    assert probe.note.endswith("not known here: ina3221 VIN_SYS_5V0")
    values = {reading.domain: reading.value for reading in probe.read()}
    assert values["ina3221-vdd-gpu-soc"] == pytest.approx(5.0, rel=0.01)
    assert values["ina3221-vdd-cpu-cv"] == pytest.approx(10.0 * 2.0, rel=0.01)


def test_a_rail_of_cpu_and_gpu_together_lies_inside_the_board_and_is_added_to_nothing(
    tmp_path: Path, live: ExitStack
) -> None:
    ina3221(tmp_path, 1, ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), live)
    domains = list(opened(tmp_path).domains())
    assert {domain.name for domain in domains} == {"ina3221-vdd-in", "ina3221-vdd-cpu-gpu-cv"}
    assert total(domains) == ["ina3221-vdd-in"]


def test_the_power_of_jetsons_older_driver(tmp_path: Path, live: ExitStack) -> None:
    folder = tmp_path / "bus" / "i2c" / "drivers" / "ina3221x" / "6-0040" / "iio:device0"
    write_files(folder, name="ina3221x", rail_name_0="POM_5V_IN", rail_name_1="POM_5V_GPU", rail_name_2="POM_5V_CPU")
    milliwatts = {"in_power0_input": 9000, "in_power1_input": 4000, "in_power2_input": 2000}
    live.enter_context(kept_up_to_date(folder, 0.02, **{name: jitter(value) for name, value in milliwatts.items()}))
    probe = opened(tmp_path)
    assert {reading.domain: round(reading.value, 1) for reading in probe.read()} == {
        "ina3221x-pom-5v-in": 9.0,
        "ina3221x-pom-5v-gpu": 4.0,
        "ina3221x-pom-5v-cpu": 2.0,
    }
    assert set(total(list(probe.domains()))) == {"ina3221x-pom-5v-gpu", "ina3221x-pom-5v-cpu"}


def acpi(root: Path, live: ExitStack, number: int = 0, period_s: float = 0.05, text: str | None = None) -> Path:
    """An ACPI power meter, whose files lie one floor below the hwmon folder."""
    folder = root / "class" / "hwmon" / f"hwmon{number}" / "device"
    write_files(folder, name="power_meter", power1_average_interval=1000)
    if text:
        write_files(folder, power1_oem_info=text)
    live.enter_context(kept_up_to_date(folder, period_s, power1_average=jitter(250_000_000)))
    return folder


def test_an_acpi_power_meter_is_the_machine(tmp_path: Path, live: ExitStack) -> None:
    acpi(tmp_path, live)
    probe = opened(tmp_path)
    (domain,) = probe.domains()
    assert (domain.component, domain.kind, domain.averaging_s) == ("system", "power", 1.0)
    assert domain.period_s == pytest.approx(0.05, rel=0.4)
    assert probe.read()[0].value == pytest.approx(250.0, rel=1e-3)


def test_graces_meters_are_told_apart_by_their_texts(tmp_path: Path, live: ExitStack) -> None:
    texts = ("Module Power Socket 0", "Grace Power Socket 0", "CPU Power Socket 0", "SysIO Power Socket 0")
    for number, text in enumerate(texts):
        acpi(tmp_path, live, number, text=text)
    probe = opened(tmp_path)
    assert {domain.name: (domain.component, domain.scope) for domain in probe.domains()} == {
        "power-meter-module-power-socket-0": ("system", "module"),
        "power-meter-grace-power-socket-0": ("cpu", None),
    }
    assert total(list(probe.domains())) == ["power-meter-grace-power-socket-0"]
    assert "CPU Power Socket 0" in probe.note


def amdgpu(root: Path, live: ExitStack, number: int, unique_id: str, cap: bool = True) -> None:
    device = write_files(root / "devices" / f"0000:0{number}:00.0", unique_id=unique_id)
    folder = root / "class" / "hwmon" / f"hwmon{number}"
    write_files(folder, name="amdgpu", power1_label="PPT", power1_average=1)
    if cap:
        write_files(folder, power1_cap=300_000_000)
    (folder / "device").symlink_to(device)
    live.enter_context(kept_up_to_date(folder, 0.02, power1_input=jitter(200_000_000 + number)))


def test_an_amd_gpu_is_found_by_its_unique_id(tmp_path: Path, live: ExitStack) -> None:
    amdgpu(tmp_path, live, 3, UNIQUE_ID)
    amdgpu(tmp_path, live, 4, "00" + "f" * 14)
    as_torch_writes_it = f"GPU-{UNIQUE_ID.encode().hex()}"
    (domain,) = opened(tmp_path, ProbeContext(gpu_uuids=(as_torch_writes_it,), device="cuda")).domains()
    assert (domain.component, domain.source) == ("gpu", "gpu:0000:03:00")
    assert len(opened(tmp_path).domains()) == 2


@pytest.mark.parametrize(
    "context", [ProbeContext(device="cpu"), ProbeContext(device="cuda", gpu_uuids=("GPU-8a7b",))], ids=str
)
def test_a_gpu_that_does_not_compute_is_not_counted(tmp_path: Path, live: ExitStack, context: ProbeContext) -> None:
    amdgpu(tmp_path, live, 3, UNIQUE_ID)
    with pytest.raises(ProbeUnavailable, match="amdgpu PPT"):
        opened(tmp_path, context)


def test_graphics_inside_the_processor_are_not_taken_for_a_card(tmp_path: Path, live: ExitStack) -> None:
    amdgpu(tmp_path, live, 3, UNIQUE_ID, cap=False)
    with pytest.raises(ProbeUnavailable):
        opened(tmp_path)


def test_energy_counters_of_sockets_are_counters(tmp_path: Path, live: ExitStack) -> None:
    folder = write_files(
        tmp_path / "class" / "hwmon" / "hwmon5", name="amd_energy", energy1_label="Ecore000", energy2_label="Esocket0"
    )
    microjoules = {"energy1_input": 1, "energy2_input": 80_000_000}
    live.enter_context(
        kept_up_to_date(folder, 0.01, **{k: lambda now, w=w: int(now * w) for k, w in microjoules.items()})
    )
    with Meter.open(EnergyConfig(f"hwmon:{tmp_path}", max_foreign_load=None), ProbeContext()) as meter:
        time.sleep(0.3)
        with meter.window() as window:
            time.sleep(1.0)
    assert window.energy_j == pytest.approx(80.0, rel=0.1)
    assert abs(window.energy_j - 80.0) <= window.ci95_j + 0.1
    assert window.energy.total.method == "counter"


def test_a_slow_meter_of_the_machine_gives_way_to_quick_parts_unless_it_is_named(
    tmp_path: Path, live: ExitStack
) -> None:
    ina3221(tmp_path, 1, ("VDD_GPU_SOC", "VDD_CPU_CV", "NC"), live)
    slow = acpi(tmp_path, live, 2, period_s=0.7)
    probe = opened(tmp_path)
    assert {domain.component for domain in probe.domains()} == {"gpu", "cpu"}
    assert "power-meter-power1 (every 0.7" in probe.note
    assert [domain.name for domain in opened(slow).domains()] == ["power-meter-power1"]


def test_nothing_to_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="no power or energy inputs") as caught:
        opened(tmp_path)
    assert "hwmon:/host/sys" in (caught.value.remedy or "")
    write_files(tmp_path / "class" / "hwmon" / "hwmon0", name="corsairpsu", power1_input=1, power1_label="power +5v")
    with pytest.raises(ProbeUnavailable, match="corsairpsu power \\+5v") as caught:
        opened(tmp_path)
    assert "command:" in (caught.value.remedy or "")


def test_an_input_that_vanishes_ends_its_own_domain_only(tmp_path: Path, live: ExitStack) -> None:
    ina3221(tmp_path, 1, ("VDD_GPU_SOC", "VDD_CPU_CV", "NC"), live)
    probe = opened(tmp_path)
    (tmp_path / "class" / "hwmon" / "hwmon1" / "in1_input").unlink()
    with pytest.raises(ProbeFailed) as caught:
        probe.read()
    assert caught.value.domains == ("ina3221-vdd-gpu-soc",)
    assert [reading.domain for reading in probe.read()] == ["ina3221-vdd-cpu-cv"]


def test_a_folder_that_cannot_be_is_refused_in_words() -> None:
    with pytest.raises(UserError, match="does not work here"):
        Meter.open(EnergyConfig(f"hwmon:{'a' * 5000}"), ProbeContext())


def test_watts_that_cannot_be_are_said_to_be_wrong(tmp_path: Path) -> None:
    device = tmp_path / "class" / "hwmon" / "hwmon0"
    watts = {"power1_input": lambda now: (100 + int(now * 20) % 7) * 10**24}
    write_files(device, name="power_meter")
    with (
        kept_up_to_date(device, 0.05, **watts),
        Meter.open(EnergyConfig(f"hwmon:{tmp_path}", max_foreign_load=None), ProbeContext()) as meter,
        meter.window() as window,
    ):
        time.sleep(1.0)
    assert window.energy_j is None
    assert "hwmon delivers wrong numbers" in (window.reason or "")


def test_garbage_is_no_matter_for_an_administrator(tmp_path: Path) -> None:
    write_files(tmp_path / "class" / "hwmon" / "hwmon0", name="power_meter", power1_input="abc")
    with pytest.raises(UserError, match="can't be read: power_meter power1") as caught:
        Meter.open(EnergyConfig(f"hwmon:{tmp_path}"), ProbeContext())
    assert "administrator" not in str(caught.value)
