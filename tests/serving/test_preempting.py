"""Engines that set sequences aside where memory is full."""

from dataclasses import replace

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.modelling.served.engine import Engine, StepCosts
from harness.modelling.served.engine_limits import found_limits
from harness.modelling.served.request_log import RequestLog
from harness.serving.preempting import simulate_preempting
from harness.serving.preempting_fit import fit_preempting, replay_preempting
from harness.serving.simulation import Requests, simulate

GPU = Engine(StepCosts(0.0165, 3e-5, 1.5e-7, 0.02, 9e-5, 1e-9), slots=48, chunk_tokens=2048)


def requests(count: int = 160, rate_per_s: float = 8.0) -> Requests:
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(1 / rate_per_s, count))
    return Requests(arrivals, rng.integers(100, 3000, count), rng.integers(200, 700, count))


def test_with_memory_enough_it_is_the_simulation() -> None:
    coming = requests()
    ours, exact = simulate_preempting(GPU, coming), simulate(GPU, coming)
    assert ours.set_aside == 0
    for name in ("start_s", "first_token_s", "end_s"):
        assert getattr(ours, name) == pytest.approx(getattr(exact, name), rel=1e-9), name


def test_a_sequence_that_finds_no_room_waits_for_one_that_ends() -> None:
    """Two of 100 + 50 positions in a memory of 220: with 10 tokens each made, the second is set aside."""
    engine = Engine(StepCosts(1.0, 0.0, 0.0, 1.0, 0.0, 0.0), kv_tokens=220)
    done = simulate_preempting(engine, Requests(np.zeros(2), np.array([100, 100]), np.array([50, 50])))
    assert done.set_aside == 1
    assert done.first_token_s.tolist() == [1.0, 1.0]
    # The first takes a step a token; the second has 11 then, and its next when the first has ended.
    assert done.end_s.tolist() == [50.0, 50.0 + 39.0]


def test_what_is_computed_again_takes_time() -> None:
    coming, engine = requests(), replace(GPU, slots=None, kv_tokens=30_000)
    cached, again = (simulate_preempting(engine, coming, share) for share in (0.0, 1.0))
    assert min(cached.set_aside, again.set_aside) > 20
    assert again.end_s.max() > 1.02 * cached.end_s.max()


def test_a_request_that_never_fits_is_refused() -> None:
    with pytest.raises(UserError, match="never fits"):
        simulate_preempting(replace(GPU, kv_tokens=500), requests())


def test_the_second_half_follows_from_the_first() -> None:
    coming, engine = requests(), replace(GPU, slots=None, kv_tokens=30_000)
    sizes = (coming.input_tokens.astype(float), coming.output_tokens.astype(float))
    log = replay_preempting(engine, RequestLog(*sizes, *[coming.arrival_s] * 4), 0.5)
    count = len(log) // 2
    limits = found_limits(log.only(slice(0, count)))
    assert limits.slots is None
    assert limits.kv_tokens == pytest.approx(30_000, rel=0.15)
    found = fit_preempting(log, count, limits)
    predicted, measured = (each.only(slice(count, None)) for each in (found.replay(log), log))
    assert np.mean(np.abs(predicted.e2e_s / measured.e2e_s - 1)) < 0.04
    assert np.mean(np.abs(predicted.tpot_s / measured.tpot_s - 1)) < 0.06
    assert found.fit.engine.kv_tokens == pytest.approx(30_000, rel=0.05)
