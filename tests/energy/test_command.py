"""The command probe, with programs of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from harness.core.errors import ProbeFailed, ProbeUnavailable, UserError
from harness.energy import probes
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes.base import Probe, ProbeContext

WATTS = 120.0


def described(folder: Path, program: str, name: str = "plug", **keys: object) -> str:
    """The name of a probe that runs a Python program."""
    script = folder / f"{name}.py"
    script.write_text(textwrap.dedent(program))
    keys = {"argv": [sys.executable, "-u", str(script)], "kind": "power", "unit": "W", **keys}
    path = folder / f"{name}.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return f"command:{path}"


def opened(name: str) -> Probe:
    probe = probes.create(name)
    probe.open(ProbeContext())
    return probe


STREAM = """
    import time
    print("# joules since the start, by the second column")
    start = time.monotonic()
    while True:
        print(f"{time.time():.3f}, {(time.monotonic() - start) * 120:.2f}")
        time.sleep(0.05)
"""
POLL = """
    import time
    print("Sampling period: 1 s")
    print(f"Instantaneous power reading:  {119 + int(time.monotonic() / 0.2) % 3} Watts")
"""


def test_a_stream_of_joules_is_a_counter_of_the_machine(tmp_path: Path) -> None:
    name = described(tmp_path, STREAM, kind="energy", unit="J", mode="stream", pattern=r", (\d+\.\d+)$")
    with Meter.open(EnergyConfig(name, max_foreign_load=None), ProbeContext()) as meter:
        with meter.window() as window:
            time.sleep(2.0)
        (domain,) = meter.describe().domains.values()
    assert (domain.name, domain.component, domain.kind, domain.resolution) == ("plug", "system", "counter", 0.01)
    assert domain.period_s == pytest.approx(0.05, rel=0.4)
    seconds = (window.marks.end_ns[0] - window.marks.start_ns[0]) / 1e9
    assert abs(window.energy_j - WATTS * seconds) <= window.ci95_j
    assert window.ci95_j < 0.1 * window.energy_j


def test_a_program_that_is_polled_is_integrated_and_never_holds_a_read_up(tmp_path: Path) -> None:
    name = described(tmp_path, POLL, poll_s=0.1, pattern=r"power reading:\s+(\d+) Watts")
    with Meter.open(EnergyConfig(name, max_foreign_load=None), ProbeContext()) as meter:
        with meter.window() as window:
            time.sleep(3.0)
        (domain,) = meter.describe().domains.values()
    assert domain.period_s is not None
    assert domain.period_s >= 0.1
    assert window.energy.total.method == "integrated"
    seconds = (window.marks.end_ns[0] - window.marks.start_ns[0]) / 1e9
    assert abs(window.energy_j - WATTS * seconds) <= window.ci95_j + 0.01 * window.energy_j


def test_a_slow_program_does_not_block(tmp_path: Path) -> None:
    probe = opened(described(tmp_path, "import time; time.sleep(0.8); print(5)", poll_s=0.0, period_s=1.0))
    probe.read()
    started = time.monotonic()
    for _ in range(20):
        probe.read()
    assert time.monotonic() - started < 0.2
    probe.close()


def test_units_are_turned_into_joules_and_watts(tmp_path: Path) -> None:
    kilowatts = opened(described(tmp_path, "print('0.25 kW')", "a", unit="kW", poll_s=0.0, period_s=1.0))
    hours = opened(described(tmp_path, "print(2)", "b", kind="energy", unit="Wh", poll_s=0.0, period_s=1.0))
    time.sleep(0.5)
    assert kilowatts.read()[0].value == 250.0
    assert kilowatts.domains()[0].resolution == pytest.approx(10.0)
    assert hours.read()[0].value == 7200.0
    kilowatts.close()
    hours.close()


@pytest.mark.parametrize(("scope", "component"), [("module", "system"), ("package", "cpu"), ("gpu", "gpu")])
def test_what_it_measures_is_said_in_the_file(tmp_path: Path, scope: str, component: str) -> None:
    probe = opened(described(tmp_path, "print(5)", scope=scope, period_s=1.0))
    assert probe.domains()[0].component == component
    probe.close()


def test_a_program_that_dies_ends_with_its_last_words(tmp_path: Path) -> None:
    program = """
        import sys, time
        for _ in range(6):
            print(100)
            time.sleep(0.1)
        print("the plug was unplugged", file=sys.stderr)
        sys.exit(3)
    """
    probe = opened(described(tmp_path, program, mode="stream", period_s=0.1))
    with pytest.raises(ProbeFailed, match="exit status 3: the plug was unplugged"):
        until_it_fails(probe)
    probe.close()


def until_it_fails(probe: Probe, values: list[float] | None = None) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        (values if values is not None else []).extend(reading.value for reading in probe.read())
        time.sleep(0.02)


def test_a_run_that_fails_loses_one_reading_and_three_in_a_row_the_program(tmp_path: Path) -> None:
    program = """
        import pathlib, sys
        count = pathlib.Path(sys.argv[0]).with_suffix(".count")
        runs = int(count.read_text()) + 1 if count.exists() else 1
        count.write_text(str(runs))
        if runs == 3 or runs > 4:
            sys.exit("the BMC is busy")
        print(7)
    """
    probe = opened(described(tmp_path, program, poll_s=0.2, period_s=0.3))
    values: list[float] = []
    with pytest.raises(ProbeFailed, match="exit status 1: the BMC is busy"):
        until_it_fails(probe, values)
    assert sum(value == 7.0 for value in values) in (1, 2, 3)
    assert sum(value != value for value in values) == 4
    probe.close()


def test_a_program_that_hangs_is_killed_after_its_time(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match=r"printed no number in 0\.5 s|did not end within 0\.5 s"):
        opened(described(tmp_path, "import time; time.sleep(60)", timeout_s=0.5, poll_s=0.0))


def test_what_prints_no_number_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="printed no number: 'Power 5 of 7 W'") as caught:
        opened(described(tmp_path, "print('Power 5 of 7 W')", poll_s=0.0))
    assert "pattern" in (caught.value.remedy or "")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="no-such-program can't be started: No such file"):
        opened(described(tmp_path, "", argv=["no-such-program"]))


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    program = "import sys; print(int(sys.argv[1:] == ['; touch x', '$HOME']))"
    argv = [sys.executable, str(tmp_path / "plug.py"), "; touch x", "$HOME"]
    probe = opened(described(tmp_path, program, argv=argv, poll_s=0.0, period_s=1.0))
    time.sleep(0.5)
    assert probe.read()[0].value == 1.0
    probe.close()


def test_children_of_the_program_end_with_the_probe(tmp_path: Path) -> None:
    program = """
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path(sys.argv[0]).with_suffix(".pid").write_text(str(child.pid))
        while True:
            print(5)
            time.sleep(0.1)
    """
    probe = opened(described(tmp_path, program, mode="stream", period_s=0.1))
    child = psutil.Process(int((tmp_path / "plug.pid").read_text()))
    probe.close()
    probe.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    alive = child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    if alive:
        os.kill(child.pid, signal.SIGKILL)
    assert not alive


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"unit": "J"}, "power is in one of W, mW, kW, not J"),
        ({"kind": "volts"}, "kind: Input should be 'power' or 'energy'"),
        ({"argv": []}, "argv"),
        ({"argv": "ipmitool dcmi"}, "argv: Input should be a valid tuple"),
        ({"watts": 5}, "watts: Unexpected keyword argument"),
        ({"pattern": "(\\d+"}, "pattern"),
        ({"pattern": "\\d+"}, "no group"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(tmp_path: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        probes.create(described(tmp_path, "", **keys))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_description_that_is_not_there_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        probes.create(f"command:{tmp_path}/none.toml")
    (tmp_path / "bad.toml").write_text("argv: x")
    with pytest.raises(UserError, match="is not TOML"):
        probes.create(f"command:{tmp_path}/bad.toml")


def test_without_a_description_it_says_how_to_give_one() -> None:
    with pytest.raises(ProbeUnavailable, match=r"command:FILE\.toml"):
        opened("command")


def alive(mark: str) -> list[psutil.Process]:
    """Processes that carry a mark among their arguments."""
    return [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or ())]


def test_what_a_polled_program_leaves_behind_is_ended(tmp_path: Path) -> None:
    mark = f"left-{os.getpid()}-{tmp_path.name}"
    program = f"""
        import subprocess, sys
        null = subprocess.DEVNULL
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "{mark}"], stdout=null, stderr=null)
        print(5)
    """
    probe = opened(described(tmp_path, program, poll_s=0.1, period_s=0.3))
    time.sleep(1.0)
    probe.close()
    time.sleep(0.3)
    left = [process for process in alive(mark) if process.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    assert not left


def test_a_run_that_prints_without_end_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="printed more than 256 KiB"):
        opened(described(tmp_path, "while True: print('5 ' * 1000)", poll_s=0.0))


def test_a_stream_without_pause_is_refused(tmp_path: Path) -> None:
    probe = opened(described(tmp_path, "", argv=["yes", "5"], mode="stream", period_s=0.1))
    with pytest.raises(ProbeFailed, match="more than 1000 lines a second"):
        until_it_fails(probe)
    probe.close()


def test_a_number_alone_in_another_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable, match="it prints '250 mW', and its description says unit = 'W'"):
        opened(described(tmp_path, "print('250 mW')", poll_s=0.0))


def test_a_long_line_of_digits_holds_nobody_up(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ProbeUnavailable, match="printed no number"):
        opened(described(tmp_path, "print('1' * 100_000 + '!')", poll_s=0.0))
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("word", ["nan", "inf", "-1e999"])
def test_what_is_not_finite_is_no_number(tmp_path: Path, word: str) -> None:
    with pytest.raises(ProbeUnavailable, match="printed no number"):
        opened(described(tmp_path, f"print('P={word}')", pattern=r"P=(\S+)", poll_s=0.0))


def test_negative_watts_are_said_to_be_wrong(tmp_path: Path) -> None:
    name = described(tmp_path, "print(-5)", poll_s=0.05, period_s=0.1)
    with Meter.open(EnergyConfig(name, max_foreign_load=None), ProbeContext()) as meter, meter.window() as window:
        time.sleep(1.0)
    assert window.energy_j is None
    assert "command delivers wrong numbers" in (window.reason or "")


def test_a_description_is_a_small_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UserError, match="is not a file"):
        probes.create(f"command:{tmp_path}/pipe.toml")
    (tmp_path / "big.toml").write_text("# " + "x" * 100_000)
    with pytest.raises(UserError, match="is larger than 64 KiB"):
        probes.create(f"command:{tmp_path}/big.toml")
