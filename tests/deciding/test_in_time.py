"""Requests within a latency objective, each counted with its probability, against counting simulated ones."""

import json

import numpy as np
import pytest

from harness.deciding.answers import decide_routing, decide_threshold
from harness.deciding.costs import cost_table
from harness.deciding.in_time import in_time_shares
from harness.deciding.workload import from_pairs
from harness.modelling.profile import Profile
from tests.deciding.doubts import doubting
from tests.helpers import joulebench

PAIR = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


def alone(table, workload, slo_s: float):
    """The share that each system serves in time by itself."""
    plans = [np.outer(np.arange(2) == s, workload.count) for s in (0, 1)]
    return in_time_shares(table, workload, plans, slo_s)


@pytest.mark.parametrize("freedom", [None, 5.0])
@pytest.mark.parametrize("factor", [0.8, 0.95, 1.0, 1.1])
def test_a_request_counts_with_the_probability_that_its_interval_gives(freedom, factor: float) -> None:
    profiles = [doubting(Profile.load(n), session=0.05, scatter=0.08, misfit=0.06, freedom=freedom) for n in PAIR]
    w = from_pairs("one size", "test", [64], [64], [1000.0])
    table = cost_table(profiles, w)
    for s, profile in enumerate(profiles):
        predicted = profile.predict_runtime(64, 64)
        limit_s = factor * float(predicted.value)
        found = alone(table, w, limit_s)[s]
        # A wide interval holds half of the requests where the limit is the mean, and 97.5 % at its upper end.
        if factor == 1.0:
            assert found.value == pytest.approx(0.5, abs=0.001)
        upper = alone(table, w, float(predicted.value + predicted.request_95))[s]
        assert upper.value == pytest.approx(0.975, abs=0.001)
        lower = alone(table, w, float(predicted.value - predicted.request_95))[s]
        assert lower.value == pytest.approx(0.025, abs=0.001)
        assert found.low <= found.value <= found.high


def test_the_interval_of_the_share_holds_that_of_other_days() -> None:
    """A session of 4 % and a scatter of 2 %, known exactly: 95 % of simulated days lie inside."""
    rng = np.random.default_rng(0)
    w = from_pairs("many", "test", rng.integers(20, 200, 2000), rng.integers(20, 200, 2000))
    profiles = [doubting(Profile.load(n), session=0.04, scatter=0.02) for n in PAIR]
    table = cost_table(profiles, w)
    slo_s = float(np.median(table.runtime_s[1]))
    found = alone(table, w, slo_s)[1]
    days = 1 + 0.04 * rng.standard_normal((1000, 1))
    runtime_s = table.runtime_s[1] * (days + 0.02 * rng.standard_normal((1000, w.count.size)))
    shares = (runtime_s <= slo_s) @ w.count / w.requests
    inside = np.mean((shares >= found.low) & (shares <= found.high))
    assert 0.93 < inside < 0.985
    assert found.high - found.low < 1.3 * np.ptp(np.percentile(shares, [2.5, 97.5]))
    assert found.value == pytest.approx(shares.mean(), abs=0.01)


def test_without_doubt_a_request_keeps_its_limit_or_does_not() -> None:
    profiles = [doubting(Profile.load(n)) for n in PAIR]
    w = from_pairs("two sizes", "test", [20, 200], [20, 200], [3e6, 1e6])
    table = cost_table(profiles, w)
    found = alone(table, w, float(table.runtime_s[1].mean()))[1]
    assert found.value == 0.75
    assert found.high - found.low < 0.01


def test_plans_say_what_they_serve_in_time() -> None:
    rng = np.random.default_rng(1)
    w = from_pairs("many", "test", rng.integers(20, 300, 500), rng.integers(8, 100, 500))
    routed = decide_routing([*PAIR], w, slo_s=5.0).decision
    limited = decide_threshold(*PAIR, w, slo_s=5.0).decision
    for decision in (routed, limited):
        for plan in (decision.plan, *decision.baselines.values()):
            assert plan.in_time is not None
            assert 0 <= plan.in_time.low <= plan.in_time.value <= plan.in_time.high <= 1
        by_name = decision.baselines
        assert by_name["swing-a100"].in_time.value > by_name["random"].in_time.value > by_name["m1-pro"].in_time.value
    assert limited.threshold == decide_threshold(*PAIR, w).decision.threshold, "the limit doesn't move it"
    assert decide_threshold(*PAIR, w).decision.plan.in_time is None


@pytest.mark.parametrize("command", ["threshold", "route"])
def test_the_share_in_time_is_said(command: str) -> None:
    lines = joulebench(command, *PAIR, "--slo", 5).stdout.splitlines()
    (said,) = [line for line in lines if line.startswith("Within 5 s: ")]
    facts = json.loads(joulebench(command, *PAIR, "--slo", 5, "--json").stdout)
    share = facts.get("best", facts.get("plan"))["in_time"]
    assert said.startswith(f"Within 5 s: {100 * share['value']:.1f} % (")
    assert facts["slo_s"] == 5
    assert any("in time" in line and "energy kWh" in line for line in lines)
