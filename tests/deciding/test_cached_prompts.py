"""Decisions about requests of whose prompts a prefix cache holds a part."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.deciding import workload as workloads
from harness.deciding.answers import decide_routing, decide_threshold
from harness.deciding.arrivals import read_requests
from harness.deciding.costs import cost_table, expected_by_input, typical_cached
from harness.deciding.decision import make_scales
from harness.deciding.draws import half_widths
from harness.deciding.exported_rule import save_rule
from harness.deciding.followed_rule import read_rule
from harness.deciding.rates.answers import arriving, arriving_as_logged
from harness.deciding.rates.thresholds import decide_threshold_at_rate
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import Workload, from_pairs, whole_prompts, with_output_tokens
from harness.modelling.profile import Profile
from tests.deciding.rated import loaded_system
from tests.helpers import ROOT, joulebench

SHARED = ROOT.parent / "shared" / "inputs"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A slow thrifty system and a fast hungry one, each with a KV cache."""
    folder = tmp_path_factory.mktemp("profiles")
    paths = []
    for profile in (loaded_system("small", 4.0, 0.7, 5.0), loaded_system("large", 1.0, 1.0, 40.0)):
        profile.save(folder / f"{profile.name}.json")
        paths.append(folder / f"{profile.name}.json")
    return paths


@pytest.fixture(scope="module")
def profiles(pair: list[Path]) -> list[Profile]:
    return [Profile.load(path) for path in pair]


@pytest.fixture(scope="module")
def cached() -> Workload:
    rng = np.random.default_rng(5)
    m, n = rng.integers(8, 130, 3000), rng.integers(8, 100, 3000)
    return from_pairs(
        "cached", "test", m, n, cached_tokens=(m * rng.random(3000) * (rng.random(3000) < 0.7)).astype(int)
    )


def test_sizes_are_told_apart_by_what_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    m, n, k = [10, 10, 10, 9, 10], [5, 5, 5, 5, 6], [3, 0, 3, 9, 2]
    found = from_pairs("w", "test", m, n, cached_tokens=k)
    assert found.cached_tokens is not None
    assert found.cached_tokens.tolist() == [9, 0, 3, 2]
    assert (found.count.tolist(), found.input_tokens.tolist()) == ([1, 1, 2, 1], [9, 10, 10, 10])
    # One token of a prompt is computed at least.
    assert found.not_computed is not None
    assert found.not_computed.tolist() == [8, 0, 3, 2]
    assert found.cached_share == pytest.approx(17 / 49)
    assert with_output_tokens(found, 7).count.tolist() == [1, 1, 1, 2]
    assert found.positions(np.array([10, 9]), np.array([5, 5]), np.array([3, 8])).tolist() == [2, 0]
    monkeypatch.setattr(workloads, "MOST_SIZES", 3)
    coarse = from_pairs("w", "test", m, n, cached_tokens=k)
    assert coarse.cached_tokens is not None
    assert coarse.cached_tokens.tolist() == [9, 2, 2]
    assert coarse.notes == ("more than 3 sizes: requests alike in input and output have their mean cached tokens",)
    # The longest requests with the most cached need more than 64 bits in one number.
    long = from_pairs("w", "test", [15_000_000] * 2, [5_000_000] * 2, cached_tokens=[14_999_999, 0])
    assert (long.input_tokens.tolist(), long.count.size) == ([15_000_000] * 2, 2)


def test_a_log_without_anything_cached_is_as_it_was(cached: Workload) -> None:
    none = from_pairs("w", "test", cached.input_tokens, cached.output_tokens, cached.count, np.zeros(cached.count.size))
    whole = whole_prompts(cached)
    for name in ("input_tokens", "output_tokens", "count"):
        np.testing.assert_array_equal(getattr(none, name), getattr(whole, name))
    assert none.not_computed is None
    assert whole.cached_left_out == pytest.approx(cached.cached_share)


def test_what_is_computed_is_priced(profiles: list[Profile], cached: Workload) -> None:
    costs = cost_table(profiles, cached)
    m, n, k = cached.sizes()
    assert k is not None
    for s, profile in enumerate(profiles):
        np.testing.assert_allclose(costs.energy_j[s], profile.energy_j(m, n, cached=k))
        np.testing.assert_allclose(costs.runtime_s[s], profile.runtime_s(m, n, cached=k))
    assert costs.whole_prompts is not None
    np.testing.assert_array_equal(costs.whole_prompts[0], costs.at(m, n)[0])
    assert cost_table(profiles, whole_prompts(cached)).whole_prompts is None


def test_intervals_of_plans_are_those_of_their_requests(profiles: list[Profile]) -> None:
    """Of one size the half-width is that of the prediction, cached or not."""
    for k in (0, 100):
        w = from_pairs("w", "test", [128], [8], [1e6], [k])
        costs = cost_table(profiles, w)
        widths = half_widths(costs, w, [np.outer([0, 1], w.count)])
        predicted = profiles[1].predict_energy(128, 8, cached=k)
        assert widths.energy_j[0] / 1e6 == pytest.approx(float(predicted.mean_95), rel=0.02)


def test_a_threshold_says_what_prefix_caching_changes(pair: list[Path], cached: Workload, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    workloads.save(cached, path)
    answer = decide_threshold(*pair, path)
    done = joulebench("threshold", *pair, "-w", path, "--json", "--export", tmp_path / "rule.json")
    caching = json.loads(done.stdout)["prefix_caching"]
    whole = decide_threshold(*pair, whole_prompts(cached))
    assert caching["cached_share"] == pytest.approx(cached.cached_share)
    assert caching["energy_j"] == pytest.approx(answer.decision.plan.energy_j)
    assert caching["threshold_without"] == whole.decision.threshold
    same = (cached.input_tokens > answer.decision.threshold).astype(int)
    energy_j, _ = answer.costs.at(cached.input_tokens, cached.output_tokens)
    without = float(cached.count @ np.take_along_axis(energy_j, same[None], axis=0)[0])
    assert caching["energy_without_j"] == pytest.approx(without)
    assert caching["energy_without_j"] > caching["energy_j"]
    assert caching["energy_without_ci95_j"] > 0
    rule = read_rule(tmp_path / "rule.json")
    assert rule.workload.mean_cached_tokens == pytest.approx(np.average(cached.not_computed, weights=cached.count))
    said = joulebench("threshold", *pair, "-w", path).stdout
    assert "of the input tokens were cached and cost nothing; the same plan needs" in said
    ignored = joulebench(
        "threshold", *pair, "-w", path, "--ignore-cache", "--json", "--export", tmp_path / "whole.json"
    )
    facts = json.loads(ignored.stdout)
    assert facts["prefix_caching"] is None
    assert facts["best"]["energy_j"] == pytest.approx(whole.decision.plan.energy_j)
    assert any("costs are of whole prompts, as --ignore-cache asks" in warning for warning in facts["warnings"])
    assert "mean_cached_tokens" not in json.loads((tmp_path / "whole.json").read_text())["workload"]


def test_routes_price_what_is_computed(pair: list[Path], cached: Workload, tmp_path: Path) -> None:
    answer = decide_routing(pair, cached, weight=0.5)
    costs = answer.costs
    cost = answer.decision.scales.cost(costs.energy_j, costs.runtime_s)
    np.testing.assert_array_equal(answer.decision.requests.argmax(axis=0), cost.argmin(axis=0))
    save_rule(answer, tmp_path / "rule.json")
    rule = json.loads((tmp_path / "rule.json").read_text())
    assert rule["agreement"]["requests"] > 0.8
    assert rule["workload"]["mean_cached_tokens"] > 0
    typical = typical_cached(cached, np.array([1, 100, 10_000]))
    assert typical is not None
    assert typical[0] == 0
    assert typical[1:] == pytest.approx(cached.cached_share * np.array([100, 10_000]), rel=0.2)


def test_unknown_outputs_expect_what_is_cached_of_prompts_as_long(profiles: list[Profile]) -> None:
    """One length, two shares: the expectation is the mean of the requests' own costs."""
    w = from_pairs("w", "test", [128] * 4, [8, 8, 64, 64], [300.0] * 4, [0, 96, 0, 96])
    costs = cost_table(profiles, w)
    scales = make_scales("reference", None, costs, w, 1)
    expected = expected_by_input(costs, scales, w, w.count)
    mean = scales.cost(costs.energy_j, costs.runtime_s) @ w.count / w.requests
    assert expected[:, 0] == pytest.approx(mean, rel=1e-6)


def test_systems_without_a_kv_cache_compute_whole_prompts() -> None:
    names = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
    w = from_pairs("w", "test", [100, 200], [10, 10], cached_tokens=[50, 0])
    costs = cost_table([Profile.load(name) for name in names], w)
    assert costs.whole_prompts is None
    np.testing.assert_array_equal(costs.energy_j, cost_table(costs.profiles, whole_prompts(w)).energy_j)
    assert any("had no KV cache: there costs are of whole prompts" in warning for warning in costs.warnings)


def test_at_a_rate_only_what_is_computed_is_served(profiles: list[Profile], cached: Workload) -> None:
    both = cached, whole_prompts(cached)
    with_cache, without = (decide_threshold_at_rate(*profiles, *arriving(w, 2.0)).plans.plan for w in both)
    assert with_cache is not None
    assert without is not None
    assert with_cache.energy_j < without.energy_j
    assert with_cache.e2e_s < without.e2e_s


def test_answers_at_a_rate_say_what_prefix_caching_changes(pair: list[Path], tmp_path: Path) -> None:
    w = from_pairs("w", "test", [40, 80, 80, 120], [20, 9, 9, 60], [30.0, 20.0, 20.0, 10.0], [0, 70, 20, 100])
    workloads.save(w, tmp_path / "w.json")
    asked = (*pair, "-w", tmp_path / "w.json", "--rate", "2/s", "--export", tmp_path / "rule.json")
    done = joulebench("threshold", *asked)
    assert done.returncode == 0, done.stderr
    assert "of the input tokens were cached and cost nothing; without it the same plan would need" in done.stdout
    assert json.loads((tmp_path / "rule.json").read_text())["workload"]["mean_cached_tokens"] > 0
    facts, whole = (
        json.loads(joulebench("threshold", *asked, *more, "--json").stdout) for more in ([], ["--ignore-cache"])
    )
    assert whole["prefix_caching"] is None
    share = whole["plan"]["energy_request_j"] / facts["plan"]["energy_request_j"]
    assert facts["prefix_caching"]["energy_share_without"] == pytest.approx(share, rel=0.05)
    assert share > 1
    routed = json.loads(joulebench("route", *asked, "--json").stdout)
    assert routed["prefix_caching"]["energy_share_without"] > 1
    assert json.loads((tmp_path / "rule.json").read_text())["rule"] == "least_cost"


MOONCAKE = "".join(
    json.dumps({"timestamp": 1000 * i, "input_length": m, "output_length": 20, "hash_ids": ids}) + "\n"
    for i, (m, ids) in enumerate([(1024, [1, 2]), (1536, [1, 2, 3]), (1100, [1, 2, 4]), (512, [9])])
)


def test_traces_with_blocks_are_priced_by_them(pair: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE)
    w = load_workload(path)
    assert w.form == "mooncake"
    assert dict(zip(w.input_tokens.tolist(), w.not_computed.tolist(), strict=True)) == {
        512: 0, 1024: 0, 1100: 1024, 1536: 1024,
    }  # fmt: skip
    log = read_requests(path)
    assert log.cached_tokens is not None
    assert log.cached_tokens.tolist() == [0, 1024, 1024, 0]
    arrived, how = arriving_as_logged(path)
    assert arrived.not_computed is not None
    assert how.log is not None
    assert arriving_as_logged(path, ignore_cache=True)[0].not_computed is None
    done = joulebench("threshold", *pair, "-w", path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prefix_caching"]["cached_share"] == pytest.approx(2048 / 4172)
    simulated = [joulebench("simulate", pair[1], "-w", path, *more, "--json") for more in ([], ["--ignore-cache"])]
    assert [each.returncode for each in simulated] == [0, 0], simulated[0].stderr


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared examples lie beside the checkout")
def test_usage_with_cache_columns_is_priced_by_what_it_computed(pair: list[Path]) -> None:
    answer = decide_threshold(*pair, SHARED / "anthropic_cache.csv")
    sizes = zip(*(axis.tolist() for axis in answer.workload.sizes() if axis is not None), strict=True)
    assert sorted(sizes) == [(2104, 300, 0), (2186, 280, 2140), (2244, 310, 2186)]


def test_models_that_know_no_prefill_refuse(profiles: list[Profile], cached: Workload) -> None:
    facts = json.loads(profiles[1].dump())
    model = json.loads(Profile.load("m1-pro-llama-2-7b").dump())["runtime"]
    names = [
        ("input_s_per_token", "s/token"),
        ("output_s_per_token", "s/token"),
        ("interaction_s_per_token2", "s/token²"),
    ]
    coefficients = [{"name": name, "value": 1e-3, "standard_error": 0.0, "unit": unit} for name, unit in names]
    covariance = [[0.0] * 3] * 3
    other = {"form": "bilinear", "roofline_exponent": None, "coefficients": coefficients, "covariance": covariance}
    facts |= {"runtime": {**model, **other, "kv_cache": True}, "under_load": None, "name": "bilinear"}
    with pytest.raises(UserError, match="the bilinear form doesn't tell what prefill costs"):
        cost_table([profiles[0], Profile.parse(json.dumps(facts))], cached)
