"""Decisions on made-up and published machines: what they promise must hold on requests they have not seen."""

import numpy as np
import pytest

from harness.costs import Costs, cost_table, expected_by_input
from harness.decision import RoutingDecision, decide_routing, make_scales
from harness.profile import Profile
from harness.workload import Workload, from_pairs

NAMES = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


@pytest.fixture(scope="module")
def profiles() -> list[Profile]:
    return [Profile.load(name) for name in NAMES]


def lognormal(rng: np.random.Generator, requests: int, median_output: float = 20) -> Workload:
    """Inputs and outputs independent of each other."""
    m = np.clip(rng.lognormal(3.5, 1.0, requests), 1, 1500).astype(int)
    n = np.clip(median_output * rng.lognormal(0, 0.8, requests), 1, 400).astype(int)
    return from_pairs("lognormal", "test", m, n)


def decided(profiles: list[Profile], workload: Workload, **options: object) -> tuple[Costs, RoutingDecision]:
    costs = cost_table(profiles, workload)
    scales = make_scales("reference", 1.0, costs, workload, reference=1)
    return costs, decide_routing(costs, workload, scales, **options)


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
    _, decision = decided(profiles, seen, by_input=True)
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
    _, blind = decided(profiles, w, by_input=True)
    _, informed = decided(profiles, w)
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
    _, decision = decided(profiles, from_pairs("one", "test", [20], [8]), by_input=True)
    assert decision.requests.sum() == 1
    assert decision.input_rule[0].tolist() == [20]
