"""Decisions on made-up and published machines: what they promise must hold on requests they have not seen."""

import re
from dataclasses import astuple, replace

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.deciding.answers import RoutingAnswer, decide_routing, decide_threshold
from harness.deciding.costs import Costs, cost_table, expected_by_input
from harness.deciding.decision import (
    RoutingDecision,
    make_scales,
    routing_decision,
    served_requests,
)
from harness.deciding.workload import Workload, from_pairs
from harness.modelling import fitting
from harness.modelling.profile import Profile
from harness.modelling.profile_schema import Statistic
from harness.showing.decisions import plans_table, routing_words

NAMES = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


@pytest.fixture(scope="module")
def profiles() -> list[Profile]:
    return [Profile.load(name) for name in NAMES]


def lognormal(rng: np.random.Generator, requests: int, median_output: float = 20) -> Workload:
    """Inputs and outputs independent of each other."""
    m = np.clip(rng.lognormal(3.5, 1.0, requests), 1, 1500).astype(int)
    n = np.clip(median_output * rng.lognormal(0, 0.8, requests), 1, 400).astype(int)
    return from_pairs("lognormal", "test", m, n)


def decided(profiles: list[Profile], workload: Workload, **options: object) -> RoutingAnswer:
    return decide_routing(profiles, workload, reference=profiles[1].name, **options)


def fresh_saving(decision: RoutingDecision, costs: Costs, workload: Workload) -> float:
    """What the rule for unknown outputs saves on another workload against the system it was compared with."""
    lengths, choice = decision.input_rule
    chosen = choice[np.searchsorted(lengths, workload.input_tokens, side="right").clip(1) - 1]
    routed = np.take_along_axis(costs.energy_j, chosen[None], axis=0)[0] @ workload.count
    return 1 - routed / (costs.energy_j[decision.alone] @ workload.count)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("median_output", [20, 35, 60])
def test_a_rule_on_inputs_keeps_its_promise_on_fresh_requests(profiles, seed: int, median_output: float) -> None:
    """A system per input length seen would win by hindsight what no scheduler can."""
    rng = np.random.default_rng(seed)
    seen, fresh = (lognormal(rng, 5000, median_output) for _ in range(2))
    decision = decided(profiles, seen, output_unknown=True).decision
    truth = fresh_saving(decision, cost_table(profiles, fresh), fresh)
    assert truth >= -0.002
    assert truth == pytest.approx(decision.saving.value, abs=0.02)
    if median_output > 30:
        assert not decision.saving.significant


def test_inputs_that_foretell_outputs_are_used(profiles) -> None:
    """Long inputs with short outputs and the other way round: the rule is as good as knowing the outputs."""
    rng = np.random.default_rng(0)
    short = rng.random(4000) < 0.5
    m = np.where(short, rng.integers(8, 24, 4000), rng.integers(40, 200, 4000))
    w = from_pairs("two kinds", "test", m, np.where(short, 8, 300))
    blind = decided(profiles, w, output_unknown=True).decision
    informed = decided(profiles, w).decision
    assert blind.plan.energy_j == pytest.approx(informed.plan.energy_j, rel=0.001)
    assert blind.requests.sum() == 4000


def test_the_expected_cost_is_that_of_the_pool_and_not_of_the_mean_output(profiles) -> None:
    """E[cost(m, N) | m] by hand, for a pool of three input lengths."""
    w = from_pairs("pool", "test", [20, 21, 22, 22], [8, 300, 8, 64], [2.0, 1.0, 4.0, 3.0])
    costs = cost_table(profiles, w)
    scales = make_scales("none", 1.0, costs, w, reference=0)
    got = expected_by_input(costs, scales, w, w.count)
    for s, profile in enumerate(profiles):
        for i, m in enumerate((20, 21, 22)):
            by_output = profile.energy_j(m, np.array([8, 64, 300]))
            assert got[s, i] == pytest.approx(by_output @ [0.6, 0.3, 0.1])


def test_a_handful_of_requests_still_gets_a_rule(profiles) -> None:
    decision = decided(profiles, from_pairs("one", "test", [20], [8]), output_unknown=True).decision
    assert decision.requests.sum() == 1
    assert decision.input_rule[0].tolist() == [20]


def with_idle_power(profiles: list[Profile], watts: tuple[float, float]) -> list[Profile]:
    return [
        p.model_copy(update={"energy": p.energy.model_copy(update={"idle_power_w": w, "idle_power_ci95_w": 0.0})})
        for p, w in zip(profiles, watts, strict=True)
    ]


def test_all_plans_are_compared_over_one_horizon(profiles) -> None:
    """The longest any machine of any plan is busy; idle power for the whole of it."""
    w = lognormal(np.random.default_rng(0), 3000)
    answer = decided(with_idle_power(profiles, (5.0, 80.0)), w)
    costs, decision = answer.costs, answer.decision
    plans = [decision.plan, *decision.baselines.values()]
    longest = float((costs.runtime_s @ w.count).max())
    assert {plan.horizon_s for plan in plans} == {decision.plan.horizon_s}
    assert decision.plan.horizon_s == pytest.approx(longest)
    large = decision.baselines["swing-a100"]
    assert large.fleet_energy_j == pytest.approx(large.marginal_energy_j + 80 * longest)
    assert decision.plan.fleet_energy_j == pytest.approx(decision.plan.marginal_energy_j + 85 * longest)


def test_a_horizon_holds_the_work_or_is_refused(profiles) -> None:
    """A plan that doesn't fit is an error, a baseline that doesn't is unknown."""
    w = lognormal(np.random.default_rng(0), 3000)
    idle = with_idle_power(profiles, (5.0, 80.0))
    answer = decided(idle, w)
    costs, decision = answer.costs, answer.decision
    busy_s = (decision.requests * costs.runtime_s).sum(axis=1)
    with pytest.raises(UserError, match=f"m1-pro is busy for {busy_s[0]:,.0f} s"):
        decided(idle, w, horizon_s=0.999 * busy_s.max())
    fits = decided(idle, w, horizon_s=1.001 * float(busy_s.max())).decision
    assert fits.plan.fleet_energy_j is not None
    assert fits.baselines["m1-pro"].fleet_energy_j is None
    assert fits.baselines["m1-pro"].marginal_energy_j is not None


def test_a_saving_that_idle_machines_eat_is_said_so(profiles) -> None:
    w = lognormal(np.random.default_rng(0), 3000, median_output=12)
    answer = decided(with_idle_power(profiles, (60.0, 1.0)), w)
    words, decision = routing_words(answer), answer.decision
    fleet = decision.plan.fleet_energy_j / decision.baselines["swing-a100"].fleet_energy_j - 1
    assert fleet > 0 < decision.saving.value
    assert f", but {100 * fleet:.1f} % more with all its machines left on" in words
    assert "left on" not in routing_words(decided(with_idle_power(profiles, (0.0, 1.0)), w))


def test_a_latency_objective_binds_the_oracle_and_marks_the_others(profiles) -> None:
    w = lognormal(np.random.default_rng(0), 3000, median_output=12)
    decision = decided(profiles, w, slo_s=3.0).decision
    assert decision.plan.meets_slo
    assert decision.baselines["oracle"].meets_slo
    assert decision.baselines["oracle"].energy_j == pytest.approx(decision.plan.energy_j)
    assert decision.baselines["m1-pro"].meets_slo is False
    assert decision.baselines["random"].meets_slo is False
    assert decided(profiles, w).decision.plan.meets_slo is None


def test_a_comparison_with_a_system_that_is_too_slow_says_so() -> None:
    """Two machines, two kinds of requests; the second serves both in time or neither does."""
    w = from_pairs("two kinds", "test", [10, 1000], [10, 10], [50.0, 50.0])
    for slowest_s, said in ((9.0, True), (1.0, False)):
        energy_j, runtime_s = np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[1.0, 9.0], [slowest_s, 1.0]])
        names = ("a", "b")
        profiles = [Profile.load(name) for name in NAMES]
        costs = replace(cost_table(profiles, w), labels=names, energy_j=energy_j, runtime_s=runtime_s)
        decision = routing_decision(costs, w, make_scales("none", 1.0, costs, w, 0), latency_limit_s=5.0)
        assert decision.baselines[names[decision.alone]].meets_slo is not said
        assert (
            "alone doesn't serve all of them in time" in routing_words(RoutingAnswer(costs, w, decision, 0, 5.0))
        ) is said


def test_shares_are_of_the_served_requests(profiles) -> None:
    w = from_pairs("late", "test", [20, 9], [300, 30], [50.0, 30.0])
    costs = cost_table(profiles, w)
    assert served_requests(costs, w, None) == 80
    assert served_requests(costs, w, float(costs.runtime_s[:, w.output_tokens == 300].min()) * 0.99) == 30


@pytest.mark.parametrize(("scale", "weight", "prices"), [("reference", 0.0, None), ("price", None, (0.0, 1.0))])
def test_what_was_minimised_is_what_is_said_to_be_saved(profiles, scale: str, weight: float | None, prices) -> None:
    """Runtime alone counts, so the small system is compared with: cost falls whatever energy does."""
    w = lognormal(np.random.default_rng(0), 3000, median_output=12)
    options = {"scale": scale, "weight": weight, "reference": "m1-pro", "prices": prices}
    decision = decide_threshold(*profiles, w, **options).decision
    u = decision.uncertainty
    assert u.cost_saving.value == pytest.approx(1 - decision.plan.cost / decision.baselines["swing-a100"].cost)
    assert u.cost_saving.value >= 0
    answer = decide_routing(profiles, w, **options)
    routed = answer.decision
    assert routed.cost_saving.value == pytest.approx(
        1 - routed.plan.runtime_s / routed.baselines["swing-a100"].runtime_s
    )
    assert routing_words(answer) == "all requests to swing-a100: no mix of systems costs less"
    words = routing_words(decide_routing(profiles, w, weight=0.99, reference="m1-pro"))
    assert re.search(r"% (lower|higher) cost than swing-a100 alone, .* % (less|more) energy, mean", words)


def test_with_energy_alone_both_savings_agree(profiles) -> None:
    decision = decided(profiles, lognormal(np.random.default_rng(0), 3000)).decision
    for got, wanted in zip(astuple(decision.cost_saving), astuple(decision.saving), strict=True):
        assert got == pytest.approx(wanted)


def test_round_robin_and_random_are_one_row(profiles) -> None:
    decision = decided(profiles, lognormal(np.random.default_rng(0), 300)).decision
    assert {"round_robin", "random"} < set(decision.baselines)
    assert decision.baselines["random"].energy_sd_j > 0
    table = plans_table(decision.baselines, decision.baselines["swing-a100"])
    names = list(table.columns[0].cells)
    assert names == ["m1-pro", "swing-a100", "even split (round robin or random)", "oracle"]


def remeasured(profile: Profile, rng: np.random.Generator, name: str) -> Profile:
    """Another measurement of the same machine: the profile's points again, each mean off by 2 %, and a new fit."""

    def again(exact: float, old: Statistic) -> Statistic:
        return old.model_copy(update={"mean": exact * (1 + 0.02 * rng.standard_normal()), "sd": 0.02 * exact})

    measurements = []
    for point in profile.measurements:
        size = round(point.input_tokens), round(point.output_tokens)
        update = {
            "input_tokens": float(size[0]),
            "output_tokens": float(size[1]),
            "runtime_s": again(float(profile.runtime_s(*size)), point.runtime_s),
            "energy_j": again(float(profile.energy_j(*size)), point.energy_j),
            "component_energy_j": {},
        }
        measurements.append(point.model_copy(update=update))
    quantities = fitting.fit_quantities(measurements, profile.identity.kv_cache)
    power = fitting.Power({"total": profile.energy.method}, {})
    return fitting.build_profile(name, profile.identity, measurements, quantities, power, profile.provenance)


@pytest.mark.parametrize("seed", range(5))
def test_two_measurements_of_one_machine_save_nothing_significant(profiles, seed: int) -> None:
    """The better of two equal machines per request is chance, and no threshold or route makes it a saving."""
    rng = np.random.default_rng(seed)
    pair = [remeasured(profiles[1], rng, name) for name in ("first", "second")]
    w = lognormal(rng, 5000, median_output=60)
    assert not decided(pair, w).decision.saving.significant
    for key in ("input", "output"):
        assert not decide_threshold(*pair, w, key=key).decision.uncertainty.saving.significant
