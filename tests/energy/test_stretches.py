"""The energies of a loop's parts: each from the readings by itself, and together what the meter counted."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.core.quantities import Component, Method
from harness.energy import trace_file
from harness.energy.config import EnergyConfig
from harness.energy.integrate import stretch_energies, window_energy
from harness.energy.loop_marks import LoopMarks
from harness.energy.meter import Meter
from harness.energy.readings import Domain, Trace, Window
from harness.energy.stretches import OVERLAP, LoopStretches, attribute_loop, stretches

S = 1_000_000_000
PARTS = ("idle_before", "ramp", "window", "drain", "idle_after")
LEVELS_W = (20.0, 80.0, 150.0, 70.0, 20.0)
"""Power before, in and after a loop."""
EDGES_S = (10.0, 12.0, 13.5, 33.0, 34.2, 36.0)


def domain(name: str = "gpu0", component: Component = "gpu", method: Method = "counter", **more: object) -> Domain:
    kind = "power" if method == "integrated" else "counter"
    made = Domain(name, component, kind, method, "nvml", 1e-6, period_s=0.1, source=name)
    return replace(made, **more)  # type: ignore[arg-type]


def true_j(time_s: float) -> float:
    """Cumulative energy of the powers above."""
    bounds = (0.0, *EDGES_S[1:-1], math.inf)
    return sum(
        watts * max(min(time_s, end) - start, 0.0)
        for watts, start, end in zip(LEVELS_W, bounds, bounds[1:], strict=False)
    )


def trace(of: Domain, seconds: float = 50.0, poll_s: float = 0.05, factor: float = 1.0) -> Trace:
    """What a sensor of that period shows of these powers."""
    times_s = np.arange(0.0, seconds, poll_s)
    updates_s = np.floor(times_s / (of.period_s or poll_s) + 1e-9) * (of.period_s or poll_s)
    if of.kind == "counter":
        values = [true_j(update_s) for update_s in updates_s]
    else:
        length_s = of.averaging_s or 0.1
        values = [(true_j(update_s) - true_j(max(update_s - length_s, 0.0))) / length_s for update_s in updates_s]
    return Trace(of, (times_s * S).astype(np.int64), factor * np.array(values))


def marks(requests: float = 40.0) -> LoopMarks:
    ramp, start, end, drain = (int(edge_s * S) for edge_s in EDGES_S[1:-1])
    return LoopMarks(ramp, start, end, drain, requests)


def block() -> tuple[int, int]:
    return int(EDGES_S[0] * S), int(EDGES_S[-1] * S)


@pytest.mark.parametrize(
    "of",
    [
        domain(),
        domain(period_s=0.001),
        domain(period_s=None),
        domain(method="integrated", averaging_s=0.1),
        domain(method="integrated", averaging_s=1.0, period_s=0.5),
        domain(clock_s=0.02),
    ],
    ids=["counter", "quick counter", "fresh reads", "power", "slow power", "another clock"],
)
def test_every_part_is_right_within_its_interval_and_all_add_up(of: Domain) -> None:
    report, parts = attribute_loop([trace(of)], marks(), *block())
    for name, start_s, end_s in zip(PARTS, EDGES_S, EDGES_S[1:], strict=False):
        total = getattr(parts, name).total
        assert total.energy_j == pytest.approx(true_j(end_s) - true_j(start_s), abs=max(1.2 * total.ci95_j, 0.6)), name
    assert sum(getattr(parts, name).total.energy_j for name in PARTS) == pytest.approx(parts.whole.total.energy_j, 1e-9)
    assert parts.whole.total.energy_j == window_energy(trace(of), *block()).joules
    assert report.total.request_j == pytest.approx(parts.window.total.energy_j / 40.0, 1e-12)
    assert report.total.request_ci95_j == pytest.approx(parts.window.total.ci95_j / 40.0, 1e-12)
    assert report.total.prefill_j is None
    assert report.total.decode_j is None
    assert report.total.phase_reason == OVERLAP


@given(
    edges_s=st.lists(st.floats(3.0, 45.0), min_size=3, max_size=8).filter(lambda found: max(found) - min(found) > 1.0),
    period_s=st.sampled_from([None, 0.001, 0.05, 0.1, 0.4]),
    averaging_s=st.sampled_from([0.0, 0.1, 1.0]),
    method=st.sampled_from(["counter", "integrated", "modelled"]),
    seed=st.integers(0, 99),
)
def test_wherever_the_edges_lie_the_parts_are_the_whole(
    edges_s: list[float], period_s: float | None, averaging_s: float, method: Method, seed: int
) -> None:
    """Over power that jumps at random, also where a stretch is shorter than an update."""
    of = domain(method=method, period_s=period_s, averaging_s=averaging_s if method == "integrated" else None)
    rng = np.random.default_rng(seed)
    times_s = np.sort(np.concatenate((np.arange(0.0, 50.0, 0.05), rng.uniform(0.0, 50.0, 50))))
    watts = np.repeat(rng.uniform(5.0, 300.0, 100), 11)[: times_s.size]
    counted = np.concatenate(([0.0], np.cumsum(np.diff(times_s) * watts[1:])))
    readings = Trace(of, (times_s * S).astype(np.int64), watts if of.kind == "power" else counted)
    edges_ns = sorted(int(edge_s * S) for edge_s in edges_s)
    found, whole = stretch_energies(readings, edges_ns), window_energy(readings, edges_ns[0], edges_ns[-1])
    assert whole.joules is not None
    known = [each.joules for each in found]
    if None not in known:
        assert math.fsum(known) == pytest.approx(whole.joules, rel=1e-9)
    else:
        assert all("can't be" in str(each.reason) for each in found if each.joules is None)
    *_, last = stretches([readings], edges_ns)
    assert last.total.energy_j == whole.joules


def test_sums_over_domains_add_up_too_and_take_the_worst_method() -> None:
    parts_of = [
        trace(domain("gpu0")),
        trace(domain("gpu1", source="gpu1"), factor=0.5),
        trace(domain("gpu0-power", method="integrated", source="gpu0", averaging_s=0.1), factor=1.05),
        trace(domain("cpu", "cpu", "modelled"), factor=0.3),
        trace(domain("wall", "system"), factor=3.0),
    ]
    report, parts = attribute_loop(parts_of, marks(), *block())
    assert isinstance(parts, LoopStretches)
    for name in (*PARTS, "whole"):
        stretch = getattr(parts, name)
        by_domain = {key: figure.energy_j for key, figure in stretch.domains.items()}
        assert stretch.components["gpu"].energy_j == pytest.approx(by_domain["gpu0"] + by_domain["gpu1"], 1e-12)
        inner = stretch.components["gpu"].energy_j + stretch.components["cpu"].energy_j
        assert stretch.total.energy_j == pytest.approx(inner, 1e-12), "the machine holds what its parts count"
        assert stretch.total.method == "modelled"
    for component in ("gpu", "cpu", "system"):
        each = [getattr(parts, name).components[component].energy_j for name in PARTS]
        assert math.fsum(each) == pytest.approx(parts.whole.components[component].energy_j, 1e-9)
    assert report.warnings == ("gpu0-power integrates to +5.0% of what gpu0 counted",)
    assert report.components["gpu"].request_j == pytest.approx(1.5 * 150.0 * 19.5 / 40.0, rel=0.01)


def test_a_sensor_that_dies_in_the_drain_leaves_the_window_and_names_the_reason() -> None:
    dead = replace(trace(domain(), seconds=33.5), failure="it fell off")
    report, parts = attribute_loop([dead], marks(), *block())
    assert parts.window.total.energy_j == pytest.approx(150.0 * 19.5, rel=0.02)
    assert report.total.request_j is not None
    for stretch in (parts.drain, parts.idle_after, parts.whole):
        assert stretch.total.energy_j is None
        assert stretch.total.reason == "it fell off"


def test_what_worked_and_did_not_move_is_null_and_a_still_drain_is_not() -> None:
    still = trace(domain("cpu-time", "cpu", "estimated", period_s=None), factor=0.0)
    report, parts = attribute_loop([still], marks(), *block())
    assert report.total.request_j is None
    assert "did not move" in str(report.total.reason)
    assert parts.whole.total.energy_j is None
    busy = trace(domain("cpu-time", "cpu", "estimated", period_s=None))
    values = np.minimum(busy.values, true_j(33.0))
    report, parts = attribute_loop([replace(busy, values=values)], marks(), *block())
    assert parts.drain.total.energy_j == pytest.approx(0.0, abs=1e-9)
    assert parts.idle_after.total.energy_j == 0.0
    assert report.total.request_j == pytest.approx(150.0 * 19.5 / 40.0, rel=0.01)


def test_without_power_sources_the_reason_is_told() -> None:
    report, parts = attribute_loop([], marks(), *block(), absent="the server is elsewhere")
    assert report.total.reason == parts.whole.total.reason == parts.ramp.total.reason == "the server is elsewhere"


def test_parts_without_length_are_0_and_edges_out_of_order_are_refused() -> None:
    start_ns, end_ns = marks().window_start_ns, marks().window_end_ns
    tight = LoopMarks(start_ns, start_ns, end_ns, end_ns, 10.0)
    _, parts = attribute_loop([trace(domain())], tight, start_ns, end_ns)
    assert [getattr(parts, name).total.energy_j for name in ("idle_before", "ramp", "drain", "idle_after")] == [0.0] * 4
    assert parts.window.total.energy_j == pytest.approx(parts.whole.total.energy_j, 1e-9)
    with pytest.raises(ValueError, match="in order"):
        stretches([trace(domain())], [2 * S, S])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (LoopMarks(3, 2, 4, 5, 1.0), "in order"),
        (LoopMarks(1, 2, 2, 5, 1.0), "needs a length"),
        (LoopMarks(1, 2, 4, 5, 0.0), "requests inside"),
        (LoopMarks(1, 2, 4, 5, math.nan), "requests inside"),
    ],
)
def test_marks_that_make_no_sense_are_refused(wrong: LoopMarks, said: str) -> None:
    with pytest.raises(UserError, match=said):
        wrong.check()


def test_a_metered_loop_gives_its_request_its_parts_and_is_read_back(tmp_path: Path) -> None:
    """By a meter with a square wave, whose true energy is known; the trace file holds every token's stamp."""
    with Meter.open(EnergyConfig("fake:period_s=0.01:cycle_s=0.1", max_foreign_load=None)) as meter:
        with meter.window() as window:
            edges = []
            for pause_s in (0.2, 0.3, 0.8, 0.2):
                time.sleep(pause_s)
                edges.append(time.monotonic_ns())
            window.mark_loop(LoopMarks(edges[0], edges[1], edges[2], edges[3], 1.75))
            time.sleep(0.2)
        (fake,) = meter._probes.values()
        assert window.stretches is not None
        for name in (*PARTS, "whole"):
            stretch = getattr(window.stretches, name)
            truth = fake.energy_j(stretch.start_ns / S, stretch.end_ns / S)  # type: ignore[attr-defined]
            assert stretch.total.energy_j == pytest.approx(truth, abs=1.5 * stretch.total.ci95_j), name
    parts = [getattr(window.stretches, name) for name in PARTS]
    assert [part.end_ns for part in parts[:-1]] == [part.start_ns for part in parts[1:]]
    assert math.fsum(part.total.energy_j for part in parts) == pytest.approx(
        window.stretches.whole.total.energy_j, 1e-9
    )
    assert window.energy_j == pytest.approx(window.stretches.window.total.energy_j / 1.75)
    path = tmp_path / "0.npz"
    with path.open("wb") as stream:
        trace_file.write_trace(stream, window.marks, window.traces, {"number": np.array([3, 4])})
    assert trace_file.load_further(path)["number"].tolist() == [3, 4]
    marked, traces = trace_file.load_trace(path)
    assert window.loop is not None
    assert marked.start_ns.tolist() == [window.loop.window_start_ns]
    again, _ = attribute_loop(traces, window.loop, parts[0].start_ns, parts[-1].end_ns)
    assert again.total.request_j == window.energy_j


def test_files_of_requests_one_after_the_other_have_no_further_arrays(tmp_path: Path) -> None:
    path = tmp_path / "1.npz"
    moment = np.array([1, 2])
    with path.open("wb") as stream:
        trace_file.write_trace(stream, Window(moment, moment, moment), [trace(domain())])
    assert trace_file.load_further(path) == {}
    path.write_bytes(b"not a recording")
    with pytest.raises(UserError, match="not the trace of a trial"):
        trace_file.load_further(path)


def test_a_meter_that_can_not_see_what_computes_opens_nothing_and_says_why() -> None:
    with Meter.open(EnergyConfig("fake"), unmeasured="the server runs elsewhere") as meter:
        assert meter.describe().probes == {}
        with meter.window() as window:
            pass
    assert window.energy_j is None
    assert window.reason == "the server runs elsewhere"
