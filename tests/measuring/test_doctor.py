"""``joulebench doctor`` on this machine and on invented ones."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from harness.cli.doctor import doctor
from harness.core.errors import ProbeUnavailable
from harness.core.quantities import Component
from harness.energy import probes
from harness.energy.probes.base import ProbeContext
from harness.energy.probes.estimate import CpuTimeEstimate
from harness.energy.probes.fake import Fake
from harness.energy.readings import Domain
from harness.measuring import doctor as checks
from tests.helpers import environment


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command; only its first seconds of load and of idling."""
    monkeypatch.setattr(checks, "LOAD_S", 3.6)
    monkeypatch.setattr(checks, "_IDLE_S", 0.5)
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path))
    app = typer.Typer()
    app.command()(doctor)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    return run


def machine(monkeypatch: pytest.MonkeyPatch, **sources: Any) -> None:
    """Pretend that these are the power sources."""
    monkeypatch.setattr(probes, "names", lambda: sorted(sources))
    monkeypatch.setattr(probes, "create", lambda name: sources[name])


class Locked(Fake):
    role = "meter"

    def open(self, context: ProbeContext) -> None:
        raise ProbeUnavailable("the drawer is locked", "turn the key")


class Blind(Fake):
    """Draws 42 W whatever happens."""

    role = "meter"

    def __init__(self, component: Component, period_s: float | None = None) -> None:
        super().__init__("idle_w=42:busy_w=42")
        self.component, self.period_s = component, period_s

    def domains(self) -> list[Domain]:
        its = {"component": self.component} | ({"period_s": self.period_s} if self.period_s else {})
        return [replace(domain, **its) for domain in super().domains()]


def test_this_machine_is_described_in_json(command: Any) -> None:
    report = json.loads(command("--json"))
    assert {backend["name"] for backend in report["backends"]} >= {"fake", "transformers"}
    assert {probe["name"] for probe in report["probes"]} == set(probes.names()) - {"fake", "replay"}
    for probe in report["probes"]:
        assert probe["works"] or probe["reason"]
        for domain in probe["domains"]:
            assert domain["idle_power_w"] is not None or domain["idle_reason"]
    assert report["load"] is None


def test_a_machine_without_any_meter_is_told_in_plain_words(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, estimate=CpuTimeEstimate(), rapl=Locked(None))
    text = command()
    assert "No power meter works here" in text
    assert "every number is marked estimated" in text
    assert "not usable: the drawer is locked" in text
    assert "to do: turn the key" in text
    assert "password" not in text


def test_a_working_meter_shows_period_resolution_and_idle_power(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Fake("idle_w=42:busy_w=42")
    meter.role = "meter"
    machine(monkeypatch, fake=meter)
    text = command()
    assert "fake (counter): new value every 20 ms, steps of 0.0010 J, idle 4" in text
    assert "Energy would be read from gpu: fake." in text


def test_a_slow_meter_of_the_whole_machine_is_listed_and_not_waited_for(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, fake=Blind("cpu"), wall=Blind("system", period_s=1.5))
    report = json.loads(command("--json"))
    assert report["components"] == {"cpu": ["fake"]}
    (wall,) = (probe for probe in report["probes"] if probe["name"] == "wall")
    assert wall["works"]
    assert "not read unless named: it shows the whole machine's power every 1.5 s only" in wall["note"]


def test_a_load_is_seen_by_what_follows_it_and_not_by_what_does_not(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, estimate=CpuTimeEstimate(), fake=Blind("cpu"))
    report = json.loads(command("--json", "--load"))
    load = report["load"]
    assert load["device"].startswith("cpu")
    assert load["domains"]["fake"]["busy_w"] == pytest.approx(42, rel=0.1)
    assert abs(load["domains"]["fake"]["rise_w"]) < 10
    assert load["domains"]["fake"]["loaded"]
    assert not load["domains"]["fake"]["seen"]
    assert load["domains"]["cpu-time"]["seen"]
    assert load["domains"]["cpu-time"]["rise_w"] > 0
    assert load["domains"]["cpu-time"]["fall_w"] > 0


def test_what_the_load_does_not_reach_is_not_called_blind(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU without torch gets no load."""
    machine(monkeypatch, fake=Blind("gpu"))
    text = command("--load")
    assert "fake was not loaded: idle 4" in text
    assert "does not see" not in text


def test_a_driver_that_fails_in_its_own_way_is_a_line_not_a_crash(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(Locked):
        def open(self, context: ProbeContext) -> None:
            raise KeyError("gid 4711")

    machine(monkeypatch, estimate=CpuTimeEstimate(), rapl=Odd(None))
    assert "not usable: KeyError: 'gid 4711'" in command()


def test_a_backend_that_breaks_is_a_line_not_a_crash(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import backends

    def broken(name: str) -> Any:
        raise OSError("libcudart.so.12: cannot open shared object file\nand much more")

    monkeypatch.setattr(backends, "create", broken)
    machine(monkeypatch, estimate=CpuTimeEstimate())
    report = json.loads(command("--json"))
    assert {backend["reason"] for backend in report["backends"]} == {"libcudart.so.12: cannot open shared object file"}


def test_the_load_ends_with_who_asked_for_it() -> None:
    """A doctor that is killed leaves no machine under load."""
    import psutil

    starter = (
        "import subprocess, sys, time\n"
        "load = [sys.executable, '-m', 'harness.measuring.square_wave', 'cpu']\n"
        "child = subprocess.Popen(load, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "child.stdin.write(b'[' + b'0.5, ' * 120 + b'0.5]\\n')\n"
        "child.stdin.flush()\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    doctor = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True, env=environment())
    assert doctor.stdout
    load = psutil.Process(int(doctor.stdout.readline()))
    doctor.kill()
    doctor.communicate()
    deadline = time.monotonic() + 20
    while runs(load) and time.monotonic() < deadline:
        time.sleep(0.1)
    ended = not runs(load)
    if not ended:
        load.kill()
    assert ended


def runs(process: Any) -> bool:
    """Whether it does anything: nobody may be there to reap an orphan."""
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
