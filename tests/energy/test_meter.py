"""The meter: selection, windows, idle, conditions and sensors that die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import psutil
import pytest

from harness.core.errors import ProbeUnavailable, UserError
from harness.core.quantities import Component
from harness.core.wording import percent
from harness.energy import probes
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter, MeteredWindow
from harness.energy.probes.base import Probe, ProbeContext
from harness.energy.probes.fake import Fake
from harness.energy.readings import Calibration, Domain, Trace, Window
from harness.energy.sampler import Sampler
from tests.helpers import others_computing


def run(meter: Meter, seconds: float = 1.0, repeats: int = 1) -> Window:
    """Mark back-to-back requests whose prefill is half of each."""
    marks: list[list[int]] = [[], [], []]
    for _ in range(repeats):
        marks[0].append(time.monotonic_ns())
        time.sleep(seconds / 2 / repeats)
        marks[1].append(time.monotonic_ns())
        time.sleep(seconds / 2 / repeats)
        marks[2].append(time.monotonic_ns())
    return Window(*(np.array(times) for times in marks))


def metered(meter: Meter, seconds: float, repeats: int = 1) -> MeteredWindow:
    with meter.window() as window:
        window.mark(run(meter, seconds, repeats))
    return window


@pytest.mark.parametrize("selection", ["fake", "fake:kind=power:period_s=0.02"])
def test_a_window_recovers_the_known_integral(selection: str) -> None:
    option = selection.partition(":")[2] or None
    truth = Fake(option)
    with Meter.open(EnergyConfig(selection), ProbeContext()) as meter:
        time.sleep(0.3)
        hits = 0
        for _ in range(3):
            measured = metered(meter, 2.0, repeats=2)
            window, total = measured.marks, measured.energy.total
            assert (measured.energy_j, measured.ci95_j) == (total.request_j, total.request_ci95_j)
            true_j = truth.energy_j(window.start_ns[0] / 1e9, window.end_ns[-1] / 1e9) / 2
            hits += abs(total.request_j - true_j) <= total.request_ci95_j
            assert total.request_ci95_j < 0.2 * true_j
    # A 95 % interval misses one time in twenty.
    assert hits >= 2


@pytest.mark.parametrize("selection", ["fake", "fake:kind=power:period_s=0.02"])
def test_a_window_may_begin_as_soon_as_the_meter_is_open(selection: str) -> None:
    for _ in range(5):
        with Meter.open(EnergyConfig(selection, max_foreign_load=None)) as meter, meter.window() as window:
            time.sleep(0.3)
        assert window.energy_j is not None, window.reason
        # Readings reach back beyond the start, so that the first edge is as well known as the last.
        assert window.traces[0].times_ns[0] < window.marks.start_ns[0]


NOW = time.monotonic_ns()


@pytest.mark.parametrize(
    "marks",
    [
        ([NOW], [NOW + 2], [NOW + 1]),
        ([NOW + 1], [NOW], [NOW]),
        ([NOW, NOW], [NOW, NOW], [NOW + 1, NOW + 1]),
        ([NOW], [NOW], [NOW, NOW + 1]),
        ([], [], []),
        ([0.5], [1.0], [2.0]),
        (NOW, NOW, NOW + 1),
    ],
)
def test_marks_that_make_no_sense_are_refused(marks: tuple[Any, Any, Any]) -> None:
    with Meter({}) as meter, pytest.raises(UserError, match="marks of requests must be"), meter.window() as window:
        window.mark(Window(*(np.array(each) for each in marks)))


def test_marks_of_the_future_are_not_waited_for() -> None:
    with Meter.open(EnergyConfig("fake", max_foreign_load=None)) as meter:
        begun = time.monotonic()
        with meter.window() as window:
            start, end = np.array([time.monotonic_ns()]), np.array([2**62])
            window.mark(Window(start, start, end))
        assert time.monotonic() - begun < 30
    assert window.energy_j is None


def test_a_window_whose_block_raised_says_that_it_knows_nothing() -> None:
    with Meter({}) as meter:
        with pytest.raises(ZeroDivisionError), meter.window() as window:
            raise ZeroDivisionError
        with pytest.raises(AttributeError, match="known once its block has ended"):
            _ = window.energy_j


def test_calibration_is_applied_and_described() -> None:
    with Meter.open(EnergyConfig("fake:idle_w=100:busy_w=100", calibration=("fake=2,10",))) as meter:
        time.sleep(0.3)
        measured = metered(meter, 1.0)
        window, total = measured.marks, measured.energy.total
        assert meter.describe().calibration == {"fake": Calibration(2.0, 10.0)}
    seconds = (window.end_ns[-1] - window.start_ns[0]) / 1e9
    assert total.request_j == pytest.approx(210.0 * seconds, rel=0.1)


def test_a_calibration_of_an_absent_domain_is_refused() -> None:
    with pytest.raises(UserError, match="no power domain gpu7"):
        Meter.open(EnergyConfig("fake", calibration=("gpu7=1,0",)))


def test_a_sensor_that_dies_in_mid_trial_gives_null_with_the_reason() -> None:
    with Meter.open(EnergyConfig("fake:fail_after_s=0.8"), ProbeContext()) as meter:
        time.sleep(0.3)
        answer = metered(meter, 1.2).energy
        for figure in (answer.total, answer.components["gpu"], answer.domains["fake"]):
            assert figure.request_j is None
            assert "told to die" in figure.reason
        later = metered(meter, 0.3).energy
        assert later.total.request_j is None
        assert meter.idle(0.2, settle_s=0).total.power_w is None


def test_no_probes_measure_nothing() -> None:
    with Meter.open(EnergyConfig("none"), ProbeContext()) as meter:
        assert meter.needed_window_s() == 0.0
        answer = metered(meter, 0.1).energy
        assert answer.total.request_j is None
        assert answer.total.reason == "no power source"
        assert answer.components == {}
        json.dumps(asdict(meter.describe()))


def test_idle_power_is_told_with_its_uncertainty() -> None:
    with Meter.open(EnergyConfig("fake:idle_w=42:busy_w=42"), ProbeContext()) as meter:
        before = time.monotonic_ns()
        idle = meter.idle(1.0, settle_s=0.5)
    assert idle.start_ns - before >= 0.5e9
    assert idle.conditions["fake:idle_w=42:busy_w=42"] == {"temperature_c": {"min": 40.0, "max": 40.0}}
    assert "foreign_cpu_load" in idle.conditions
    assert idle.duration_s == pytest.approx(1.0, abs=0.5)
    assert abs(idle.total.power_w - 42) <= idle.total.ci95_w
    assert idle.components["gpu"].method == "counter"


def test_slower_sensors_need_longer_windows() -> None:
    needed = []
    for period_s in (0.02, 0.1, 0.5):
        with Meter.open(EnergyConfig(f"fake:period_s={period_s}"), ProbeContext()) as meter:
            needed.append(meter.needed_window_s())
            assert meter.needed_window_s(0.02) == pytest.approx(needed[-1] / 2)
    assert needed == sorted(needed)
    assert 3 < needed[1] < 5


def only(monkeypatch: pytest.MonkeyPatch, roles: dict[str, Callable[[], Probe]]) -> None:
    """Let these be all the probes there are."""
    monkeypatch.setattr(probes, "names", lambda: sorted(roles))
    monkeypatch.setattr(probes, "create", lambda name: roles[name]())


def meter_like(name: str, component: Component = "gpu", **changes: str) -> Callable[[], Probe]:
    def create() -> Probe:
        probe = Fake(":".join(f"{key}={value}" for key, value in changes.items()) or None)
        probe.role = "meter"
        domains = probe.domains

        def renamed() -> list[Domain]:
            return [replace(domain, probe=name, component=component, name=name, source=name) for domain in domains()]

        probe.domains = renamed  # type: ignore[method-assign]
        return probe

    return create


def fallback() -> Probe:
    from harness.energy.probes.estimate import create

    return create()


def test_auto_leaves_out_what_does_not_work_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {"good": meter_like("good"), "bad": meter_like("bad", unavailable="yes"), "guess": fallback}
    only(monkeypatch, roles)
    with Meter.open(EnergyConfig("auto"), ProbeContext()) as meter:
        description = meter.describe()
    assert list(description.probes) == ["good"]
    assert [left.probe for left in description.left_out] == ["bad"]
    assert description.left_out[0].remedy
    assert meter.notices == []


@pytest.mark.parametrize("device", [None, "cpu", "cuda"])
def test_auto_falls_back_to_the_estimate_and_says_so(monkeypatch: pytest.MonkeyPatch, device: str | None) -> None:
    only(monkeypatch, {"bad": meter_like("bad", unavailable="yes"), "guess": fallback})
    with Meter.open(EnergyConfig("auto"), ProbeContext(device=device, worker_pid=os.getpid())) as meter:
        assert "estimated, not measured" in meter.notices[0]
        assert len(meter.notices) == (2 if device == "cuda" else 1)
        assert meter.needed_window_s() == 0.0


def test_auto_estimates_the_cpu_when_only_an_idle_gpu_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"gpu": meter_like("gpu"), "guess": fallback})
    with Meter.open(EnergyConfig("auto"), ProbeContext(device="cpu", worker_pid=os.getpid())) as meter:
        assert meter.describe().components == {"gpu": ["gpu"], "cpu": ["cpu-time"]}


@pytest.mark.parametrize(
    ("device", "component", "sees"),
    [
        ("cuda", "cpu", False),
        ("cuda", "dram", False),
        ("metal", "cpu", False),
        ("cuda", "gpu", True),
        ("mps", "system", True),
        ("cpu", "dram", False),
        ("cpu", "cpu", True),
        ("cpu", "system", True),
        (None, "dram", True),
    ],
)
def test_a_total_without_the_device_that_computes_is_marked(
    monkeypatch: pytest.MonkeyPatch, device: str | None, component: Component, sees: bool
) -> None:
    """As on a CUDA machine whose RAPL can be read and whose NVML can't."""
    only(monkeypatch, {"some": meter_like("some", component)})
    with Meter.open(EnergyConfig("auto"), ProbeContext(device=device)) as meter:
        time.sleep(0.2)
        warnings = list(metered(meter, 0.3).energy.warnings)
        assert bool(warnings) == (not sees)
        assert meter.notices == warnings
        if warnings:
            kind = "CPU" if device == "cpu" else "GPU"
            assert warnings == [f"the {kind} that computes is not metered: energies hold only {component}"]


def test_auto_estimates_no_cpu_that_is_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"some": meter_like("some", "cpu"), "guess": fallback})
    with Meter.open(EnergyConfig("auto"), ProbeContext(device="cuda", worker_pid=os.getpid())) as meter:
        assert meter.describe().components == {"cpu": ["some"]}
        assert "the GPU that computes is not metered" in meter.notices[0]


def test_a_driver_that_fails_in_its_own_way_is_left_out_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Fake):
        role = "meter"
        closed = 0

        def open(self, context: ProbeContext) -> None:
            raise KeyError("getgrgid(): gid not found: 4711")

        def close(self) -> None:
            Odd.closed += 1

    only(monkeypatch, {"odd": lambda: Odd(None), "good": meter_like("good")})
    with Meter.open(EnergyConfig("auto"), ProbeContext()) as meter:
        left_out = meter.describe().left_out
    assert [left.probe for left in left_out] == ["odd"]
    assert left_out[0].reason.startswith("KeyError: ")
    assert Odd.closed == 1
    with pytest.raises(UserError, match="probe odd does not work here: KeyError"):
        Meter.open(EnergyConfig("odd"), ProbeContext())


def test_two_sources_that_name_a_domain_alike_are_refused_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Fake, "close", lambda self: closed.append(self))
    with pytest.raises(UserError, match="both call a domain fake"):
        Meter.open(EnergyConfig("fake,fake:kind=power"), ProbeContext())
    assert len(closed) == 2
    with pytest.raises(UserError, match="probe fake is named twice"):
        Meter.open(EnergyConfig("fake,fake"), ProbeContext())


def test_calibrating_one_of_two_readings_of_the_same_thing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter is what counts: a corrected power reading beside it would only disagree with it."""

    class Board(Fake):
        def domains(self) -> list[Domain]:
            (counter,) = super().domains()
            power = replace(counter, name="gpu0-power", kind="power", method="integrated")
            return [replace(counter, name="gpu0-counter"), power]

    for one, other in (("gpu0-power", "gpu0-counter"), ("gpu0-counter", "gpu0-power")):
        with pytest.raises(UserError, match=f"add --calibrate {other}=gain,offset"):
            Meter({"board": Board(None)}, config=EnergyConfig(calibration=(f"{one}=1.05,0",)))
    both = ("gpu0-power=1.05,0", "gpu0-counter=1.05,0")
    Meter({"board": Board(None)}, config=EnergyConfig(calibration=both)).close()


def test_a_fault_in_the_arithmetic_costs_the_figures_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Sampler.traces

    def broken(*arguments: Any) -> list[Trace]:
        return [replace(trace, values=trace.values[:-1]) for trace in whole(*arguments)]

    monkeypatch.setattr(Sampler, "traces", broken)
    with Meter.open(EnergyConfig("fake"), ProbeContext()) as meter:
        time.sleep(0.2)
        total = metered(meter, 0.3).energy.total
    assert total.request_j is None
    assert "could not be worked out: IndexError" in total.reason


class Watched(Fake):
    """Counts its looks at the device; the looks in ``bad`` see it throttled."""

    def __init__(self) -> None:
        super().__init__(None)
        self.looks: list[int] = []
        self.bad = False

    def conditions(self) -> dict[str, Any]:
        self.looks.append(time.monotonic_ns())
        return {
            "temperature_c": 40.0 + len(self.looks),
            "reasons": ["hot"] if self.bad else [],
            "state": "bad" if self.bad else "good",
            "unknown": None,
            "disturbed": "it was throttled" if self.bad else None,
        }


def test_conditions_are_those_of_the_window_and_its_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Throttling before and after a window is not its own; throttling in its middle is."""
    monkeypatch.setattr("harness.energy.sampler._CONDITIONS_EVERY_S", 0.05)
    probe = Watched()
    with Meter({"watched": probe}, config=EnergyConfig(max_foreign_load=None)) as meter:
        probe.bad = True
        time.sleep(0.2)
        probe.bad = False
        time.sleep(0.2)
        with meter.window() as window:
            window.mark(calm := run(meter, 0.5))
            probe.bad = True
            time.sleep(0.2)
        seen: Any = window.conditions
        assert window.disturbed is None
        inside = [at for at, time_ns in enumerate(probe.looks) if calm.start_ns[0] <= time_ns <= calm.end_ns[0]]
        assert seen["watched"]["temperature_c"]["min"] == pytest.approx(41.0 + inside[0], abs=1)
        assert seen["watched"]["temperature_c"]["max"] == pytest.approx(41.0 + inside[-1], abs=1)
        assert seen["watched"] | {"temperature_c": 0} == {
            "temperature_c": 0,
            "reasons": [],
            "state": ["good"],
            "unknown": None,
        }
        with meter.window() as window:
            time.sleep(0.4)
            probe.bad = False
            time.sleep(0.3)
        seen = window.conditions
        assert window.disturbed == "it was throttled"
        assert seen["watched"]["reasons"] == ["hot"]
        assert set(seen["watched"]["state"]) == {"good", "bad"}
        with meter.window() as window:
            moment = np.array([time.monotonic_ns()])
            window.mark(Window(moment, moment, moment))
        assert window.conditions["watched"]["state"] == ["good"]  # type: ignore[index]
        assert window.disturbed is None


def test_a_named_probe_that_does_not_work_is_an_error_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"does not work here: .*; leave out the word"):
        Meter.open(EnergyConfig("fake:unavailable"), ProbeContext())
    with pytest.raises(UserError, match="unknown probe"):
        Meter.open(EnergyConfig("fake,watts"), ProbeContext())


def test_every_sensor_is_closed_when_one_of_several_can_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Fake, "close", lambda self: closed.append(self))

    def refuse(self: Any, context: ProbeContext) -> None:
        raise ProbeUnavailable("no")

    monkeypatch.setattr("harness.energy.probes.estimate.CpuTimeEstimate.open", refuse)
    with pytest.raises(UserError):
        Meter.open(EnergyConfig("fake,estimate"), ProbeContext())
    assert len(closed) == 1


def test_the_estimate_follows_the_worker() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
    try:
        with Meter.open(EnergyConfig("estimate", max_foreign_load=None), ProbeContext()) as meter:
            assert metered(meter, 0.3).energy.total.request_j is None
            meter.set_worker(child.pid)
            time.sleep(0.3)
            total = metered(meter, 1.0).energy.total
    finally:
        child.kill()
        child.wait()
    assert total.request_j > 0
    assert total.method == "estimated"


@pytest.mark.parametrize(("limit", "spoilt"), [(0.1 / (psutil.cpu_count() or 1), True), (1.0, False), (None, False)])
def test_foreign_load_disturbs_a_window_and_leaves_its_figures(limit: float | None, spoilt: bool) -> None:
    with others_computing(), Meter.open(EnergyConfig("fake", max_foreign_load=limit), ProbeContext()) as meter:
        window = metered(meter, 1.0)
    share: Any = window.conditions["foreign_cpu_load"]
    assert share > 0.1 / (psutil.cpu_count() or 1)
    said = f"other programs used {percent(share, digits=0)} of the CPU (limit {percent(limit or 0, digits=0)})"
    assert window.disturbed == (said if spoilt else None)
    assert window.energy_j
    assert window.conditions["foreign_programs"]


def test_readings_that_hold_the_energy_of_others_give_none(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "another process (pid 7) used GPU 0"
    monkeypatch.setattr(Fake, "conditions", lambda self: {"energy_of_others": reason})
    with Meter.open(EnergyConfig("fake", max_foreign_load=None)) as meter:
        time.sleep(0.3)
        with meter.window() as window:
            time.sleep(1.5)
    assert window.disturbed == reason
    assert window.energy_j is None
    assert reason in (window.reason or "")
    assert window.traces[0].values.size, "the raw readings are kept"
    assert "energy_of_others" not in window.conditions["fake"]  # type: ignore[operator]


def test_a_load_that_the_system_hides_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    with Meter.open(EnergyConfig("fake"), ProbeContext()) as meter:
        time.sleep(0.2)
        window = metered(meter, 0.4)
    assert window.conditions["foreign_cpu_load"] is None
    assert window.energy.total.request_j > 0


def test_a_block_of_ones_own_is_metered_as_one_request() -> None:
    with Meter.open(EnergyConfig("fake:idle_w=100:busy_w=100")) as meter:
        time.sleep(0.3)
        with meter.window() as window:
            time.sleep(0.5)
    seconds = (window.marks.end_ns[0] - window.marks.start_ns[0]) / 1e9
    assert seconds == pytest.approx(0.5, abs=0.3)
    assert window.energy_j == pytest.approx(100 * seconds, rel=0.1)
    assert 0 < window.ci95_j < 0.2 * window.energy_j
    assert window.reason is None


def test_a_block_too_short_for_the_sensor_has_a_reason_in_place_of_joules() -> None:
    with Meter.open(EnergyConfig("fake:period_s=0.5")) as meter:
        time.sleep(1.5)
        with meter.window() as window:
            pass
    assert window.energy_j is None
    assert window.ci95_j is None
    assert window.reason


def test_a_block_that_raises_lets_the_readings_go_and_the_error_through() -> None:
    with Meter.open(EnergyConfig("fake")) as meter:
        with pytest.raises(ZeroDivisionError), meter.window() as window:
            1 / 0  # noqa: B018
        assert not hasattr(window, "energy")
        assert metered(meter, 0.3).energy is not None
