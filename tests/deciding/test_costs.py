"""Costs of a workload on profiles, and draws of their errors."""

import json

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.deciding import costs, threshold, uncertainty
from harness.deciding.workload import Workload, from_pairs
from harness.modelling.profile import Profile

NAMES = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


@pytest.fixture(scope="module")
def profiles() -> list[Profile]:
    return [Profile.load(name) for name in NAMES]


@pytest.fixture(scope="module")
def workload():
    rng = np.random.default_rng(0)
    return from_pairs("w", "test", rng.integers(8, 500, 400), rng.integers(8, 300, 400), rng.integers(1, 50, 400))


def changed(profile: Profile, **fields: object) -> Profile:
    """The profile with its energy's fields, or those of both models, replaced."""
    data = json.loads(profile.dump())
    for name, value in fields.items():
        if name == "misfit":
            for model in (data["runtime"], data["energy"]["model"]):
                model["misfit"] = value
        else:
            data["energy"][name] = value
    return Profile.parse(json.dumps(data))


def test_costs_are_the_profiles_predictions(profiles, workload) -> None:
    table = costs.cost_table(profiles, workload)
    assert table.labels == ("m1-pro", "swing-a100")
    assert table.boundary == "cpu+gpu"
    for s, profile in enumerate(profiles):
        np.testing.assert_array_equal(
            table.energy_j[s], profile.energy_j(workload.input_tokens, workload.output_tokens)
        )
    gpu = costs.cost_table(profiles, workload, "gpu")
    assert (gpu.energy_j < table.energy_j).all()


def test_idle_power_is_subtracted_where_it_is_known(profiles, workload) -> None:
    with pytest.raises(UserError, match="idle power"):
        costs.cost_table(profiles, workload, idle="subtracted")
    known = [changed(p, idle_power_w=w, idle_power_ci95_w=0.1) for p, w in zip(profiles, (2.0, 60.0), strict=True)]
    gross, net = costs.cost_table(known, workload), costs.cost_table(known, workload, idle="subtracted")
    np.testing.assert_allclose(net.energy_j, gross.energy_j - np.array([[2.0], [60.0]]) * gross.runtime_s)


def test_what_is_not_comparable_is_refused_or_marked(profiles, workload) -> None:
    other = Profile.load("swing-a100-mistral-7b")
    with pytest.raises(UserError, match="different models"):
        costs.cost_table([profiles[0], other], workload)
    assert costs.cost_table([profiles[0], other], workload, allow_mixed=True).mixed


def test_requests_outside_the_measured_range_are_counted(profiles) -> None:
    w = from_pairs("w", "test", [20, 20], [32, 4000], [3.0, 1.0])
    warnings = costs.cost_table(profiles, w).warnings
    assert any("25.0 % of the requests" in text and "m1-pro" in text for text in warnings)


def bilinear(profile: Profile) -> Profile:
    """The same profile with made-up models of the published form."""
    data = json.loads(profile.dump())
    for model in (data["runtime"], data["energy"]["model"]):
        unit = model["unit"]
        names = [f"{part}_{unit.lower()}_per_token" for part in ("input", "output", "interaction")]
        names[2] += "2"
        units = [f"{unit}/token", f"{unit}/token", f"{unit}/token²"]
        model["coefficients"] = [
            {"name": name, "value": value, "standard_error": value / 10, "unit": u}
            for name, value, u in zip(names, (0.1, 2.0, 0.003), units, strict=True)
        ]
        model.update(form="bilinear", roofline_exponent=None)
        model["covariance"] = np.diag([0.01**2, 0.2**2, 0.0003**2]).tolist()
    return Profile.parse(json.dumps(data))


@pytest.mark.parametrize("form", ["phase", "bilinear"])
def test_draws_spread_as_the_covariance_says(profiles, workload, form: str) -> None:
    """Without misfit: the covariance of two groups' sums is that of the coefficients, carried by the derivatives."""
    exact = [changed(p if form == "phase" else bilinear(p), misfit=0.0) for p in profiles]
    table = costs.cost_table(exact, workload)
    group = (workload.input_tokens > 100).astype(np.intp)
    drawn = uncertainty.SystemDraws(table, 1, workload, np.random.default_rng(1)).shifts(workload.count, group, 2)
    for shifts, function in zip(drawn, (exact[1].energy_functions()[0], exact[1].runtime_function), strict=True):
        derivatives = function.derivatives(workload.input_tokens, workload.output_tokens)
        by_group = np.stack([derivatives[:, group == g] @ workload.count[group == g] for g in (0, 1)])
        stated = by_group @ function.covariance @ by_group.T
        np.testing.assert_allclose(shifts.std(axis=0), np.sqrt(np.diag(stated)), rtol=0.12)
        correlation = stated[0, 1] / np.sqrt(stated[0, 0] * stated[1, 1])
        assert np.corrcoef(shifts.T)[0, 1] == pytest.approx(correlation, abs=0.1)


def test_components_err_together_as_in_a_prediction() -> None:
    """The spread of a sum of components is the sum of their spreads, here without misfit and for one request."""
    data = json.loads(Profile.load(NAMES[1]).dump())
    data["components"]["gpu"]["model"]["misfit"] = 0.0
    data["components"] = dict.fromkeys(("cpu", "dram", "gpu"), data["components"]["gpu"])
    profile = Profile.parse(json.dumps(data))
    w = from_pairs("w", "test", [64], [32])
    table = costs.cost_table([profile, profile], w, "cpu+gpu")
    one_group = np.zeros(1, dtype=np.intp)
    energy, _ = uncertainty.SystemDraws(table, 0, w, np.random.default_rng(0)).shifts(w.count, one_group, 1)
    assert energy.std() == pytest.approx(profile.predict_energy(64, 32, "cpu+gpu").standard_error, rel=0.12)
    assert energy.std() == pytest.approx(2 * profile.predict_energy(64, 32, "gpu").standard_error, rel=0.12)


def test_an_uncertain_idle_power_widens_net_energy(profiles, workload) -> None:
    """±50 W over the busy time, at 95 %; without a stated interval there is a warning."""
    group = np.zeros(workload.count.size, dtype=np.intp)
    spread = {}
    for ci95 in (0.0, 50.0, None):
        known = [changed(p, idle_power_w=60.0, idle_power_ci95_w=ci95) for p in profiles]
        table = costs.cost_table(known, workload, idle="subtracted")
        draws = uncertainty.SystemDraws(table, 1, workload, np.random.default_rng(0))
        spread[ci95] = draws.shifts(workload.count, group, 1)[0].std()
        assert any("no stated uncertainty" in warning for warning in table.warnings) is (ci95 is None)
    added = 50 / 1.96 * float(table.runtime_s[1] @ workload.count)
    assert spread[50.0] == pytest.approx(np.hypot(spread[0.0], added), rel=0.12)
    assert spread[None] == spread[0.0]


def test_misfit_is_one_error_per_octave(profiles) -> None:
    """Two sizes of one octave err together, two octaves apart; each by the misfit."""
    exact = json.loads(profiles[1].dump())
    for model in (exact["runtime"], exact["energy"]["model"]):
        model["misfit"] = 0.05
        model["covariance"] = (0 * np.array(model["covariance"])).tolist()
    profile = Profile.parse(json.dumps(exact))
    w = from_pairs("w", "test", [33, 60, 300], [40, 40, 40])
    table = costs.cost_table([profiles[0], profile], w)
    energy, _ = uncertainty.SystemDraws(table, 1, w, np.random.default_rng(0)).shifts(w.count, np.arange(3), 3)
    relative = energy / table.energy_j[1]
    assert relative.std(axis=0) == pytest.approx(0.05, rel=0.15)
    correlation = np.corrcoef(relative.T)
    assert correlation[0, 1] == pytest.approx(1)
    assert abs(correlation[0, 2]) < 0.2


def test_draws_of_a_threshold_are_centred_and_repeatable(profiles, workload) -> None:
    table = costs.cost_table(profiles, workload)
    key = workload.input_tokens
    totals = threshold.totals_by_key(key, workload.count, table.energy_j, table.runtime_s)
    coarse, drawn = uncertainty.threshold_draws(table, workload, key, totals, 30)
    error = drawn.energy_j.sum(axis=2).mean(axis=0) / totals.energy_j.sum(axis=1) - 1
    assert np.abs(error).max() < 0.02
    again = uncertainty.threshold_draws(table, workload, key, totals, 30)[1]
    np.testing.assert_array_equal(again.energy_j, drawn.energy_j)
    assert coarse.key.size == totals.key.size


def test_an_assignment_equal_to_its_baseline_saves_exactly_nothing(profiles, workload) -> None:
    """Errors of the same system cancel in the ratio."""
    table = costs.cost_table(profiles, workload)
    requests = np.zeros(table.energy_j.shape)
    requests[1] = workload.count
    drawn = uncertainty.routing_draws(table, workload, requests, 1)
    np.testing.assert_allclose(drawn.energy_j[:, 0], drawn.energy_j[:, 1], rtol=1e-6)


def drawn_half_widths(table: costs.Costs, workload: Workload, plan: np.ndarray) -> tuple[float, float]:
    """Of energy and runtime, by many draws."""
    rng, group = np.random.default_rng(3), np.zeros(workload.count.size, dtype=np.intp)
    draws = [uncertainty.SystemDraws(table, s, workload, rng).shifts(plan[s], group, 1) for s in (0, 1)]
    return tuple(1.96 * float(np.std(sum(parts))) for parts in zip(*draws, strict=True))


@pytest.mark.parametrize("idle", ["included", "subtracted"])
def test_intervals_of_totals_are_those_of_the_draws(profiles, workload, idle: str) -> None:
    known = [changed(p, idle_power_w=60.0, idle_power_ci95_w=5.0) for p in profiles]
    table = costs.cost_table(known, workload, idle=idle)
    plan = np.stack([np.where(workload.input_tokens < 100, workload.count, 0.0), workload.count / 3])
    energy, runtime = uncertainty.half_widths(table, workload, [plan, 2 * plan])
    assert (energy[1], runtime[1]) == (pytest.approx(2 * energy[0]), pytest.approx(2 * runtime[0]))
    totals = np.linalg.norm(energy[0]), np.linalg.norm(runtime[0])
    assert totals == pytest.approx(drawn_half_widths(table, workload, plan), rel=0.12)


def test_intervals_of_several_components_are_no_narrower_than_the_draws(profiles, workload) -> None:
    """Of three components two count: the energy of one errs by its misfit, that of the other by its coefficients."""
    parts = []
    for profile in profiles:
        data = json.loads(profile.dump())
        data["components"]["dram"] = json.loads(json.dumps(data["components"]["cpu"]))
        data["components"]["cpu"]["model"]["misfit"] = 0.0
        data["components"]["gpu"]["model"]["misfit"] = 0.2
        parts.append(Profile.parse(json.dumps(data)))
    table = costs.cost_table(parts, workload, "cpu+gpu")
    assert len(parts[0].energy_functions(table.components)) == 2
    plan = np.stack([workload.count, workload.count])
    energy, _ = uncertainty.half_widths(table, workload, [plan])
    drawn, _ = drawn_half_widths(table, workload, plan)
    assert drawn / 1.1 < np.linalg.norm(energy[0]) < 1.15 * drawn


def test_a_covariance_without_full_rank_has_an_interval(profiles, workload) -> None:
    """Rounding can leave less than nothing of what its coefficients err together."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        data = json.loads(profiles[0].dump())
        model = data["runtime"]
        direction = rng.standard_normal(len(model["coefficients"])) * [c["value"] for c in model["coefficients"]]
        model["covariance"], model["misfit"] = np.outer(direction, direction).tolist(), 0.0
        table = costs.cost_table([Profile.parse(json.dumps(data)), profiles[1]], workload)
        assert np.isfinite(uncertainty.half_widths(table, workload, [np.stack([workload.count] * 2)])).all()
