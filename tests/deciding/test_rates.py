"""Decisions at an arrival rate: exact against trying everything, sure as the models are, and right by simulation."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.deciding.rates.answers import RateOptions, arriving, arriving_as_logged, rate_scales, rated_fleet
from harness.deciding.rates.arrivals import Arriving, burstiness
from harness.deciding.rates.fleet import MOST_LOAD, FleetAtRate
from harness.deciding.rates.routes import Grouped
from harness.deciding.rates.routings import decide_routing_at_rate
from harness.deciding.rates.threshold import key_sums, tried
from harness.deciding.rates.thresholds import decide_threshold_at_rate
from harness.deciding.simulated_answer import Limits
from harness.deciding.workload import Workload, from_pairs
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import load_or_fit
from tests.deciding.doubts import doubting
from tests.deciding.rated import loaded_system


@pytest.fixture(scope="module")
def pair() -> list[Profile]:
    """A slow system that needs little and a fast one that needs much, idle too."""
    return [loaded_system("small", 4.0, 0.4, 8.0), loaded_system("large", 1.0, 1.0, 60.0)]


@pytest.fixture(scope="module")
def workload() -> Workload:
    rng = np.random.default_rng(1)
    m = np.clip(rng.lognormal(4.5, 0.8, 3000), 8, 1000).astype(np.int64)
    return from_pairs("made up", "test", m, np.clip(rng.lognormal(4, 0.6, 3000), 8, 400).astype(np.int64))


def fleet_of(profiles: list[Profile], workload: Workload, rate_per_s: float, asked: RateOptions) -> FleetAtRate:
    fleet, _ = rated_fleet([load_or_fit(profile) for profile in profiles], workload, rate_per_s, asked)
    return fleet


def test_a_threshold_costs_what_its_parts_do(pair: list[Profile], workload: Workload) -> None:
    """Prefix sums give what each system costs under just the requests that a threshold sends there."""
    asked = RateOptions(weight=0.6)
    fleet = fleet_of(pair, workload, 4.0, asked)
    scales = rate_scales(fleet, asked, 1)
    curve = tried(fleet, key_sums(fleet, "output"), scales, None, 10_000)
    assert curve.threshold.size == np.unique(workload.output_tokens).size + 1
    for at in (0, curve.best, curve.threshold.size // 2, curve.threshold.size - 1):
        below = workload.output_tokens <= curve.threshold[at]
        plan = np.stack([workload.count * below, workload.count * ~below])
        split = fleet.of_plans([plan])
        np.testing.assert_allclose(split.energy_j[0], curve.split.energy_j[at], rtol=1e-9)
        np.testing.assert_allclose(split.e2e_s[0], curve.split.e2e_s[at], rtol=1e-9)
    allowed = np.isfinite(curve.cost)
    assert allowed.any()
    assert not allowed.all()
    assert curve.cost[curve.best] == curve.cost[allowed].min()


def test_more_thresholds_than_are_tried_at_first_give_the_same_best(pair: list[Profile], workload: Workload) -> None:
    asked = RateOptions()
    fleet = fleet_of(pair, workload, 5.0, asked)
    sums, scales = key_sums(fleet, "product"), rate_scales(fleet, asked, 1)
    every, some = (tried(fleet, sums, scales, None, most) for most in (10_000, 200))
    assert some.threshold.size < every.threshold.size / 3
    assert some.threshold[some.best] == every.threshold[every.best]


def test_routing_is_as_good_as_trying_every_assignment(pair: list[Profile]) -> None:
    rng = np.random.default_rng(3)
    m, n = rng.integers(16, 400, 10), rng.integers(16, 250, 10)
    sizes = from_pairs("few", "test", m, n, rng.integers(1, 9, 10).astype(float))
    for weight, rate in ((1.0, 4.0), (0.6, 8.0)):
        asked = RateOptions(weight=weight)
        answer = decide_routing_at_rate(pair, sizes, Arriving(rate), asked=asked)
        fleet = answer.fleet
        scales = rate_scales(fleet, asked, 0)
        grouped = Grouped.of(fleet, np.arange(10), 10, scales, None)
        choices = np.array(list(product((0, 1), repeat=10)))
        best = float(grouped.cost([sums @ (choices == s).T for s, sums in enumerate(grouped.sums)]).min())
        assert answer.requests is not None
        found = float(fleet.of_plans([answer.requests]).cost(scales)[0])
        assert found == pytest.approx(best, rel=1e-9)


def test_routing_many_sizes_is_no_worse_than_any_threshold(pair: list[Profile], workload: Workload) -> None:
    for rate in (9.0,):
        routed = decide_routing_at_rate(pair, workload, Arriving(rate)).plans.plan
        assert routed is not None
        assert routed.cost is not None
        for key in ("input", "output", "total"):
            asked = RateOptions(reference="small")
            limit = decide_threshold_at_rate(*pair, workload, Arriving(rate), key=key, asked=asked).plans.plan
            assert limit is not None
            assert limit.cost is not None
            assert routed.cost <= limit.cost * 1.002


def test_the_plan_does_what_a_simulation_says(pair: list[Profile], workload: Workload) -> None:
    answer = decide_threshold_at_rate(*pair, workload, Arriving(5.0), key="output")
    plan, run = answer.plans.plan, answer.simulated
    assert plan is not None
    assert run is not None
    assert not answer.by_simulation
    assert plan.energy_j == pytest.approx(run.energy_j, rel=0.02)
    assert plan.e2e_s == pytest.approx(run.e2e_s, rel=0.06)
    for system, busy, steps in zip(plan.systems, run.busy_share, run.steps_per_s, strict=True):
        assert system.busy_share == pytest.approx(busy, rel=0.02)
        assert system.steps_per_s == pytest.approx(steps, rel=0.02)
        assert system.capacity_per_s is not None
        assert system.rate_per_s <= MOST_LOAD * system.capacity_per_s * 1.001
    assert set(run.percentiles) == {"ttft", "tpot", "e2e"}
    assert run.percentiles["ttft"]["p50"].value < run.percentiles["ttft"]["p99"].value


def test_with_the_rate_one_machine_gives_way_to_two_and_these_to_none(pair: list[Profile], workload: Workload) -> None:
    slow = decide_threshold_at_rate(*pair, workload, Arriving(0.5), key="output")
    curve = slow.by_rate
    assert slow.curve.small_share[slow.best] == 1
    assert curve.pays_from_per_s is not None
    busy = decide_threshold_at_rate(*pair, workload, Arriving(1.5 * curve.pays_from_per_s), key="output")
    assert busy.best is not None
    assert 0 < busy.curve.small_share[busy.best] < 1
    assert busy.plans.against == "large"
    assert busy.plans.effects is not None
    assert busy.plans.effects.saving.value > 0
    over = decide_threshold_at_rate(*pair, workload, Arriving(1.05 * curve.capacity_per_s), key="output")
    assert over.saturated
    assert over.best is None
    assert over.plans.plan is None
    assert all(plan.saturated for plan in over.plans.baselines.values())
    above = curve.rate_per_s > curve.capacity_per_s
    assert above.any()
    assert np.isnan(curve.energy_j[above]).all()
    assert np.isfinite(curve.energy_j[~above]).all()
    # More requests share the power of a machine that is on.
    assert (np.diff(curve.alone_j[0][np.isfinite(curve.alone_j[0])]) < 0).all()


def test_machines_that_are_off_when_idle_need_less_and_replicas_serve_more(
    pair: list[Profile], workload: Workload
) -> None:
    on = decide_threshold_at_rate(*pair, workload, Arriving(0.5)).plans.baselines["large"]
    off = decide_threshold_at_rate(
        *pair, workload, Arriving(0.5), asked=RateOptions(off_when_idle=True)
    ).plans.baselines["large"]
    (large,) = (system for system in on.systems if system.label == "large")
    assert on.power_w - off.power_w == pytest.approx(60 * (1 - large.busy_share))
    two = RateOptions(limits=Limits({"large": 2}, {}, {}, {}))
    one, more = (
        decide_threshold_at_rate(*pair, workload, Arriving(14.0), asked=asked) for asked in (RateOptions(), two)
    )
    assert more.by_rate.capacity_per_s > 1.5 * one.by_rate.capacity_per_s


def test_an_objective_on_the_mean_time_is_kept(pair: list[Profile], workload: Workload) -> None:
    free = decide_threshold_at_rate(*pair, workload, Arriving(5.0), key="output").plans.plan
    assert free is not None
    assert free.e2e_s is not None
    kept = decide_threshold_at_rate(
        *pair, workload, Arriving(5.0), key="output", asked=RateOptions(slo_s=0.6 * free.e2e_s)
    ).plans.plan
    assert kept is not None
    assert kept.e2e_s is not None
    assert kept.e2e_s <= 0.6 * free.e2e_s
    assert kept.meets_slo
    slow, fast = loaded_system("slow", 3.0, 0.2, 5.0), loaded_system("fast", 1.0, 1.0, 60.0)
    alone = decide_threshold_at_rate(slow, fast, workload, Arriving(2.0)).plans.baselines
    limit = 0.5 * (alone["slow"].e2e_s or 0.0)
    chosen = decide_threshold_at_rate(slow, fast, workload, Arriving(2.0), asked=RateOptions(slo_s=limit))
    assert chosen.uncertainty is not None
    assert chosen.uncertainty.threshold_low <= chosen.threshold <= chosen.uncertainty.threshold_high
    missed = decide_threshold_at_rate(*pair, workload, Arriving(5.0), asked=RateOptions(slo_s=0.01))
    assert missed.best is None
    assert not missed.saturated


def test_intervals_are_those_of_models_that_are_off(pair: list[Profile], workload: Workload) -> None:
    """A gain of the meters of 10 % moves the energy that counts by 10 %, of steps and of idle power."""
    unsure = [doubting(profile, gain=0.1, idle_power_ci95_w=0.0) for profile in pair]
    for profile in unsure:
        load = json.loads(profile.dump())
        for model in (load["under_load"]["runtime"], load["under_load"]["energy"]):
            model["covariance"] = [[0.0] * len(row) for row in model["covariance"]]
            model["misfit"]["sd"], model["sessions"]["sd"], model["scatter"] = 0.0, 0.0, None
        profile.__dict__.update(Profile.parse(json.dumps(load)).__dict__)
    found = decide_threshold_at_rate(*unsure, workload, Arriving(0.5)).plans.baselines["large"]
    assert found.energy_j is not None
    assert found.energy_ci95_j is not None
    # Of steps and of idle power it is taken to be two errors.
    assert 0.06 < found.energy_ci95_j / found.energy_j < 0.105


def test_far_more_requests_in_flight_than_measured_are_too_far(workload: Workload) -> None:
    """16 were measured at most: with more than 64 in flight nothing is called significant."""
    many = [loaded_system("small", 4.0, 0.4, 8.0, 400), loaded_system("large", 1.0, 1.0, 60.0, 400)]
    calm = decide_threshold_at_rate(*many, workload, Arriving(3.0), key="output")
    busy = decide_threshold_at_rate(*many, workload, Arriving(0.97 * calm.by_rate.capacity_per_s), key="output")
    for answer, known in ((calm, True), (busy, False)):
        plan = answer.plans.plan
        assert plan is not None
        assert (max(system.concurrency for system in plan.systems) < 64) == known
        assert answer.plans.too_far.known == known
        assert (answer.plans.too_far.requests == 1) != known
    assert calm.plans.effects is not None
    assert calm.plans.effects.saving.significant


def test_a_profile_of_one_request_at_a_time_is_a_queue(workload: Workload) -> None:
    """Pollaczek and Khinchine's formula."""
    profiles = [Profile.load(name) for name in ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")]
    rate = 0.02
    answer = decide_threshold_at_rate(*profiles, workload, Arriving(rate))
    alone = answer.plans.baselines["swing-a100"]
    runtime_s = profiles[1].runtime_s(workload.input_tokens, workload.output_tokens)
    mean, square = (np.average(each, weights=workload.count) for each in (runtime_s, runtime_s**2))
    assert alone.e2e_s == pytest.approx(mean + rate * square / (2 * (1 - rate * mean)))
    assert any("one request in flight only" in note for note in answer.notes)
    content = json.loads(profiles[1].dump())
    content["identity"]["concurrency"] = 4
    with pytest.raises(UserError, match="4 requests in flight alone; measure"):
        decide_threshold_at_rate(profiles[0], Profile.parse(json.dumps(content)), workload, Arriving(rate))


def test_an_idle_power_without_an_interval_is_said(workload: Workload) -> None:
    """It is in no interval; nothing is said where it doesn't count."""
    content = json.loads(loaded_system("unsure", 1.0, 1.0, 20.0).dump())
    content["energy"]["idle_power_ci95_w"] = None
    profiles = [
        load_or_fit(each) for each in (Profile.parse(json.dumps(content)), loaded_system("sure", 1.0, 1.0, 20.0))
    ]
    said = "the idle power of unsure has no stated uncertainty: it is in no interval"
    for asked, notes in ((RateOptions(), [said]), (RateOptions(off_when_idle=True), [])):
        assert rated_fleet(profiles, workload, 0.1, asked)[1] == notes


def test_bursts_are_seen_and_answered_by_simulation(pair: list[Profile], tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    steady = np.cumsum(rng.exponential(0.25, 4000))
    even = burstiness(steady, 2.0)
    assert even.gap_variation == pytest.approx(1, abs=0.15)
    assert even.dispersion == pytest.approx(1, abs=0.25)
    gaps = np.where(rng.random(4000) < 0.05, rng.exponential(4, 4000), rng.exponential(0.05, 4000))
    path = tmp_path / "log.csv"
    rows = (f"{t:.4f},{m},{n}\n" for t, m, n in zip(np.cumsum(gaps), *rng.integers(16, 200, (2, 4000)), strict=True))
    path.write_text("timestamp,input_tokens,output_tokens\n" + "".join(rows))
    requests, how = arriving_as_logged(path)
    assert how.rate_per_s == pytest.approx(3999 / (gaps.sum() - gaps[0]), rel=1e-3)
    answer = decide_threshold_at_rate(*pair, requests, how, key="output")
    assert answer.burstiness is not None
    assert answer.burstiness.bursty
    assert "bursts" in answer.by_simulation
    assert answer.plans.plan is not None
    assert answer.simulated is not None
    assert answer.plans.plan.e2e_s == answer.simulated.e2e_s
    assert answer.plans.plan.energy_j == answer.simulated.energy_j
    late = decide_threshold_at_rate(*pair, requests, how, key="output", asked=RateOptions(slo_s=1.0)).plans.plan
    assert late is None or late.meets_slo == (late.e2e_s is not None and late.e2e_s <= 1.0)


@pytest.mark.parametrize("routed", [False, True])
def test_in_bursts_all_figures_are_of_simulations(routed: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(16, 200, (2, 900))
    path = tmp_path / "log.csv"
    rows = (f"{60 * (i // 30)},{m},{n}\n" for i, (m, n) in enumerate(sizes.T.tolist()))
    path.write_text("timestamp,input_tokens,output_tokens\n" + "".join(rows))
    pair = [loaded_system("small", 2.0, 0.3, 2.0), loaded_system("large", 1.0, 1.0, 60.0)]
    requests, how = arriving_as_logged(path)
    answer: Any = decide_threshold_at_rate(*pair, requests, how)
    if routed:
        answer = decide_routing_at_rate(pair, requests, how)
    plan, small = answer.plans.plan, answer.plans.baselines["small"]
    assert plan is not None
    assert answer.by_simulation
    assert [system.share for system in plan.systems] == [1.0, 0.0]
    assert (small.energy_j, small.e2e_s) == (plan.energy_j, plan.e2e_s)
    (all_of_it, _) = plan.systems
    assert all_of_it.e2e_s == plan.e2e_s
    assert all_of_it.power_w == pytest.approx(plan.power_w)
    held = all_of_it.concurrency * all_of_it.busy_share
    assert held <= plan.e2e_s * all_of_it.rate_per_s * 1.05


@pytest.mark.parametrize(
    ("rate", "asked", "said"),
    [
        (0.0, RateOptions(), "--rate must be above 0"),
        (1.0, RateOptions(limits=Limits({"none": 2}, {}, {}, {})), "no such system"),
        (1.0, RateOptions(idle="half"), "unknown idle rule"),
        (1.0, RateOptions(prices=(0.3, 0.0)), "need --scale price"),
        (1.0, RateOptions(reference="none"), "no one system none"),
    ],
)
def test_what_means_nothing_is_refused(
    pair: list[Profile], workload: Workload, rate: float, asked: RateOptions, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        decide_threshold_at_rate(*pair, *arriving(workload, rate), asked=asked)


def test_all_requests_at_one_time_are_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("timestamp,input_tokens,output_tokens\n5,8,8\n5,16,8\n")
    with pytest.raises(UserError, match="all requests come at one time"):
        arriving_as_logged(path)
