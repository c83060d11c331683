"""Routing and assignment against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.deciding import assignment, routing, threshold
from harness.deciding.assignment import Infeasible, Limit, assign

COSTS = st.one_of(st.floats(0.01, 100), st.integers(1, 5).map(float))
"""Small whole numbers too, so that costs tie and lines cross in one point."""


def sizes(systems: int, pairs: int) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    return st.tuples(
        arrays(np.float64, (systems, pairs), elements=COSTS), arrays(np.float64, (systems, pairs), elements=COSTS)
    )


@given(st.integers(1, 30).flatmap(lambda q: sizes(2, q)), st.sampled_from(["input", "output", "total", "product"]))
def test_argmin_is_never_worse_than_any_threshold(costs: tuple[np.ndarray, np.ndarray], key: str) -> None:
    energy, runtime = costs
    rng = np.random.default_rng(energy.shape[1])
    m, n = rng.integers(1, 9, (2, energy.shape[1]))
    count = rng.integers(1, 100, energy.shape[1]).astype(float)
    values = threshold.request_key(key, m, n)
    curve = threshold.totals_by_key(values, count, energy, runtime).curve
    requests = routing.served_by(routing.cheapest(energy), count, 2)
    assert (requests * energy).sum() <= curve.energy_j.min() * (1 + 1e-11)
    assert (requests.sum(axis=0) == count).all()


def test_nobody_serves_what_is_too_slow() -> None:
    runtime = np.array([[1.0, 5.0, 9.0], [8.0, 2.0, 9.0]])
    allowed = routing.serviceable(runtime, 6.0)
    choice = routing.cheapest(np.array([[9.0, 9.0, 1.0], [1.0, 1.0, 1.0]]), allowed)
    assert choice.tolist() == [0, 1, -1]
    assert routing.served_by(choice, np.array([2.0, 3.0, 4.0]), 2).tolist() == [[2, 0, 0], [0, 3, 0]]
    assert routing.serviceable(runtime, None).all()


@settings(deadline=None)
@given(
    st.integers(2, 4).flatmap(lambda s: st.integers(1, 12).flatmap(lambda q: sizes(s, q))),
    st.lists(st.floats(0, 1), min_size=1, max_size=9),
)
def test_all_weights_at_once_equal_an_argmin_for_each(costs: tuple, weights: list[float]) -> None:
    energy, runtime = costs
    count = np.arange(1.0, energy.shape[1] + 1)
    ascending = np.array(sorted(weights))
    references = (3.0, 7.0)
    sweep = routing.weight_sweep(energy, runtime, count, ascending, references)
    for i, weight in enumerate(ascending):
        cost = weight * energy / references[0] + (1 - weight) * runtime / references[1]
        total = weight * sweep.energy_j[i] / references[0] + (1 - weight) * sweep.runtime_s[i] / references[1]
        assert total == pytest.approx(cost.min(axis=0) @ count, rel=1e-9)
        assert sweep.share[:, i].sum() == pytest.approx(1)
    assert (sweep.share >= 0).all()


@settings(deadline=None)
@given(st.integers(2, 4).flatmap(lambda s: st.integers(1, 12).flatmap(lambda q: sizes(s, q))), st.data())
def test_at_no_weight_serves_who_may_not(costs: tuple, data: st.DataObject) -> None:
    energy, runtime = costs
    limit = data.draw(st.floats(float(runtime.min()), float(runtime.max())))
    allowed, count, weights = runtime <= limit, np.arange(1.0, energy.shape[1] + 1), np.linspace(0, 1, 7)
    sweep = routing.weight_sweep(energy, runtime, count, weights, (3.0, 7.0), allowed)
    served = np.where(allowed.any(axis=0), count, 0.0)
    for i, weight in enumerate(weights):
        cost = weight * energy / 3 + (1 - weight) * runtime / 7
        least = np.where(served > 0, np.where(allowed, cost, np.inf).min(axis=0), 0.0) @ served
        assert weight * sweep.energy_j[i] / 3 + (1 - weight) * sweep.runtime_s[i] / 7 == pytest.approx(least, rel=1e-9)
        assert sweep.share[:, i].sum() == pytest.approx(1)


def test_lines_that_cross_in_one_point_leave_no_request_unserved() -> None:
    energy = np.full((4, 2), 2.0)
    runtime = np.array([[2.0, 5.0], [5.0, 5.0], [5.0, 5.0], [1.0, 5.0]])
    sweep = routing.weight_sweep(energy, runtime, np.array([1.0, 6.0]), np.linspace(0, 1, 21), (3.0, 7.0))
    assert sweep.energy_j == pytest.approx([14.0] * 21)
    assert sweep.share.sum(axis=0) == pytest.approx([1.0] * 21)
    assert sweep.share[3, :-1] == pytest.approx([1 / 7] * 20)


def test_crossings_that_round_to_the_wrong_order_serve_nobody_twice() -> None:
    energy, runtime = np.full((3, 1), 2.0), np.array([[7.0], [1.0], [6.0]])
    sweep = routing.weight_sweep(energy, runtime, np.ones(1), np.linspace(0, 1, 1001), (3.0, 7.0))
    assert sweep.share[1, :-1].tolist() == [1.0] * 1000
    assert sorted(sweep.share[:, -1]) == [0.0, 0.0, 1.0], "all cost the same there"


def test_equal_systems_share_nothing_twice() -> None:
    same = np.ones((3, 4))
    sweep = routing.weight_sweep(same, same, np.ones(4), np.linspace(0, 1, 5), (1.0, 1.0))
    assert sweep.share.tolist() == [[1.0] * 5, [0.0] * 5, [0.0] * 5]


def test_pools_hold_enough_requests_and_are_as_many_as_these_allow() -> None:
    rng = np.random.default_rng(0)
    for total, most in ((100, 1), (5000, 25), (1_000_000, 1000)):
        requests = rng.multinomial(total, rng.dirichlet(np.full(3000, 0.5))).astype(float)
        pool = routing.pools(requests)
        held = np.bincount(pool, requests)
        assert set(np.diff(pool)) <= {0, 1}
        assert held.min() >= min(total, max(200, total**0.5))
        assert most / 2 < held.size <= most


def test_machines_that_stay_on_cost_their_idle_power() -> None:
    """Hand arithmetic: 10 W and 50 W idle, busy 4 s and 6 s, both on for 20 s."""
    energy, busy, idle = np.array([100.0, 900.0]), np.array([4.0, 6.0]), np.array([10.0, 50.0])
    on = np.array([True, True])
    assert routing.fleet_energy_j(energy, busy, idle, on, 20.0) == pytest.approx(100 + 900 + 10 * 16 + 50 * 14)
    assert routing.fleet_energy_j(energy, busy, idle, np.array([False, True]), 6.0) == pytest.approx(900)


def every_assignment(systems: int, count: np.ndarray) -> list[np.ndarray]:
    """All ways to split whole requests of each pair over the systems."""
    splits = [[s for s in itertools.product(range(int(c) + 1), repeat=systems) if sum(s) == int(c)] for c in count]
    return [np.array(choice, dtype=float).T for choice in itertools.product(*splits)]


@settings(max_examples=60, deadline=None)
@given(sizes(3, 3), st.lists(st.integers(1, 2), min_size=3, max_size=3), st.data())
def test_shares_equal_brute_force(costs: tuple, counts: list[int], data: st.DataObject) -> None:
    cost, runtime = costs
    count = np.array(counts, dtype=float)
    first = data.draw(st.integers(0, sum(counts)))
    second = data.draw(st.integers(0, sum(counts) - first))
    limits = [Limit(0, "share", float(first)), Limit(2, "share", float(second))]
    found = assign(cost, runtime, count, limits)
    feasible = [x for x in every_assignment(3, count) if x[0].sum() == first and x[2].sum() == second]
    assert (found.requests * cost).sum() == pytest.approx(min((x * cost).sum() for x in feasible), rel=1e-6)
    assert found.rounded
    assert (found.requests == np.floor(found.requests)).all()
    assert (found.requests.sum(axis=0) == count).all()
    assert (found.requests[0].sum(), found.requests[2].sum()) == (first, second)


@pytest.mark.parametrize("shares", [1, 2])
def test_whole_requests_keep_every_limit_or_are_not_called_whole(shares: int) -> None:
    """Shares and capacities together, where rounding one limit can break another."""
    whole = 0
    for seed in range(250):
        cost, runtime, count = random_problem(int(np.random.default_rng(seed).integers(2, 12)), 3, seed)
        part = np.random.default_rng(seed).uniform(0.1, 0.6, 3)
        limits = [Limit(s, "share", float(round(part[s] / shares * count.sum()))) for s in range(shares)]
        limits += [Limit(s, "capacity", part[s] * float(runtime[s] @ count)) for s in range(shares, 3)]
        try:
            found = assign(cost, runtime, count, limits)
        except Infeasible:
            continue
        whole += found.rounded
        assert found.requests.sum(axis=0) == pytest.approx(count)
        assert found.requests.min() >= -1e-6
        assert not found.rounded or (found.requests == np.floor(found.requests)).all()
        for limit, used in zip(limits, found.used, strict=True):
            assert used == pytest.approx(found.requests[limit.system] @ limit.usage(runtime))
            if limit.kind == "share":
                assert used == pytest.approx(limit.amount, abs=1e-5 * count.sum())
            else:
                assert used <= limit.amount + 1e-5 * runtime[limit.system] @ count
    assert whole > 40


@settings(max_examples=60, deadline=None)
@given(sizes(2, 4), st.lists(st.integers(1, 2), min_size=4, max_size=4), st.floats(0.2, 1.0))
def test_capacity_lies_between_the_relaxation_and_brute_force(costs: tuple, counts: list[int], part: float) -> None:
    """Rounding down keeps the capacity; what it costs is at most one request moved from the cheap system."""
    cost, runtime = costs
    count = np.array(counts, dtype=float)
    limit = Limit(0, "capacity", part * float(runtime[0] @ count))
    found = assign(cost, runtime, count, [limit])
    assert found.requests[0] @ runtime[0] <= limit.amount * (1 + 1e-5)
    assert (found.requests.sum(axis=0) == count).all()
    assert (found.requests == np.floor(found.requests)).all()
    total = (found.requests * cost).sum()
    at_most = {
        slack: min((x * cost).sum() for x in every_assignment(2, count) if x[0] @ runtime[0] <= slack * limit.amount)
        for slack in (1.0, 1 + 1e-5)
    }
    assert at_most[1 + 1e-5] * (1 - 1e-5) <= total <= at_most[1.0] + np.abs(cost[0] - cost[1]).max() + 1e-6


def random_problem(pairs: int, systems: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cost, runtime = rng.gamma(2, 1, (2, systems, pairs))
    return cost, runtime, np.ceil(rng.gamma(0.3, 30, pairs))


def limits_of(kind: str, cost: np.ndarray, runtime: np.ndarray, count: np.ndarray) -> list[Limit]:
    if kind == "share":
        return [Limit(0, "share", round(0.1 * count.sum())), Limit(1, "share", round(0.5 * count.sum()))]
    if kind == "capacity":
        return [Limit(s, "capacity", 0.25 * float(runtime[s] @ count)) for s in (0, 1)]
    return [Limit(0, "share", round(0.2 * count.sum())), Limit(2, "capacity", 0.2 * float(runtime[2] @ count))]


@pytest.mark.parametrize("kind", ["share", "capacity", "mixed"])
def test_the_decomposition_finds_the_optimum_of_the_whole_programme(kind: str, monkeypatch) -> None:
    cost, runtime, count = random_problem(3000, 3, seed=5)
    limits = limits_of(kind, cost, runtime, count)
    decomposed = assign(cost, runtime, count, limits)
    monkeypatch.setattr(assignment, "DIRECT_PAIRS", 10_000)
    direct = assign(cost, runtime, count, limits)
    assert (decomposed.requests * cost).sum() == pytest.approx((direct.requests * cost).sum(), rel=1e-6)
    np.testing.assert_allclose(decomposed.prices, direct.prices, rtol=1e-3)


@pytest.mark.parametrize("kind", ["share", "capacity", "mixed"])
def test_prices_route_online_as_the_programme_did(kind: str) -> None:
    cost, runtime, count = random_problem(2500, 3, seed=9)
    limits = limits_of(kind, cost, runtime, count)
    found = assign(cost, runtime, count, limits)
    priced = cost.copy()
    for limit, price in zip(limits, found.prices, strict=True):
        priced[limit.system] += price * limit.usage(runtime)
    online = routing.served_by(routing.cheapest(priced), count, 3)
    assert np.count_nonzero((online != found.requests).any(axis=0)) <= 2 * len(limits)
    assert all(price >= 0 for price, limit in zip(found.prices, limits, strict=True) if limit.kind == "capacity")


@pytest.mark.parametrize("pairs", [5, 2500])
def test_forbidden_systems_serve_nothing(pairs: int) -> None:
    cost, runtime, count = random_problem(pairs, 3, seed=2)
    cost[0, ::2] = np.inf
    found = assign(cost, runtime, count, [Limit(1, "share", round(0.3 * count.sum()))])
    assert not found.requests[0, ::2].any()
    assert found.requests[1].sum() == round(0.3 * count.sum())


@pytest.mark.parametrize("pairs", [5, 2500])
def test_limits_that_cannot_be_met_are_said_to_be_so(pairs: int) -> None:
    cost, runtime, count = random_problem(pairs, 2, seed=2)
    with pytest.raises(Infeasible):
        assign(cost, runtime, count, [Limit(s, "capacity", 0.1 * float(runtime[s] @ count)) for s in (0, 1)])
    with pytest.raises(Infeasible):
        assign(cost, runtime, count, [Limit(0, "share", count.sum() + 1)])


def test_fractional_workloads_are_not_rounded() -> None:
    cost, runtime, count = random_problem(40, 2, seed=1)
    found = assign(cost, runtime, count / 7, [Limit(0, "share", 0.3 * count.sum() / 7)])
    assert not found.rounded
    assert found.requests[0].sum() == pytest.approx(0.3 * count.sum() / 7)


def test_costs_of_any_size_give_the_same_assignment() -> None:
    cost, runtime, count = random_problem(50, 3, seed=4)
    limits = limits_of("capacity", cost, runtime, count)
    found = assign(cost, runtime, count, limits)
    scaled = assign(cost * 1e-12, runtime, count, limits)
    np.testing.assert_array_equal(found.requests, scaled.requests)
    np.testing.assert_allclose(np.array(scaled.prices) * 1e12, found.prices, rtol=1e-6)
