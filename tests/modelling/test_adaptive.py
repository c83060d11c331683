"""Which size comes next, what is claimed of the fit, and what simulated machines say of both."""

import math
from collections.abc import Sequence

import adaptive
import numpy as np
import pytest
from simulated_machines import MACHINES, Session

from harness.core.errors import UserError
from harness.core.sizes import Point
from harness.modelling.adaptive import FEWEST_DRAWN, VISITED_AGAIN, Proposal, Search, Visit, trials_by_now
from harness.modelling.drawn_error import Claim, Outcome, Seen
from harness.modelling.interest import Interest, beside_powers


def cost_s(point: Point) -> float:
    """A machine as the form has them."""
    m, n, c = point.input_tokens, point.output_tokens, point.concurrency
    return c**0.5 * (0.02 + 1e-4 * m + (n - 1) * 0.02 + 2e-6 * sum(m + k for k in range(1, n)))


def saw(point: Point, drawn: bool, noise: float = 0.0, outcome: Outcome = "ok", energy: bool = False) -> Seen:
    rng = np.random.default_rng([point.input_tokens, point.output_tokens])
    trials = {"runtime_s": [cost_s(point) * (1 + noise * rng.standard_normal()) for _ in range(2)]}
    if energy:
        trials["energy_j"] = [100 * cost_s(point) * (1 + 0.05 * rng.standard_normal()) for _ in range(2)]
    return Seen(point, drawn, trials if outcome == "ok" else {}, 1.0, outcome=outcome)


def searched(search: Search, count: int, noise: float = 0.0, energy: bool = False) -> list[Seen]:
    seen: list[Seen] = []
    for _ in range(count):
        proposal = search.next(seen)
        assert proposal is not None
        seen.append(saw(proposal.point, proposal.drawn, noise, energy=energy))
    return seen


def points(seen: Sequence[Seen]) -> list[Point]:
    return [each.point for each in seen]


def test_the_same_was_seen_the_same_comes_next() -> None:
    first, again = (searched(Search(Interest.grid(), True, seed=3), 16) for _ in range(2))
    assert first == again
    assert points(first) != points(searched(Search(Interest.grid(), True, seed=4), 16))


def test_points_alternate_and_none_comes_twice() -> None:
    seen = searched(Search(Interest.grid(), True), 21)
    assert len(set(points(seen))) == 21
    drawn = [each.drawn for each in seen]
    assert not any(drawn[:5])
    assert drawn[5:] == [True, False] * 8


def test_points_chosen_are_cheaper_than_points_drawn() -> None:
    seen = searched(Search(Interest.grid(), True), 25)
    chosen, drawn = ([cost_s(each.point) for each in seen if each.drawn == which] for which in (False, True))
    assert np.mean(chosen) < np.mean(drawn) / 2


def test_drawn_sizes_are_log_uniform() -> None:
    """The third one drawn, over many seeds."""
    interest, sizes = Interest.grid(), []
    for seed in range(1000):
        taken: set[Point] = set()
        for _ in range(3):
            point = interest.draw(seed, taken)
            assert point is not None
            taken.add(point)
        sizes.append(point)
    for values, most in (([p.input_tokens for p in sizes], 2048), ([p.output_tokens for p in sizes], 1024)):
        share = np.log(np.array(values) / 8) / np.log(most / 8)
        assert np.quantile(share, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.06)


def test_traffic_is_drawn_from_the_users_own_sizes_by_how_often_they_come() -> None:
    interest = Interest.traffic(np.array([10.0, 500, 90]), np.array([20.0, 30, 900]), np.array([6.0, 3, 1]))
    drawn = [interest.draw(seed, ()) for seed in range(300)]
    counts = [sum(point == Point(*size) for point in drawn) for size in ((10, 20), (500, 30), (90, 900))]
    assert sum(counts) == 300
    assert np.array(counts) / 300 == pytest.approx([0.6, 0.3, 0.1], abs=0.08)


def test_a_context_that_holds_no_size_is_refused() -> None:
    assert (Interest.grid(longest=300).m + Interest.grid(longest=300).n).max() <= 300
    with pytest.raises(UserError, match="the 10 tokens of the model's context"):
        Interest.grid(longest=10)


def test_what_needs_at_least_what_was_too_large_is_avoided() -> None:
    search = Search(Interest.grid(), True)
    seen = [saw(Point(100, 200), False, outcome="too large")]
    for _ in range(30):
        proposal = search.next(seen)
        assert proposal is not None
        m, n = proposal.point.input_tokens, proposal.point.output_tokens
        assert m + n < 300 or m < 100
        seen.append(saw(proposal.point, proposal.drawn))


def test_a_size_that_fails_costs_itself_alone() -> None:
    search = Search(Interest.grid(), True)
    seen = [saw(Point(8, 8), False, outcome="failed")]
    for _ in range(30):
        proposal = search.next(seen)
        assert proposal is not None
        seen.append(saw(proposal.point, proposal.drawn))
    assert max(each.point.input_tokens for each in seen) > 1000
    failed = [saw(Point(8, 8 + n), False, outcome="failed") for n in range(5)]
    assert search.next(failed) is None


def test_nothing_is_left_where_the_smallest_size_fails() -> None:
    assert Search(Interest.grid(), True).next([saw(Point(8, 8), False, outcome="too large")]) is None


def test_nothing_is_claimed_before_enough_points_were_drawn() -> None:
    search = Search(Interest.grid(), True)
    seen = searched(search, 5 + 2 * FEWEST_DRAWN, noise=0.001)
    said = [search.reached(seen[:count]) for count in range(len(seen))]
    drawn = [sum(each.drawn for each in seen[:count]) for count in range(len(seen))]
    assert [found is not None for found in said] == [count >= FEWEST_DRAWN for count in drawn]
    assert said[-1] is not None
    assert said[-1].drawn == drawn[-1]
    assert 0 < said[-1].error < 0.005


def test_the_claim_is_the_root_mean_square_plus_its_doubt_less_the_noise() -> None:
    errors, equal = np.array([0.03, -0.03, 0.03, -0.03]), np.ones(4)
    assert Claim.of(errors, np.zeros(4), equal).error == pytest.approx(0.03)
    assert Claim.of(errors, np.zeros(4), equal).stated == pytest.approx(0.03)
    noisy = Claim.of(errors, np.full(4, 0.024), equal)
    assert noisy.error == pytest.approx(math.sqrt(0.03**2 - 0.024**2))
    assert noisy.stated == pytest.approx(noisy.error)
    assert Claim.of(errors, np.array([0.0, 0.02, 0.0, 0.01]), equal).doubt > 0.001
    uneven = Claim.of(np.array([0.0, 0.0, 0.0, 0.06]), np.zeros(4), equal)
    assert uneven.error == pytest.approx(0.03)
    assert uneven.doubt > 0.01


def test_noise_beyond_the_errors_leaves_a_claim_above_nought() -> None:
    errors = np.array([0.01, -0.02, 0.015, 0.005, -0.01, 0.02])
    assert Claim.of(errors, np.full(6, 0.015), np.ones(6)).error == 0
    assert Claim.of(errors, np.full(6, 0.015), np.ones(6)).stated > 0.005


def test_the_quantity_that_is_least_right_decides() -> None:
    search = Search(Interest.grid(), True)
    reached = search.reached(searched(search, 24, noise=0.001, energy=True))
    assert reached is not None
    assert set(reached.claims) == {"runtime_s", "energy_j"}
    assert reached.quantity == "energy_j"
    assert reached.error == reached.claims["energy_j"].stated > reached.claims["runtime_s"].stated


def test_every_concurrency_is_measured_and_counts() -> None:
    search = Search(Interest.grid(concurrencies=(1, 8)), True)
    seen = searched(search, 26, noise=0.001)
    assert [sum(point.concurrency == c for point in points(seen)) for c in (1, 8)] == [13, 13]
    reached = search.reached(seen)
    assert reached is not None
    assert reached.error < 0.01
    alone = [each for each in seen if each.point.concurrency == 1]
    assert search.reached(alone * 2) is None


def test_points_lie_on_both_sides_of_powers_of_two() -> None:
    assert beside_powers(32) == (1, 2, 4, 8, 9, 16, 17, 32)
    assert beside_powers(1) == (1,)
    assert beside_powers(20) == (1, 2, 4, 8, 9, 16, 17, 20)


def test_long_requests_are_tried_once() -> None:
    visit = Visit()
    assert visit.seconds(np.array([0.1, 2.0, 10.0])) == pytest.approx([3.3, 8.3, 20.2])


def test_drawn_points_of_noisy_machines_have_more_trials() -> None:
    """Their mean is to be right to less than the error asked for; the others tell the fit, however noisy."""

    def trials(noise: float, error: float) -> list[int]:
        search = Search(Interest.grid(), True, error=error)
        seen = searched(search, 16, noise)
        return [search.trials(Point(32, 16), drawn, seen) for drawn in (True, False)]

    assert trials(0.002, 0.02) == [2, 2]
    few, chosen = trials(0.04, 0.02)
    assert 2 < few <= 12
    assert trials(0.04, 0.01)[0] > few
    assert chosen == 2


def test_drawn_points_are_visited_twice_with_time_between() -> None:
    drawn, chosen = Proposal(Point(32, 16), True, 5), Proposal(Point(32, 16), False, 2)
    assert [trials_by_now(drawn, later) for later in (0, VISITED_AGAIN - 1, VISITED_AGAIN)] == [3, 3, 5]
    assert trials_by_now(chosen, 0) == 2
    assert trials_by_now(Proposal(Point(32, 16), True, 1), 0) == 1


def test_simulated_machines_are_seldom_alike_and_their_time_passes() -> None:
    session = Session(MACHINES[1], 1, metered=True)
    m, n = np.array([100, 128, 129]), np.array([1, 1, 1])
    costs = session.true("runtime_s", m, n)
    assert costs[2] / costs[1] > 1.1
    seen = session.measure(Proposal(Point(100, 20), True, 2), Visit())
    assert session.now_s == pytest.approx(seen.spent_s)
    assert seen.trials["runtime_s"][0] == pytest.approx(
        session.true("runtime_s", np.array([100]), np.array([20]))[0], rel=0.05
    )
    assert set(seen.trials) == {"runtime_s", "prefill_s", "decode_s", "energy_j"}
    assert Session(MACHINES[1], 2, metered=True).true("runtime_s", m, n)[0] != costs[0]


def test_two_percent_are_reached_in_time_and_honestly_where_quick_is_further_off() -> None:
    """The benchmark's rows, of few runs."""
    runs = [adaptive.adaptive_run(machine, 7, False, 0.02) for machine in MACHINES[1:3]]
    found = list(adaptive.rows({"both": {0.02: runs, 0.01: [None, None]}}))
    assert [row.machine for row in found] == ["both", adaptive.ALL] * 2
    assert [row.reached for row in found] == [1, 1, 0, 0]
    assert found[0].median_s < 300
    assert found[0].honest == 1
    assert all(run and run.true < run.claimed < 0.02 for run in runs)
    taken_s, error = adaptive.fixed_run(MACHINES[1], 7, False, "quick")
    assert taken_s < 300
    assert runs[0]
    assert error > runs[0].true
