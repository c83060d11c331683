"""The simulation by events against an engine that walks every step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.simulation import Requests, Simulated, simulate
from tests.serving.step_walker import Walk, walk

COSTS = StepCosts(0.02, 2e-4, 2e-7, 0.015, 1e-4, 1e-8)
JOULES = StepCosts(5.0, 0.05, 1e-4, 4.0, 0.03, 2e-6)
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def drawn_costs(rng: np.random.Generator, scale: float) -> StepCosts:
    """Coefficients of any size, some of them 0; time for a decode step is left."""
    shares = rng.choice([0.0, 1.0], 7, p=[0.3, 0.7]) * rng.lognormal(0.0, 1.0, 7)
    floor, sequence, context, prefill, token, squares, experts = shares * scale
    share = None if rng.random() < 0.5 else float(rng.choice([0.25, 0.06]))
    joined = bool(rng.random() < 0.6)
    return StepCosts(
        *(floor + 0.01 * scale, sequence / 10, context / 1000, prefill, token / 100, squares / 1e4),
        prefill_joined=joined,
        experts=0.0 if share is None else experts / 5,
        experts_share=share,
    )


def drawn_engine(rng: np.random.Generator, longest: int) -> Engine:
    def limit(of: int | None) -> int | None:
        return None if rng.random() < 0.4 else of

    return Engine(
        seconds=drawn_costs(rng, 0.1),
        joules=drawn_costs(rng, 20.0) if rng.random() < 0.8 else None,
        slots=limit(int(rng.integers(1, 9))),
        chunk_tokens=limit(int(rng.integers(1, 60))),
        kv_tokens=limit(longest + int(rng.integers(0, 200))),
    )


def drawn_requests(rng: np.random.Generator, count: int) -> Requests:
    gaps_s = rng.exponential(rng.choice([0.0, 0.1, 1.0, 20.0]), count)
    # Some come together.
    gaps_s[rng.random(count) < 0.2] = 0.0
    return Requests(5.0 + np.cumsum(gaps_s), rng.integers(1, 100, count), rng.integers(1, 40, count))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 3))
def test_it_equals_a_walk_of_every_step(seed: int, count: int, replicas: int) -> None:
    rng = np.random.default_rng(seed)
    requests = drawn_requests(rng, count)
    engine = drawn_engine(rng, int((requests.input_tokens + requests.output_tokens).max()) - 1)
    period_s = float(rng.choice([0.7, 10.0, 3600.0]))
    found = simulate(engine, requests, replicas, period_s)
    replica, start_s, first_s, end_s, walks = walk(engine, requests, replicas)
    np.testing.assert_array_equal(found.replica, replica)
    np.testing.assert_allclose(found.start_s, start_s, **EXACT)
    np.testing.assert_allclose(found.first_token_s, first_s, **EXACT)
    np.testing.assert_allclose(found.end_s, end_s, **EXACT)
    seconds = [sum(step[1] for step in each.steps) for each in walks]
    np.testing.assert_allclose(found.busy_s, seconds, **EXACT)
    assert found.steps == sum(len(each.steps) for each in walks)
    sequences = np.bincount([step[3] for each in walks for step in each.steps])
    np.testing.assert_array_equal(found.decoding_steps, sequences)
    _same_energy(found, engine, walks)
    _same_periods(found, walks, requests)


def _same_energy(found: Simulated, engine: Engine, walks: list[Walk]) -> None:
    """The joules, and both sums as their work times the coefficients."""
    for costs, work, total in (
        (engine.seconds, found.work, found.busy_s.sum()),
        (engine.joules, found.joules_work, found.joules),
    ):
        if costs is not None:
            coefficients = [costs.floor, costs.per_sequence, costs.per_context, costs.prefill_floor]
            coefficients += [costs.per_prefill_token, costs.per_prefill_token2, costs.experts]
            assert work @ np.array(coefficients) == pytest.approx(total, rel=1e-9)
    if engine.joules is None:
        assert found.joules is None
    else:
        assert found.joules == pytest.approx(sum(step[2] for each in walks for step in each.steps), rel=1e-9)


def _same_periods(found: Simulated, walks: list[Walk], requests: Requests) -> None:
    """Each step's seconds and joules by its overlap with the periods, each request's time by its own."""
    periods, period_s = found.periods, found.periods.period_s
    edges = np.arange(periods.busy_s.size + 1) * period_s
    start, seconds, joules, _ = np.array([step for each in walks for step in each.steps]).T

    def overlap(from_s: np.ndarray, to_s: np.ndarray) -> np.ndarray:
        return np.clip(np.minimum(to_s, edges[1:, None]) - np.maximum(from_s, edges[:-1, None]), 0, None)

    inside = overlap(start, start + seconds)
    np.testing.assert_allclose(periods.busy_s, inside.sum(axis=1), rtol=1e-9, atol=1e-8)
    lasting = seconds > 0
    share = inside[:, lasting] / seconds[lasting]
    instant = joules[~lasting].sum() if found.joules is not None else 0.0
    if not instant:
        np.testing.assert_allclose(periods.joules, share @ joules[lasting], rtol=1e-8, atol=1e-6)
    assert periods.joules.sum() == pytest.approx(found.joules or 0.0, rel=1e-9)
    assert periods.steps.sum() == found.steps
    origin = requests.arrival_s[0]
    in_it = overlap(requests.arrival_s - origin, found.end_s - origin).sum(axis=1) / period_s
    np.testing.assert_allclose(periods.held, in_it, rtol=1e-8, atol=1e-8)
    running = overlap(found.start_s - origin, found.end_s - origin).sum(axis=1) / period_s
    np.testing.assert_allclose(periods.running, running, rtol=1e-8, atol=1e-8)
