"""One replica at a rate: the closed form against known limits and against the simulation of every step."""

from dataclasses import replace

import numpy as np
import pytest

from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.occupancy import Occupancy, capacity_per_s, occupancy, request_sums
from harness.serving.simulation import Requests, Simulated, simulate

FREE_PROMPTS = StepCosts(0.01, 0.0004, 0.0, 0.0, 0.0, 0.0, prefill_joined=False)
"""Decode steps of 10 ms and 0.4 ms for each sequence; prompts take no time."""
PERIODS = 40
"""Of a simulation while requests come. The first few, in which it fills up, don't count, nor does what follows them."""


def machine(rng: np.random.Generator) -> Engine:
    """A GPU-like machine, drawn at random: steps of 5 to 30 ms, to which a sequence adds 0.3 to 3 %."""
    a = rng.uniform(0.005, 0.03)
    experts = 0.12 if rng.random() < 0.3 else None
    seconds = StepCosts(
        floor=a,
        per_sequence=a * rng.uniform(0.003, 0.03),
        per_context=a * np.exp(rng.uniform(np.log(1e-6), np.log(3e-5))),
        prefill_floor=a * rng.uniform(0.8, 2),
        per_prefill_token=np.exp(rng.uniform(np.log(1.5e-5), np.log(1.5e-4))),
        per_prefill_token2=rng.uniform(0, 2e-9),
        prefill_joined=bool(rng.random() < 0.6),
        experts=0.1 * a if experts else 0.0,
        experts_share=experts,
    )
    per_s = dict(zip(("floor", "per_sequence", "per_context"), rng.uniform(150, 400, 3), strict=True))
    joules = replace(seconds, **{name: getattr(seconds, name) * w for name, w in per_s.items()})
    slots, chunk = int(rng.choice([16, 64, 256])), rng.choice([None, 2048, 8192])
    return Engine(seconds, joules, 60.0, slots, None if chunk is None else int(chunk))


def mix(rng: np.random.Generator, requests: int) -> tuple[np.ndarray, np.ndarray]:
    m, n = (np.exp(rng.uniform(np.log(low), np.log(high))) for low, high in ((50, 1000), (30, 400)))
    m_tokens = np.clip(m * rng.lognormal(0, 0.9, requests), 1, 8000).astype(np.int64)
    return m_tokens, np.clip(n * rng.lognormal(0, 0.8, requests), 1, 2000).astype(np.int64)


def simulated(
    engine: Engine, m: np.ndarray, n: np.ndarray, rate_per_s: float, seed: int, replicas: int = 1
) -> Simulated:
    """Poisson arrivals of requests of these sizes, in random order."""
    rng = np.random.default_rng(seed)
    order, arrival_s = rng.permutation(m.size), np.sort(rng.uniform(0, m.size / rate_per_s, m.size))
    requests, period_s = Requests(arrival_s, m[order], n[order]), float(arrival_s[-1]) / PERIODS
    return simulate(engine, requests, replicas, period_s)


def single(engine: Engine, m: int, n: int, rate_per_s: float) -> Occupancy:
    """All requests of one size."""
    return occupancy(engine, rate_per_s * request_sums(engine, np.array([m]), np.array([n]))[:, 0])


def test_steps_that_grow_with_what_they_hold_give_the_negative_binomial_distribution() -> None:
    floor, marginal, rate = 99 * 0.01, 99 * 0.0004, 12.0
    rho = rate * marginal
    found = single(Engine(FREE_PROMPTS), 8, 100, rate)
    assert found.busy_share == pytest.approx(1 - (1 - rho) ** (floor / marginal + 1), rel=1e-9)
    # A request waits for half a step, as long as a hundredth of it.
    mean_s = (floor + marginal) / (1 - rho)
    assert found.e2e_s == pytest.approx(mean_s * (1 + float(found.busy_share) / 200), rel=1e-9)
    assert found.held == pytest.approx(rate * found.e2e_s)
    # Without a prompt's steps, decode steps of 10 ms fill what sequences leave of the time.
    assert found.steps_per_s - rate == pytest.approx((found.busy_share - rho) / 0.01, rel=1e-9)


def test_one_slot_is_busy_for_as_long_as_its_requests_take() -> None:
    costs = StepCosts(0.02, 0.0, 1e-5, 0.03, 1e-4, 1e-8)
    engine = Engine(costs, replace(costs, floor=5.0), 30.0, slots=1)
    m, n, rate = 200, 50, 0.3
    alone = simulate(engine, Requests(np.array([0.0]), np.array([m]), np.array([n])))
    found = single(engine, m, n, rate)
    assert found.busy_share == pytest.approx(rate * alone.e2e_s[0], rel=1e-9)
    assert alone.joules is not None
    assert found.power_w == pytest.approx(rate * alone.joules, rel=1e-9)
    assert found.steps_per_s == pytest.approx(rate * alone.steps, rel=1e-9)
    assert found.running == pytest.approx(1.0)
    idle_w = (1 - rate * alone.e2e_s[0]) * 30.0
    assert found.energy_w(30.0) == pytest.approx(rate * alone.joules + idle_w, rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_the_closed_form_agrees_with_the_simulation(seed: int) -> None:
    """Asked for are 3 % on average and 8 % at worst, and 2 % of busy share and steps."""
    rng = np.random.default_rng(seed)
    engine = machine(rng)
    m, n = mix(rng, 12_000)
    sums = request_sums(engine, m, n).mean(axis=1)
    rate = float(capacity_per_s(engine, sums)) * (0.2, 0.4, 0.6, 0.8)[seed % 4]
    found, run = occupancy(engine, rate * sums), simulated(engine, m, n, rate, seed)
    assert not found.saturated
    assert found.e2e_s == pytest.approx(run.e2e_s[1000:].mean(), rel=0.03)
    steady, seconds = slice(4, PERIODS), (PERIODS - 4) * run.periods.period_s
    expected = {"busy_share": run.periods.busy_s, "steps_per_s": run.periods.steps, "power_w": run.periods.joules}
    for name, periods in expected.items():
        assert getattr(found, name) == pytest.approx(periods[steady].sum() / seconds, rel=0.02), name


def test_above_its_capacity_a_replica_is_saturated() -> None:
    engine = replace(Engine(FREE_PROMPTS, FREE_PROMPTS), slots=8)
    capacity = 8 / (99 * 0.01 + 8 * 99 * 0.0004)
    sums = request_sums(engine, np.array([8]), np.array([100]))
    assert capacity_per_s(engine, sums) == pytest.approx(capacity, rel=1e-9)
    found = occupancy(engine, sums * np.array([0.0, 0.999, 1.001]) * capacity)
    assert found.saturated.tolist() == [0, 0, 1]
    assert np.isfinite(found.e2e_s).tolist() == [False, True, False]
    assert np.isinf(found.e2e_s[2])
    assert found.busy_share.tolist() == pytest.approx([0, 1, 1], abs=1e-3)
    assert found.power_w[2] == pytest.approx(1.0)
    assert found.running[2] == 8


def test_memory_bounds_the_slots() -> None:
    engine = replace(Engine(FREE_PROMPTS), kv_tokens=8 * (64 + 99))
    few = replace(engine, slots=8, kv_tokens=None)
    sums = request_sums(engine, np.array([64]), np.array([100]))
    assert capacity_per_s(engine, sums) == pytest.approx(capacity_per_s(few, sums))
    assert occupancy(engine, 5 * sums).e2e_s == pytest.approx(occupancy(few, 5 * sums).e2e_s)


@pytest.mark.parametrize(
    ("slots", "replicas", "load"), [(1, 1, 0.7), (2, 1, 0.8), (8, 1, 0.8), (8, 4, 0.8), (32, 3, 0.6)]
)
def test_few_slots_and_several_replicas(slots: int, replicas: int, load: float) -> None:
    """Requests of very different lengths wait for a slot; of replicas each goes to the one with the fewest."""
    rng = np.random.default_rng(slots)
    engine = replace(machine(rng), slots=slots)
    m, n = mix(rng, 40_000)
    sums = request_sums(engine, m, n).mean(axis=1)
    rate = load * float(capacity_per_s(engine, sums, replicas))
    found, run = occupancy(engine, rate * sums, replicas), simulated(engine, m, n, rate, slots, replicas)
    assert found.e2e_s == pytest.approx(run.e2e_s[2000:].mean(), rel=0.04)
    assert found.busy_share == pytest.approx(run.busy_s.sum() / replicas / run.duration_s, rel=0.02)
    assert bool(found.rough) == (replicas > 1 and found.busy_share < 0.97)


def test_what_prompts_hold_up_is_told() -> None:
    """Long prompts of very different lengths, few output tokens: there the closed form is known to be off."""
    costs = StepCosts(0.01, 1e-4, 0.0, 0.01, 3e-4, 0.0)
    m, n = np.array([100, 20_000]), np.array([10, 10])
    engine = Engine(costs, slots=64)
    sums = request_sums(engine, m, n).mean(axis=1)
    assert occupancy(engine, 0.25 * sums).rough
    assert not occupancy(engine, 0.25 * request_sums(engine, np.array([64]), np.array([200]))[:, 0]).rough
