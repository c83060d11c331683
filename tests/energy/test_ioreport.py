"""The ioreport probe against a module that has the interface of zeus-apple-silicon."""

from __future__ import annotations

import platform
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from harness.core.errors import ProbeFailed, ProbeUnavailable
from harness.energy.probes import ioreport
from harness.energy.probes.base import ProbeContext


class Monitor:
    """CPU 4 W, GPU 10 W, counted in whole millijoules; this chip lists no DRAM."""

    broken = False

    def get_cumulative_energy(self) -> Any:
        if self.broken:
            raise RuntimeError("IOReport subscription was lost")
        milliseconds = time.monotonic() * 1000
        return SimpleNamespace(
            cpu_total_mj=int(4 * milliseconds),
            efficiency_cores_mj=None,
            gpu_mj=int(10 * milliseconds),
            gpu_sram_mj=0,
            ane_mj=0,
            dram_mj=None,
        )


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> type[Monitor]:
    monkeypatch.setattr(ioreport, "_POLL_S", 0.5)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    module = ModuleType("zeus_apple_silicon")
    kind = type("AppleEnergyMonitor", (Monitor,), {})
    module.AppleEnergyMonitor = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    return kind


def test_rails_that_the_chip_lists(monitor: type[Monitor]) -> None:
    probe = ioreport.create()
    probe.open(ProbeContext())
    domains = {domain.component: domain for domain in probe.domains()}
    assert domains.keys() == {"cpu", "gpu", "ane"}
    assert {domain.method for domain in domains.values()} == {"modelled"}
    assert domains["ane"].period_s == max(domains["cpu"].period_s, domains["gpu"].period_s) < 0.1
    first = {reading.domain: reading for reading in probe.read()}
    time.sleep(1.0)
    second = {reading.domain: reading for reading in probe.read()}
    for component, watts in (("cpu", 4.0), ("gpu", 10.0)):
        name = domains[component].name
        seconds = (second[name].time_ns - first[name].time_ns) / 1e9
        assert second[name].value - first[name].value == pytest.approx(watts * seconds, rel=0.05)


def test_a_lost_subscription_is_a_failure(monitor: type[Monitor]) -> None:
    probe = ioreport.create()
    probe.open(ProbeContext())
    monitor.broken = True
    with pytest.raises(ProbeFailed, match="subscription was lost"):
        probe.read()


def test_a_missing_package_names_the_command(monitor: type[Monitor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    with pytest.raises(ProbeUnavailable) as caught:
        ioreport.create().open(ProbeContext())
    assert caught.value.remedy == "pip install 'zeus-apple-silicon>=1.0.4'"


def test_an_unknown_chip_is_refused(monitor: type[Monitor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "get_cumulative_energy", lambda self: SimpleNamespace())
    with pytest.raises(ProbeUnavailable, match="no energy channel"):
        ioreport.create().open(ProbeContext())


@pytest.mark.skipif(sys.platform == "darwin", reason="says what other systems are told")
def test_other_systems_are_refused() -> None:
    with pytest.raises(ProbeUnavailable, match="Apple Silicon only"):
        ioreport.create().open(ProbeContext())
