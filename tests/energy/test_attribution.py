"""Figures of a trial: per request, per phase, summed over what doesn't overlap."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.quantities import Component, Method
from harness.energy.attribution import EnergyFigure, PowerFigure, attribute, choose, powers
from harness.energy.gains import gain_of
from harness.energy.integrate import calibrate
from harness.energy.readings import Calibration, Domain, Scope, Trace, Window
from harness.runs.schema import net_energy_j

S = 1_000_000_000
STEP_S = 0.05


def domain(
    name: str,
    component: Component = "gpu",
    method: Method = "counter",
    probe: str = "nvml",
    source: str = "",
    scope: Scope | None = None,
) -> Domain:
    kind = "power" if method == "integrated" else "counter"
    return Domain(name, component, kind, method, probe, 0.001, source=source or name, scope=scope)  # type: ignore[arg-type]


def trace(of: Domain, watts: float, seconds: float = 60.0, failure: str | None = None) -> Trace:
    times = np.arange(0.0, seconds, STEP_S)
    values = np.full(times.size, watts) if of.kind == "power" else watts * times
    return Trace(of, (times * S).astype(np.int64), values, failure)


def window(requests: int = 2, prefill_s: float = 4.0, decode_s: float = 6.0) -> Window:
    starts = 5.0 + np.arange(requests) * (prefill_s + decode_s)
    marks = (starts, starts + prefill_s, starts + prefill_s + decode_s)
    return Window(*((times * S).astype(np.int64) for times in marks))


def test_figures_are_per_request_and_phase() -> None:
    report = attribute([trace(domain("gpu0"), 100.0)], window())
    total = report.total
    assert total.request_j == pytest.approx(1000.0)
    assert total.prefill_j == pytest.approx(400.0)
    assert total.decode_j == pytest.approx(600.0)
    assert 0 < total.request_ci95_j < 10
    assert total.prefill_ci95_j > 0
    assert total.method == "counter"
    assert total.reason is None
    assert total.phase_reason is None
    assert report.domains["gpu0"] == report.components["gpu"] == total
    json.dumps(asdict(report), allow_nan=False)


def test_phases_that_the_readings_can_not_tell_apart_are_null_and_the_request_stays() -> None:
    """Each request is as long as the counter's period: every step holds the same of both phases."""
    counted = trace(replace(domain("gpu0"), period_s=0.1, stamped=True), 100.0)
    counted = replace(counted, times_ns=counted.times_ns[::2], values=counted.values[::2])
    total = attribute([counted], window(50, 0.02, 0.08)).total
    assert total.prefill_j is None
    assert total.prefill_ci95_j is None
    assert "the sensor can't tell prefill from the rest: uncertain by" in total.phase_reason
    assert total.request_j == pytest.approx(10.0)


def test_a_short_phase_that_the_readings_determine_is_known() -> None:
    total = attribute([trace(domain("gpu0"), 100.0)], window(20, 0.05, 1.0)).total
    assert total.prefill_j == pytest.approx(5.0)
    assert 0 < total.prefill_ci95_j < 0.5
    assert total.decode_j == pytest.approx(100.0)
    assert total.request_j == pytest.approx(105.0)


def test_one_output_token_leaves_decode_empty_not_zero() -> None:
    total = attribute([trace(domain("gpu0"), 100.0)], window(2, 5.0, 0.0)).total
    assert total.prefill_j == pytest.approx(total.request_j)
    assert total.decode_j is None
    assert total.phase_reason == "decode is empty"


def test_counter_is_preferred_to_the_power_of_the_same_silicon() -> None:
    both = [
        trace(domain("gpu0-power", method="integrated", source="a"), 101.0),
        trace(domain("gpu0-counter", source="a"), 100.0),
    ]
    report = attribute(both, window())
    assert report.total.request_j == pytest.approx(1000.0)
    assert report.warnings == ()


@pytest.mark.parametrize(("watts", "seconds", "warned"), [(103.0, 6.0, True), (101.5, 6.0, False), (103.0, 4.0, False)])
def test_disagreement_is_reported_above_two_per_cent_over_five_seconds(
    watts: float, seconds: float, warned: bool
) -> None:
    both = [
        trace(domain("counted", source="a"), 100.0),
        trace(domain("integrated", method="integrated", source="a"), watts),
    ]
    assert bool(attribute(both, window(1, seconds / 2, seconds / 2)).warnings) == warned


def test_a_total_takes_the_worst_method_and_adds_uncertainties_in_quadrature() -> None:
    parts = [trace(domain("gpu0"), 100.0), trace(domain("cpu", "cpu", "modelled", "apple"), 50.0)]
    report = attribute(parts, window())
    total, gpu, cpu = report.total, report.components["gpu"], report.components["cpu"]
    assert total.method == "modelled"
    assert total.request_j == pytest.approx(gpu.request_j + cpu.request_j)
    assert total.request_ci95_j == pytest.approx(np.hypot(gpu.request_ci95_j, cpu.request_ci95_j))


def test_a_dead_component_makes_the_total_null_and_is_named() -> None:
    parts = [trace(domain("gpu0"), 100.0), trace(domain("dram-0", "dram", probe="rapl"), 5.0, 8.0, "file vanished")]
    report = attribute(parts, window())
    assert report.components["gpu"].request_j == pytest.approx(1000.0)
    assert report.total.request_j is None
    assert report.total.reason == "dram-0: file vanished"


def test_a_rail_that_is_off_leaves_the_total_and_one_that_works_is_never_0() -> None:
    """Apple's GPU rail reads 0 while the CPU computes; where the GPU computes that is no reading."""
    parts = [
        trace(domain("soc-cpu", "cpu", "modelled", "apple"), 5.0),
        trace(domain("soc-gpu", "gpu", "modelled", "apple"), 0.0),
    ]
    report = attribute(parts, window())
    assert report.components["gpu"].request_j == 0.0
    assert report.components["gpu"].request_ci95_j > 0.0
    assert report.components["gpu"].prefill_j == 0.0
    assert report.total.request_j == pytest.approx(50.0)
    assert report.total.prefill_j == pytest.approx(20.0)
    report = attribute(parts, window(), working=("cpu", "gpu"))
    assert report.components["gpu"].request_j is None
    assert "did not move" in report.total.reason
    stuck = attribute([trace(domain("soc-cpu", "cpu", "modelled", "apple"), 0.0)], window())
    assert stuck.total.request_j is None


def test_overlapping_domains_are_never_added() -> None:
    parts = [
        trace(domain("package-0", "cpu", probe="rapl"), 60.0),
        trace(domain("package-1", "cpu", probe="rapl"), 60.0),
        trace(domain("dram-0", "dram", probe="rapl"), 10.0),
        trace(domain("psys", "system", probe="rapl"), 200.0),
    ]
    report = attribute(parts, window())
    assert report.components["cpu"].request_j == pytest.approx(1200.0)
    assert report.components["system"].request_j == pytest.approx(2000.0)
    assert report.total.request_j == pytest.approx(1300.0)
    assert attribute(parts[3:], window()).total.request_j == pytest.approx(2000.0)


def test_each_component_is_read_from_one_probe() -> None:
    domains = [
        domain("soc-cpu-a", "cpu", "modelled", "ioreport", "soc-cpu"),
        domain("soc-cpu-b", "cpu", "modelled", "powermetrics", "soc-cpu"),
        domain("cpu-time", "cpu", "estimated", "estimate"),
    ]
    assert choose(domains, ["ioreport", "powermetrics"]) == {"cpu": ["soc-cpu-a"]}
    assert choose(domains, ["powermetrics", "ioreport"]) == {"cpu": ["soc-cpu-b"]}
    assert choose(domains[2:]) == {"cpu": ["cpu-time"]}


def test_a_process_share_is_chosen_over_the_whole_that_holds_it() -> None:
    domains = [
        domain("whole", "cpu", "modelled", "ioreport", "soc-cpu"),
        domain("share", "cpu", "modelled", "powermetrics", "soc-cpu-process", "process"),
    ]
    assert choose(domains, ["ioreport", "powermetrics"]) == {"cpu": ["share"]}


def test_an_estimate_of_the_process_does_not_stand_in_for_a_counter() -> None:
    domains = [
        domain("package-0", "cpu", "counter", "rapl"),
        domain("cpu-time", "cpu", "estimated", "estimate", scope="process"),
    ]
    assert choose(domains) == {"cpu": ["package-0"]}


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (domain("wall", "system", "integrated", "command"), domain("gpu0", "gpu", "counter", "nvml")),
        (domain("wall", "system", "integrated", "command"), domain("package-0", "cpu", "counter", "rapl")),
        (domain("wall", "system", "integrated", "command"), domain("share", "cpu", "modelled", "apple", "", "process")),
        (domain("acpi", "system", "counter", "hwmon"), domain("dram-0", "dram", "counter", "rapl")),
        (domain("board", "system", "integrated", "nvml", scope="module"), domain("gpu0", "gpu", "counter", "nvml")),
        (domain("board", "system", "integrated", "nvml", scope="module"), domain("cpu", "cpu", "counter", "hwmon")),
    ],
)
def test_what_holds_the_rest_is_left_out_of_the_sum_whatever_probe_it_comes_from(outer: Domain, inner: Domain) -> None:
    for parts in ([outer, inner], [inner, outer]):
        report = attribute([trace(part, 300.0 if part is outer else 100.0) for part in parts], window())
        assert report.components["system"].request_j == pytest.approx(3000.0)
        assert report.total.request_j == pytest.approx(1000.0)
    assert not inner.contains(outer)


def test_of_meters_of_one_component_the_outermost_counts() -> None:
    cpu = [domain("cores", "cpu", scope="core", probe="hwmon"), domain("package-0", "cpu", probe="hwmon")]
    assert choose(cpu) == {"cpu": ["package-0"]}
    system = [domain("board", "system", scope="module"), domain("wall", "system", probe="command", method="integrated")]
    assert choose(system) == {"system": ["wall"]}
    assert choose([domain("a", "system", scope="module"), domain("b", "system", scope="module")]) == {
        "system": ["a", "b"]
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"request_ci95_j": None},
        {"request_ci95_j": -1.0},
        {"prefill_j": 1.0},
        {"decode_ci95_j": 1.0},
        {"method": None},
    ],
)
def test_a_figure_that_can_not_be_is_refused(wrong: dict[str, float | None]) -> None:
    right = {"method": "counter", "request_j": 1.0, "request_ci95_j": 0.1, "reason": None}
    phases = dict.fromkeys(("prefill_j", "prefill_ci95_j", "decode_j", "decode_ci95_j"))
    EnergyFigure(**{**right, **phases})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must|needs"):
        EnergyFigure(**{**right, **phases, **wrong})  # type: ignore[arg-type]


def test_boards_of_one_probe_may_differ_in_method() -> None:
    domains = [domain("gpu0-counter", source="a"), domain("gpu1-power", method="integrated", source="b")]
    assert choose(domains) == {"gpu": ["gpu0-counter", "gpu1-power"]}


def test_nothing_measured_is_null_with_the_reason() -> None:
    report = attribute([], window())
    assert report.total.request_j is None
    assert report.total.method is None
    assert report.total.reason == "no power source"


def test_an_empty_window_is_refused() -> None:
    none = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="at least one request"):
        attribute([trace(domain("gpu0"), 100.0)], Window(none, none, none))


@given(
    energy=st.floats(1, 1e4),
    ci=st.floats(0, 100),
    idle=st.floats(0, 50),
    idle_ci=st.floats(0, 5),
    s=st.floats(0.1, 100),
)
def test_net_energy_takes_off_idle_and_keeps_both_uncertainties(
    energy: float, ci: float, idle: float, idle_ci: float, s: float
) -> None:
    net, net_ci = net_energy_j(energy, ci, idle, idle_ci, s)
    assert net == pytest.approx(energy - idle * s)
    assert net_ci >= max(ci, idle_ci * s) * (1 - 1e-12)
    assert net_ci <= ci + idle_ci * s + 1e-9


def test_powers_keep_nulls_and_their_reasons() -> None:
    report = attribute([trace(domain("gpu0"), 80.0)], window(1))
    assert powers(report, 10.0)[2].power_w == pytest.approx(80.0)
    dead = attribute([trace(domain("gpu0"), 80.0, 6.0, "gone")], window(1))
    _, components, _ = powers(dead, 10.0)
    assert components["gpu"] == PowerFigure(None, None, "counter", "gone")


def test_every_figure_has_its_meters_gain_apart_from_its_half_width() -> None:
    package = domain("package-0", "cpu", probe="rapl")
    parts = [trace(domain("gpu0"), 100.0), trace(domain("gpu1"), 50.0), trace(package, 60.0)]
    report = attribute(parts, window())
    gpu, cpu, total = report.components["gpu"], report.components["cpu"], report.total
    assert gpu.gain_ci95 == pytest.approx(0.075), "boards of one probe share its gain"
    assert cpu.gain_ci95 == gain_of(package).ci95
    apart_j = np.hypot(0.075 * gpu.request_j, cpu.gain_ci95 * cpu.request_j)
    assert total.gain_ci95 == pytest.approx(apart_j / total.request_j), "those of two probes are independent"
    assert total.total_ci95_j() == pytest.approx(np.hypot(total.request_ci95_j, apart_j))
    assert total.total_ci95_j("decode") == pytest.approx(
        np.hypot(total.decode_ci95_j, total.gain_ci95 * total.decode_j)
    )
    assert powers(report, 10.0)[2].gain_ci95 == total.gain_ci95
    assert replace(total, gain_ci95=None).total_ci95_j() is None, "an unknown gain is not none"
    dead = attribute([trace(domain("gpu0"), 80.0, 6.0, "gone")], window()).total
    assert dead.gain_ci95 is None
    assert dead.total_ci95_j() is None


def test_calibration_makes_the_gain_small() -> None:
    plain = trace(domain("gpu0"), 100.0)
    corrected = calibrate(plain, Calibration(1.05, 0.0))
    found = attribute([corrected], window()).total
    assert found.gain_ci95 == 0.01 == gain_of(plain.domain, calibrated=True).ci95
    assert found.total_ci95_j() < attribute([plain], window()).total.total_ci95_j()


@pytest.mark.parametrize(
    "probe", ["nvml", "rapl", "powermetrics", "ioreport", "amd", "hwmon", "battery", "command", "mine"]
)
@pytest.mark.parametrize("method", ["counter", "integrated", "modelled", "estimated"])
def test_every_gain_has_a_source_and_an_estimate_is_the_least_sure(probe: str, method: Method) -> None:
    gain = gain_of(domain("one", method=method, probe=probe))
    assert gain.source
    assert 0.0 < gain.ci95 <= 0.4
    if method == "estimated":
        assert gain.ci95 == 0.4
    assert gain_of(domain("one", method=method, probe=probe), calibrated=True).ci95 < gain.ci95
