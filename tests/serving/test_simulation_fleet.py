"""Figures of simulated systems: their intervals, their hours, and when requests pile up."""

from dataclasses import replace

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.serving.simulated_check import closed_form
from harness.serving.simulated_figures import mean_figure, quantile_figure
from harness.serving.simulated_fleet import FleetSystem, SimulatedFleet, simulate_fleet
from harness.serving.simulated_hours import hours_of
from harness.serving.simulation import Requests, alone_s, simulate
from tests.serving.test_simulation_queue import ENGINE, one_slot, poisson

SURE = FleetSystem("sure", ENGINE, 1, seconds_ci95=0.0, joules_ci95=0.0, idle_power_ci95_w=0.0)


def alone(system: FleetSystem, requests: Requests, *, sampled: bool = True) -> SimulatedFleet:
    return simulate_fleet([system], requests, np.zeros(requests.arrival_s.size, dtype=int), sampled=sampled)


def test_intervals_hold_what_they_are_of() -> None:
    """Of 200 samples of requests that wait for each other, intervals of the mean and of p90 hold the true ones."""
    rng = np.random.default_rng(3)
    held = {"mean": 0, "p90": 0}
    for _ in range(200):
        noise = rng.standard_normal(4000)
        values = np.empty(4000)
        values[0] = noise[0]
        for i in range(1, 4000):
            values[i] = 0.8 * values[i - 1] + 0.6 * noise[i]
        mean, p90 = mean_figure(values + 10), quantile_figure(values + 10, 0.9)
        held["mean"] += (mean.low or 0) <= 10 <= (mean.high or 0)
        held["p90"] += (p90.low or 0) <= 10 + 1.2815516 <= (p90.high or 0)
    assert all(180 <= count <= 198 for count in held.values()), held


def test_few_requests_have_no_interval() -> None:
    assert mean_figure(np.arange(10.0)).high is None
    few = quantile_figure(np.arange(10.0), 0.99)
    assert (few.value, few.high) == (9.0, None)


def test_figures_of_another_draw_lie_within_the_intervals() -> None:
    names = ("e2e_mean_s", "ttft_p90_s", "tpot_p50_s", "busy_share", "running_mean")
    names += ("energy_request_j", "energy_output_token_j", "power_w")
    long = alone(SURE, poisson(60_000, 1.5, seed=98)).parts[0]
    assert long is not None
    held = []
    for seed in range(12):
        (part,) = alone(SURE, poisson(3000, 1.5, seed=seed)).parts
        assert part is not None
        for name in names:
            figure = part.figures[name]
            assert figure.low is not None
            assert figure.high is not None
            held.append(figure.low <= long.figures[name].value <= figure.high)
    assert np.mean(held) > 0.88


def test_hours_add_up_to_the_whole() -> None:
    system = replace(SURE, replicas=2)
    (part,) = alone(system, poisson(8000, 0.5)).parts
    assert part is not None
    hours = hours_of(part)
    lasting_s = np.array([hour.lasting_s for hour in hours])
    assert lasting_s.sum() == pytest.approx(part.duration_s)
    assert sum(hour.requests for hour in hours) == 8000
    assert sum(hour.steps for hour in hours) == part.simulated.steps
    power_w = np.array([hour.power_w.value for hour in hours if hour.power_w])
    assert power_w @ lasting_s == pytest.approx(part.figures["energy_j"].value, rel=1e-9)
    came = ((part.simulated.requests.arrival_s - part.simulated.requests.arrival_s[0]) / 3600).astype(int)
    for place, hour in enumerate(hours):
        assert hour.times["e2e_mean_s"].value == pytest.approx(part.simulated.e2e_s[came == place].mean())
        assert hour.times["tpot_p50_s"].low is not None
    for name in ("busy_share", "running_mean"):
        values = np.array([getattr(hour, name).value for hour in hours])
        assert values @ lasting_s / part.duration_s == pytest.approx(part.figures[name].value, rel=1e-9)
    idle_s = 2 * part.duration_s - part.simulated.busy_s.sum()
    assert part.figures["energy_j"].value == pytest.approx((part.simulated.joules or 0) + 60 * idle_s)


def test_machines_that_are_off_when_idle_draw_nothing_then() -> None:
    (part,) = alone(replace(SURE, off_when_idle=True), poisson(2000, 0.5)).parts
    assert part is not None
    assert part.figures["energy_j"].value == pytest.approx(part.simulated.joules or 0)


def test_the_profiles_doubt_in_joules_is_the_energys() -> None:
    system = replace(SURE, joules_ci95=0.1, off_when_idle=True)
    (part,) = alone(system, poisson(2000, 0.5), sampled=False).parts
    assert part is not None
    energy = part.figures["energy_request_j"]
    assert energy.low == pytest.approx(0.9 * energy.value)
    assert energy.high == pytest.approx(1.1 * energy.value)
    busy = part.figures["busy_share"]
    assert busy.low == busy.high == busy.value


def test_doubt_in_speed_goes_through_the_queue() -> None:
    """Requests that never meet take 10 % longer on a machine that is 10 % slower; near capacity far more than that."""
    system = replace(SURE, seconds_ci95=0.1, engine=replace(ENGINE, slots=4))
    sparse = Requests(np.arange(200) * 1000.0, np.full(200, 100), np.full(200, 50))
    (part,) = alone(system, sparse, sampled=False).parts
    assert part is not None
    e2e = part.figures["e2e_mean_s"]
    assert e2e.high == pytest.approx(1.1 * e2e.value, rel=1e-6)
    assert e2e.low == pytest.approx(e2e.value / 1.1 if e2e.value else 0, abs=0.01 * e2e.value)
    requests = poisson(4000, 0.9 * 4 / alone_s(system.engine, poisson(4000, 1.0)).mean())
    (busy,) = alone(system, requests, sampled=False).parts
    assert busy is not None
    assert busy.figures["queue_mean_s"].high is not None
    assert busy.figures["queue_mean_s"].high > 1.5 * busy.figures["queue_mean_s"].value


def test_doubt_that_nobody_knows_leaves_no_interval() -> None:
    (part,) = alone(replace(SURE, seconds_ci95=None), poisson(100, 1.0)).parts
    assert part is not None
    assert {(figure.low, figure.high) for figure in part.figures.values()} == {(None, None)}


@pytest.mark.parametrize(("load", "piled"), [(0.5, False), (0.8, False), (1.3, True)])
def test_more_than_it_can_serve_piles_up(load: float, piled: bool) -> None:
    engine = replace(ENGINE, slots=8)
    whole = poisson(4000, 1.0)
    together = simulate(engine, replace(whole, arrival_s=np.zeros(4000)))
    for seed in range(4):
        (part,) = alone(replace(SURE, engine=engine), poisson(4000, load * 4000 / together.duration_s, seed)).parts
        assert part is not None
        assert part.piled_up == piled


def test_each_system_serves_what_it_is_given() -> None:
    requests = poisson(400, 1.0)
    choice = np.where(requests.input_tokens < 100, 0, np.where(requests.input_tokens < 300, 2, -1))
    systems = [replace(SURE, label=label) for label in "abc"]
    fleet = simulate_fleet(systems, requests, choice, sampled=True)
    first, none, third = fleet.parts
    assert none is None
    assert first is not None
    assert third is not None
    assert first.simulated.requests.input_tokens.max() < 100
    assert third.simulated.requests.arrival_s.size == (choice == 2).sum()
    assert fleet.unserved == (choice == -1).sum()
    assert first.duration_s == third.duration_s == fleet.duration_s
    energy = fleet.energy_j()
    assert energy is not None
    assert energy.value == pytest.approx(sum(each.figures["energy_j"].value for each in (first, third)))
    with pytest.raises(UserError, match="no request is served"):
        simulate_fleet(systems, requests, np.full(400, -1), sampled=True)


@pytest.mark.parametrize("rate_per_s", [0.5, 1.5])
def test_the_closed_form_stands_beside_it(rate_per_s: float) -> None:
    (part,) = alone(SURE, poisson(20_000, rate_per_s)).parts
    assert part is not None
    found = closed_form(part)
    assert found is not None
    assert not found.saturated
    assert found.e2e_mean_s == pytest.approx(part.figures["e2e_mean_s"].value, rel=0.03)
    assert found.busy_share == pytest.approx(part.figures["busy_share"].value, rel=0.02)
    assert found.power_w == pytest.approx(part.figures["power_w"].value, rel=0.02)


@pytest.mark.parametrize("replicas", [1, 2])
def test_one_at_a_time_the_closed_form_is_pollaczeks_and_khinchines(replicas: int) -> None:
    engine = one_slot(replace(ENGINE, slots=1))
    rate = 0.6 * replicas / alone_s(engine, poisson(20_000, 1.0)).mean()
    for load in (1, 2):
        (part,) = alone(replace(SURE, engine=engine, replicas=replicas), poisson(60_000, load * rate)).parts
        assert part is not None
        found = closed_form(part)
        assert found is not None
        assert found.saturated == (load == 2)
        assert found.capacity_per_s == pytest.approx(rate / 0.6, rel=0.02)
        assert found.busy_share == pytest.approx(part.figures["busy_share"].value, rel=0.02)
        assert found.power_w == pytest.approx(part.figures["power_w"].value, rel=0.02)
        if load == 1:
            assert found.e2e_mean_s == pytest.approx(
                part.figures["e2e_mean_s"].value, rel=0.06 if replicas == 1 else 0.08
            )
            assert found.rough == (replicas > 1)
        else:
            assert found.e2e_mean_s is None
