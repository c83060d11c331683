"""Decisions on systems with several requests in flight: each takes R, and a c-th of the machine's time."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.deciding.answers import decide_routing, decide_threshold
from harness.deciding.costs import cost_table
from harness.deciding.decision import make_scales
from harness.deciding.draws import half_widths
from harness.deciding.exported_rule import save_rule
from harness.deciding.workload import Workload, from_pairs
from harness.modelling.profile import Profile
from tests.deciding.doubts import doubting

NAMES = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")
IDLE_W = 40.0


def loaded(name: str, concurrency: int) -> Profile:
    """A shipped profile as if it had been measured with so many requests in flight, with an idle power."""
    content = json.loads(Profile.load(name).dump())
    content["identity"]["concurrency"] = concurrency
    content["components"] = {}
    content["energy"] |= {"idle_power_w": IDLE_W, "idle_power_ci95_w": 2.0}
    return Profile.parse(json.dumps(content))


@pytest.fixture(scope="module")
def workload() -> Workload:
    return from_pairs("w", "test", [8, 32, 128, 256], [8, 32, 64, 16], [40.0, 30.0, 20.0, 10.0])


@pytest.fixture(scope="module")
def pair() -> list[Profile]:
    """The small system alone with each request, the large one with 8."""
    return [loaded(NAMES[0], 1), loaded(NAMES[1], 8)]


def test_idle_power_is_shared_by_the_requests_in_flight(pair: list[Profile], workload: Workload) -> None:
    gross, net = (cost_table(pair, workload, idle=idle) for idle in ("included", "subtracted"))
    for system, shared in enumerate((1, 8)):
        idle_j = IDLE_W * gross.runtime_s[system] / shared
        assert net.energy_j[system] == pytest.approx(gross.energy_j[system] - idle_j)
        assert net.energy_j[system] == pytest.approx(
            pair[system].net_energy_j(workload.input_tokens, workload.output_tokens)
        )
    said = "energy and runtime are those of a request at different loads (1 in flight: m1-pro-llama-2-7b, 8 in flight: "
    assert any(warning.startswith(said) for warning in gross.warnings)


def test_the_error_of_the_idle_power_is_shared_too(pair: list[Profile], workload: Workload) -> None:
    everything = [np.outer([0, 1], workload.count)]
    variance = {}
    for ci95_w in (0.0, 2.0):
        unsure = doubting(pair[1], idle_power_ci95_w=ci95_w)
        costs = cost_table([pair[0], unsure], workload, idle="subtracted")
        variance[ci95_w] = half_widths(costs, workload, everything).energy_by_system_j[0, 1] ** 2
        assert costs.subtracted(1).sd_w == pytest.approx(ci95_w / 1.959964 / 8, rel=1e-4)
    busy_s = float(costs.runtime_s[1] @ workload.count) / 8
    assert np.sqrt(variance[2.0] - variance[0.0]) == pytest.approx(2.0 * busy_s, rel=1e-3)


def test_a_machine_is_busy_for_a_share_of_its_requests_runtimes(pair: list[Profile], workload: Workload) -> None:
    decision = decide_threshold(*pair, workload).decision
    large = decision.baselines["swing-a100"]
    runtime_s = float(pair[1].runtime_s(workload.input_tokens, workload.output_tokens) @ workload.count)
    assert large.runtime_s == pytest.approx(runtime_s)
    assert large.marginal_energy_j == pytest.approx(large.energy_j - IDLE_W * runtime_s / 8)
    assert large.fleet_energy_j == pytest.approx(large.marginal_energy_j + IDLE_W * large.horizon_s)
    only = [loaded(NAMES[1], 8), loaded(NAMES[1], 8).model_copy(update={"name": "other"})]
    with pytest.raises(UserError, match=rf"is busy for {runtime_s / 8:,.0f} s when it serves 8 requests at a time"):
        decide_threshold(*only, workload, horizon_s=0.999 * runtime_s / 8)


def test_a_capacity_holds_as_many_requests_as_share_its_seconds(
    pair: list[Profile], workload: Workload, tmp_path: Path
) -> None:
    """The same seconds on the same system hold four times the requests at four times the load."""
    small = loaded(NAMES[0], 1)
    served = []
    for concurrency, busy_s in ((8, 10.0), (2, 40.0)):
        large = loaded(NAMES[1], concurrency)
        answer = decide_routing([small, large], workload, capacities={large.name: busy_s})
        served.append(answer.decision.requests)
        assert (answer.decision.requests[1] @ answer.costs.runtime_s[1]) / concurrency <= busy_s + 1e-6
        assert answer.decision.assignment is not None
        (price,) = answer.decision.assignment.prices
        save_rule(answer, tmp_path / "rule.json")
        (written,) = json.loads((tmp_path / "rule.json").read_text())["prices"]
        # For schedulers a price is of a second of a request's runtime.
        assert written["price"] == pytest.approx(price / concurrency)
    np.testing.assert_allclose(served[0], served[1])
    assert 0 < served[0][1].sum() < workload.requests


def test_a_latency_limit_is_on_the_whole_runtime(pair: list[Profile], workload: Workload) -> None:
    longest_s = float(pair[1].runtime_s(workload.input_tokens, workload.output_tokens).max())
    within = decide_routing(pair, workload, slo_s=0.5 * longest_s).decision
    runtimes_s = cost_table(pair, workload).runtime_s
    assert not within.requests[runtimes_s > 0.5 * longest_s].any()


def test_an_hour_of_a_machine_is_paid_by_all_requests_in_flight(pair: list[Profile], workload: Workload) -> None:
    alike = cost_table([loaded(name, 8) for name in NAMES], workload)
    scales = make_scales("price", None, alike, workload, 0, (0.3, 3.6))
    assert scales.cost(alike.energy_j, alike.runtime_s) == pytest.approx(
        0.3 * alike.energy_j / 3.6e6 + 3.6 * alike.runtime_s / 8 / 3600
    )
    mixed = cost_table(pair, workload)
    assert make_scales("price", None, mixed, workload, 0, (0.3, 0.0)).runtime_weight == 0
    with pytest.raises(UserError, match=r"requests in flight \(m1-pro: 1, swing-a100: 8\): leave out --price-per-hour"):
        make_scales("price", None, mixed, workload, 0, (0.3, 3.6))
