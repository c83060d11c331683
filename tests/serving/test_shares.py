"""Shares of an engine's energy: the Shapley value of its steps, from recorded steps and from times alone."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.shares import StepParts, coefficients_of, step_shares
from harness.serving.shares_doubt import ShareDoubt, TotalEnergy, group_energies, size_cells
from harness.serving.shares_over_time import shares_over_time
from harness.serving.shares_times import LoggedTimes, complete_times
from tests.serving.walk import cost_of_step, walk

POSITIVE = st.floats(0.0, 10.0)
COSTS = st.builds(
    StepCosts,
    floor=POSITIVE,
    per_sequence=POSITIVE,
    per_context=POSITIVE,
    prefill_floor=POSITIVE,
    per_prefill_token=POSITIVE,
    per_prefill_token2=POSITIVE,
    prefill_joined=st.booleans(),
    experts=POSITIVE,
    experts_share=st.sampled_from([None, 0.25, 0.03]),
)
PART = st.tuples(st.booleans(), st.integers(0, 50), st.integers(1, 20))
"""Decodes or not, first position, how many positions a prompt part has."""


def shapley(costs: StepCosts, step: list[tuple[bool, int, int]]) -> np.ndarray:
    """By every order in which the requests of a step can come to it."""

    def cost(members: tuple[int, ...]) -> float:
        contexts = [step[i][1] + 1 for i in members if step[i][0]]
        prompts = [(step[i][1], step[i][1] + step[i][2]) for i in members if not step[i][0]]
        found = cost_of_step(costs, contexts, prompts)
        if costs.prefill_joined and prompts and not contexts and any(decodes for decodes, _, _ in step):
            # The floor of some requests of a step is never more than the floor of the step.
            found -= max(costs.prefill_floor - costs.floor, 0.0)
        return found

    orders = list(permutations(range(len(step))))
    shares = np.zeros(len(step))
    for order in orders:
        for place, request in enumerate(order):
            shares[request] += cost(order[: place + 1]) - cost(order[:place])
    return shares / len(orders)


@settings(max_examples=40, deadline=None)
@given(costs=COSTS, steps=st.lists(st.lists(PART, min_size=1, max_size=6), min_size=1, max_size=3))
def test_shares_are_the_shapley_value_of_every_step(costs: StepCosts, steps: list[list[tuple[bool, int, int]]]) -> None:
    rows = [
        (step, request, start, start + (1 if decodes else length), decodes)
        for step, parts in enumerate(steps)
        for request, (decodes, start, length) in enumerate(parts)
    ]
    parts = StepParts(*(np.array(column) for column in zip(*rows, strict=True)))
    found = step_shares(parts, 6, costs) @ coefficients_of(costs)
    expected = np.zeros(6)
    total = 0.0
    for step in steps:
        expected[: len(step)] += shapley(costs, step)
        contexts = [start + 1 for decodes, start, _ in step if decodes]
        prompts = [(start, start + length) for decodes, start, length in step if not decodes]
        total += cost_of_step(costs, contexts, prompts)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.sum() == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert found.min() >= 0.0


SECONDS = StepCosts(0.02, 4e-4, 0.0, 0.015, 6e-5, 1e-9)
JOULES = StepCosts(6.0, 0.15, 2e-6, 4.0, 0.03, 5e-7, experts=0.8, experts_share=0.12)


def mixed_load(requests: int, rate_per_s: float, seed: int = 0) -> list[tuple[float, int, int]]:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_per_s, requests))
    m = np.exp(rng.uniform(np.log(16), np.log(2048), requests)).astype(int)
    n = np.exp(rng.uniform(np.log(4), np.log(256), requests)).astype(int)
    return list(zip(arrivals.tolist(), m.tolist(), n.tolist(), strict=True))


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("paid_joined", [True, False])
@pytest.mark.parametrize("floor", [4.0, 9.0])
def test_times_alone_give_the_shares_of_the_steps(joined: bool, paid_joined: bool, floor: float) -> None:
    """Of an engine without chunks each moment is between two steps: nothing is lost without the steps."""
    seconds = StepCosts(0.02, 4e-4, 5e-8, 0.015, 6e-5, 1e-9, joined)
    joules = StepCosts(6.0, 0.15, 2e-6, floor, 0.03, 5e-7, paid_joined, 0.8, 0.12)
    engine = Engine(seconds, joules, slots=16)
    done = walk(engine, mixed_load(300, 8.0))
    steps = step_shares(done.parts, 300, joules) @ coefficients_of(joules)
    times = shares_over_time(done.log, engine)
    assert steps.sum() == pytest.approx(done.joules, rel=1e-12)
    assert times.terms @ coefficients_of(joules) == pytest.approx(steps, rel=1e-6)
    assert times.speed == pytest.approx(1.0, rel=1e-9)
    assert times.most_at_once == 16


def test_x() -> None:
    for chunk, d1 in ((None, 5e-8), (512, 0.0), (512, 5e-8), (128, 5e-8)):
        seconds = StepCosts(0.02, 4e-4, d1, 0.015, 6e-5, 1e-9)
        engine = Engine(seconds, JOULES, slots=16, chunk_tokens=chunk)
        done = walk(engine, mixed_load(300, 8.0))
        steps = step_shares(done.parts, 300, JOULES) @ coefficients_of(JOULES)
        times = shares_over_time(done.log, engine)
        found = times.terms @ coefficients_of(JOULES)
        print(
            chunk,
            d1,
            found.sum() / done.joules - 1,
            np.abs(found / steps - 1).mean(),
            np.abs(found / steps - 1).max(),
            times.speed,
            times.busy_s / times.span_s,
        )
