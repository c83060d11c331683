"""What the simulation does at known limits: queues with formulae, engines of one slot, refusals, its own cost."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.simulated_engine import SimulatedEngine
from harness.serving.simulated_queue import AloneCosts, OneByOne
from harness.serving.simulation import Requests, alone_s, simulate

SECONDS = StepCosts(0.02, 2e-4, 2e-7, 0.015, 1e-4, 1e-8)
JOULES = StepCosts(5.0, 0.05, 1e-4, 4.0, 0.03, 2e-6)
ENGINE = Engine(SECONDS, JOULES, 60.0, slots=64, chunk_tokens=2048)


def poisson(count: int, rate_per_s: float, seed: int = 0) -> Requests:
    rng = np.random.default_rng(seed)
    m, n = rng.lognormal(5, 1, count).astype(int) + 1, rng.lognormal(4, 0.8, count).astype(int) + 1
    return Requests(np.cumsum(rng.exponential(1 / rate_per_s, count)), m, n)


def one_slot(engine: Engine, *, phases: bool = True) -> OneByOne:
    """A machine that knows by request what an engine of one slot costs."""

    def costs(m: np.ndarray, n: np.ndarray) -> AloneCosts:
        def cost(of: StepCosts, n: np.ndarray) -> np.ndarray:
            return alone_s(Engine(of), Requests(np.zeros(m.size), m, n))

        first = np.ones_like(n)
        assert engine.joules is not None
        return AloneCosts(
            cost(engine.seconds, n),
            cost(engine.seconds, first) if phases else None,
            cost(engine.joules, n),
            cost(engine.joules, first) if phases else None,
        )

    return OneByOne(costs, engine.idle_power_w)


@pytest.mark.parametrize("replicas", [1, 3])
def test_one_request_at_a_time_is_an_engine_of_one_slot(replicas: int) -> None:
    engine, requests = replace(ENGINE, slots=1, chunk_tokens=None), poisson(300, 0.4)
    by_steps, by_request = (simulate(each, requests, replicas, 100.0) for each in (engine, one_slot(engine)))
    for name in ("replica", "start_s", "first_token_s", "end_s", "busy_s", "joules", "steps", "decoding_steps"):
        np.testing.assert_allclose(getattr(by_request, name), getattr(by_steps, name), rtol=1e-9)
    np.testing.assert_allclose(by_request.periods.busy_s, by_steps.periods.busy_s, rtol=1e-9)
    # Within a phase joules go by time, not by step.
    np.testing.assert_allclose(by_request.periods.joules, by_steps.periods.joules, rtol=2e-3)


def test_without_phases_the_first_token_is_not_known() -> None:
    engine, requests = replace(ENGINE, slots=1), poisson(50, 0.4)
    whole, phased = (simulate(one_slot(engine, phases=phases), requests) for phases in (False, True))
    assert set(whole.times()) == {"queue", "e2e"}
    assert set(phased.times()) == {"queue", "ttft", "tpot", "e2e"}
    np.testing.assert_allclose(whole.end_s, phased.end_s, rtol=1e-12)


def test_waiting_for_one_slot_is_what_pollaczek_and_khinchine_say() -> None:
    engine = replace(ENGINE, slots=1)
    work = alone_s(engine, poisson(100_000, 1.0))
    rate = 0.6 / work.mean()
    found = simulate(engine, poisson(100_000, rate))
    expected = rate * np.mean(work**2) / (2 * (1 - 0.6))
    assert found.queue_s.mean() == pytest.approx(expected, rel=0.06)


def test_requests_go_to_the_replica_with_the_fewest() -> None:
    requests = Requests(np.arange(6) * 0.001, np.full(6, 100), np.array([500, 5, 500, 500, 5, 5]))
    found = simulate(ENGINE, requests, replicas=3)
    assert found.replica.tolist() == [0, 1, 2, 0, 1, 2]
    later = simulate(ENGINE, replace(requests, arrival_s=np.arange(6) * 1.0), replicas=3)
    # Before the third the second has ended on replica 1, before the last the fifth on replica 0.
    assert later.replica.tolist() == [0, 1, 1, 2, 0, 0]


def test_memory_holds_back_the_first_that_does_not_fit_and_all_behind_it() -> None:
    """6 and 6 positions fit into 12, the third of 8 waits for both, and so does the small one behind it."""
    requests = Requests(np.zeros(4), np.array([4, 4, 5, 1]), np.array([3, 3, 4, 1]))
    found = simulate(Engine(SECONDS, kv_tokens=12), requests)
    assert found.start_s[:2].tolist() == [0, 0]
    assert found.start_s[2] == found.start_s[3] == found.end_s[0] == found.end_s[1]


def test_a_long_prompt_goes_in_parts_beside_what_decodes() -> None:
    """Of 10 tokens a step one sequence takes 1: the prompt of 25 goes as 9, 9 and 7."""
    requests = Requests(np.array([0.0, 0.05]), np.array([5, 25]), np.array([20, 2]))
    found = simulate(Engine(SECONDS, chunk_tokens=10), requests)
    decode_s = SECONDS.decoding(1) + SECONDS.per_context * np.arange(6, 12)
    parts_s = [1e-4 * (v - u) + 1e-8 * (v**2 - u**2) for u, v in ((0, 9), (9, 18), (18, 25))]
    first = round((found.start_s[1] - found.first_token_s[0]) / decode_s[0])
    expected = decode_s[first : first + 3].sum() + sum(parts_s)
    assert found.first_token_s[1] - found.start_s[1] == pytest.approx(expected, rel=1e-9)


def test_work_grows_with_requests_and_not_with_steps() -> None:
    requests = poisson(3000, 3.0)
    for engine in (ENGINE, replace(ENGINE, slots=4), replace(ENGINE, seconds=replace(SECONDS, prefill_joined=False))):
        with mock.patch.object(SimulatedEngine, "advance", autospec=True, side_effect=SimulatedEngine.advance) as calls:
            found = simulate(engine, requests)
        assert found.steps > 10_000
        assert calls.call_count < 5 * 3000


@pytest.mark.parametrize(
    ("engine", "arrival_s", "said"),
    [
        (Engine(SECONDS, kv_tokens=11), [0.0], "a request of 12 positions never fits into memory for 11"),
        (Engine(SECONDS, slots=0), [0.0], "slots must be at least 1"),
        (Engine(replace(SECONDS, floor=0.0, per_sequence=0.0, per_context=0.0)), [0.0], "take no time"),
        (ENGINE, [1.0, 0.0], "finite and ascend"),
        (ENGINE, [float("nan")], "finite and ascend"),
        (ENGINE, [], "needs requests"),
    ],
)
def test_what_cannot_be_simulated_is_refused(engine: Engine, arrival_s: list[float], said: str) -> None:
    count = len(arrival_s)
    requests = Requests(np.array(arrival_s), np.full(count, 8), np.full(count, 5))
    with pytest.raises(UserError, match=said):
        simulate(engine, requests)
