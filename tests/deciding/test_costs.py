"""Costs of a workload on profiles, and draws of their errors."""

import json

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.deciding import costs, draws, threshold
from harness.deciding.errors import GroupSums, PlanSums, SystemErrors
from harness.deciding.workload import Workload, from_pairs
from harness.modelling.cost_function import Z95
from harness.modelling.profile import Profile
from tests.deciding.doubts import METER, doubting, models_of

NAMES = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


@pytest.fixture(scope="module")
def profiles() -> list[Profile]:
    return [Profile.load(name) for name in NAMES]


@pytest.fixture(scope="module")
def workload():
    rng = np.random.default_rng(0)
    return from_pairs("w", "test", rng.integers(8, 500, 400), rng.integers(8, 300, 400), rng.integers(1, 50, 400))


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
    known = [doubting(p, idle_power_w=w, idle_power_ci95_w=0.1) for p, w in zip(profiles, (2.0, 60.0), strict=True)]
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
    for model in models_of(data):
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


def shifts(table: costs.Costs, system: int, workload: Workload, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drawn errors of one system's energy and runtime in sums by group, shape (draws, groups)."""
    rng = np.random.default_rng(system)
    drawn = draws.SystemDraws(SystemErrors(table, system, workload), rng.standard_normal(draws.DRAWS), rng)
    return drawn.shifts(GroupSums(workload.count, group, int(group.max()) + 1))


@pytest.mark.parametrize("form", ["phase", "bilinear"])
def test_draws_spread_as_the_covariance_says(profiles, workload, form: str) -> None:
    """With trials alone: the covariance of two groups' sums is that of the coefficients, carried by the derivatives."""
    exact = [doubting(p if form == "phase" else bilinear(p), trials=True) for p in profiles]
    table = costs.cost_table(exact, workload)
    group = (workload.input_tokens > 100).astype(np.intp)
    drawn = shifts(table, 1, workload, group)
    parts = SystemErrors(table, 1, workload).parts(GroupSums(workload.count, group, 2))
    functions = exact[1].energy_functions()[0], exact[1].runtime_function
    for found, by_source, function in zip(drawn, (parts.energy, parts.runtime), functions, strict=True):
        derivatives = function.derivatives(workload.input_tokens, workload.output_tokens)
        by_group = np.stack([derivatives[:, group == g] @ workload.count[group == g] for g in (0, 1)])
        stated = by_group @ function.covariance @ by_group.T
        deviations = by_source["trials"].deviations
        np.testing.assert_allclose(deviations.T @ deviations, stated, rtol=1e-3)
        np.testing.assert_allclose(found.std(axis=0), np.sqrt(np.diag(stated)), rtol=0.12)


def test_components_err_together_as_in_a_prediction() -> None:
    """The spread of a sum of components is the sum of their spreads, here by trials and for one request."""
    facts = json.loads(doubting(Profile.load(NAMES[1]), trials=True).dump())
    facts["components"] = dict.fromkeys(("cpu", "dram", "gpu"), facts["components"]["gpu"])
    profile = Profile.parse(json.dumps(facts))
    w = from_pairs("w", "test", [64], [32])
    table = costs.cost_table([profile, profile], w, "cpu+gpu")
    energy, _ = shifts(table, 0, w, np.zeros(1, dtype=np.intp))
    assert energy.std() == pytest.approx(float(profile.predict_energy(64, 32, "cpu+gpu").sd["trials"]), rel=0.12)
    assert energy.std() == pytest.approx(2 * float(profile.predict_energy(64, 32, "gpu").sd["trials"]), rel=0.12)


def test_an_uncertain_idle_power_widens_net_energy(profiles, workload) -> None:
    """±50 W over the busy time, at 95 %; without a stated interval there is a warning."""
    group = np.zeros(workload.count.size, dtype=np.intp)
    spread = {}
    for ci95 in (0.0, 50.0, None):
        known = [doubting(p, trials=True, idle_power_w=60.0, idle_power_ci95_w=ci95) for p in profiles]
        table = costs.cost_table(known, workload, idle="subtracted")
        spread[ci95] = shifts(table, 1, workload, group)[0].std()
        assert any("no stated uncertainty" in warning for warning in table.warnings) is (ci95 is None)
    added = 50 / 1.96 * float(table.runtime_s[1] @ workload.count)
    assert spread[50.0] == pytest.approx(np.hypot(spread[0.0], added), rel=0.12)
    assert spread[None] == spread[0.0]


def test_the_gain_of_the_meters_is_on_the_energy_above_idle(profiles, workload) -> None:
    """It scales what was read, busy and idle alike."""
    known = [doubting(p, gain=0.075, idle_power_w=60.0, idle_power_ci95_w=0.0) for p in profiles]
    table = costs.cost_table(known, workload, idle="subtracted")
    energy, runtime = shifts(table, 1, workload, np.zeros(workload.count.size, dtype=np.intp))
    assert energy.std() == pytest.approx(0.075 / Z95 * float(table.energy_j[1] @ workload.count), rel=0.12)
    assert not runtime.any()


def test_misfit_is_one_error_per_octave(profiles) -> None:
    """Two sizes of one octave err together, two octaves apart; each by the misfit."""
    profile = doubting(profiles[1], misfit=0.05)
    w = from_pairs("w", "test", [33, 60, 300], [40, 40, 40])
    table = costs.cost_table([profiles[0], profile], w)
    energy, _ = shifts(table, 1, w, np.arange(3))
    relative = energy / table.energy_j[1]
    assert relative.std(axis=0) == pytest.approx(0.05, rel=0.15)
    correlation = np.corrcoef(relative.T)
    assert correlation[0, 1] == pytest.approx(1)
    assert abs(correlation[0, 2]) < 0.2


@pytest.mark.parametrize(
    ("doubts", "source"),
    [
        ({"misfit": 0.05, "growth": 0.7}, "model"),
        ({"session": 0.03}, "sessions"),
        ({"gain": 0.075}, "meter"),
        ({"scatter": 0.1}, "scatter"),
    ],
)
def test_each_source_of_doubt_is_that_of_a_prediction(profiles, doubts: dict[str, float], source: str) -> None:
    """At sizes measured, between them and outside, one request each; runtime has no meter."""
    profile = doubting(profiles[1], **doubts)
    m, n = np.array([40, 300, 300, 9000]), np.array([32, 32, 700, 100])
    w = from_pairs("w", "test", m, n)
    table = costs.cost_table([profiles[0], profile], w)
    predictions = profile.predict_energy(m, n), profile.predict_runtime(m, n)
    for found, predicted in zip(shifts(table, 1, w, np.arange(4)), predictions, strict=True):
        assert found.std(axis=0) == pytest.approx(predicted.sd[source], rel=0.15)
        if found.any():
            alike = np.corrcoef(found.T)[0, 1:]
            assert bool((alike > 0.999).all()) is (source in ("sessions", "meter"))


def test_a_scale_known_to_few_degrees_of_freedom_has_long_tails(profiles) -> None:
    """95 % of the draws lie within Student's interval; far ones are common."""
    w = from_pairs("w", "test", [40], [32])
    table = costs.cost_table([profiles[0], doubting(profiles[1], session=0.03, freedom=3)], w)
    _, runtime = shifts(table, 1, w, np.zeros(1, dtype=np.intp))
    relative = np.abs(runtime / table.runtime_s[1])
    assert np.mean(relative < 0.03 * 3.182) == pytest.approx(0.95, abs=0.03)
    assert np.mean(relative > 0.03 * 1.96) > 0.1


def test_a_gain_cancels_where_both_systems_share_a_meter(profiles, workload) -> None:
    """A plan's total isn't surer for it, its saving is."""
    saving, total = {}, {}
    for meters in ((), (METER,)):
        both = [doubting(p, gain=0.075, meters=meters) for p in profiles]
        table = costs.cost_table(both, workload)
        assert table.meter_of == ((0, 0) if meters else (0, 1))
        plan = np.stack([np.where(workload.input_tokens < 100, workload.count, 0.0)] * 2)
        plan[1] = workload.count - plan[0]
        drawn = draws.routing_draws(table, workload, plan, 1)
        ratio = drawn.energy_j[:, 0, 0] / drawn.energy_j[:, 1, 0]
        saving[meters] = ratio.std()
        total[meters] = draws.half_widths(table, workload, [plan]).energy_j[0] / float((plan * table.energy_j).sum())
    share = float(plan[0] @ table.energy_j[0] / (plan * table.energy_j).sum())
    assert total[(METER,)] == pytest.approx(0.075)
    assert total[()] == pytest.approx(0.075 * np.hypot(share, 1 - share))
    assert saving[()] > 2 * saving[(METER,)]


def test_what_is_too_far_is_so_of_a_prediction(profiles) -> None:
    """Widened ranges tell millions of sizes what their distances would."""
    rng = np.random.default_rng(0)
    m, n = np.exp2(rng.uniform(0, 16, (2, 5000))).astype(int)
    w = from_pairs("w", "test", m, n)
    table = costs.cost_table(profiles, w)
    predictions = [
        each(w.input_tokens, w.output_tokens) for p in profiles for each in (p.predict_runtime, p.predict_energy)
    ]
    far = np.logical_or.reduce([predicted.too_far for predicted in predictions])
    assert 0.1 < far.mean() < 0.9
    np.testing.assert_array_equal(table.too_far, far)


def test_draws_of_a_threshold_are_centred_and_repeatable(profiles, workload) -> None:
    table = costs.cost_table(profiles, workload)
    key = workload.input_tokens
    totals = threshold.totals_by_key(key, workload.count, table.energy_j, table.runtime_s)
    coarse, drawn = draws.threshold_draws(table, workload, key, totals, 30)
    error = drawn.energy_j.sum(axis=2).mean(axis=0) / totals.energy_j.sum(axis=1) - 1
    assert np.abs(error).max() < 0.02
    again = draws.threshold_draws(table, workload, key, totals, 30)[1]
    np.testing.assert_array_equal(again.energy_j, drawn.energy_j)
    assert coarse.key.size == totals.key.size


def test_an_assignment_equal_to_its_baseline_saves_exactly_nothing(profiles, workload) -> None:
    """Errors of the same system cancel in the ratio."""
    table = costs.cost_table(profiles, workload)
    requests = np.zeros(table.energy_j.shape)
    requests[1] = workload.count
    drawn = draws.routing_draws(table, workload, requests, 1)
    np.testing.assert_allclose(drawn.energy_j[:, 0], drawn.energy_j[:, 1], rtol=1e-6)


def drawn_half_widths(table: costs.Costs, workload: Workload, plan: np.ndarray) -> tuple[float, float]:
    """Of energy and runtime, by many draws: what 95 % of them keep within."""
    totals = [np.zeros(10 * draws.DRAWS), np.zeros(10 * draws.DRAWS)]
    rng = np.random.default_rng(3)
    for i in range(10):
        at = slice(i * draws.DRAWS, (i + 1) * draws.DRAWS)
        for s, drawn in enumerate(draws.all_draws(table, workload, rng)):
            for total, shift in zip(totals, drawn.shifts(PlanSums([plan[s]])), strict=True):
                total[at] += shift[:, 0]
    return tuple(float(np.percentile(np.abs(total), 95)) for total in totals)


@pytest.mark.parametrize("idle", ["included", "subtracted"])
@pytest.mark.parametrize("meters", [(), (METER,)])
@pytest.mark.parametrize("freedom", [None, 6.0])
def test_intervals_of_totals_are_those_of_the_draws(profiles, workload, idle: str, meters, freedom) -> None:
    """Every source at once."""
    doubts = {"misfit": 0.1, "growth": 0.5, "session": 0.04, "gain": 0.06, "scatter": 0.1, "trials": True}
    known = [
        doubting(p, **doubts, freedom=freedom, meters=meters, idle_power_w=60.0, idle_power_ci95_w=5.0)
        for p in profiles
    ]
    table = costs.cost_table(known, workload, idle=idle)
    plan = np.stack([np.where(workload.input_tokens < 100, workload.count, 0.0), workload.count / 3])
    found = draws.half_widths(table, workload, [plan, plan])
    assert found.energy_j[0] == found.energy_j[1]
    if not meters and freedom is None:
        assert found.energy_j[0] == pytest.approx(np.linalg.norm(found.energy_by_system_j[0]), rel=0.02)
    totals = found.energy_j[0], found.runtime_s[0]
    # The degrees of freedom of a sum are an approximation.
    assert totals == pytest.approx(drawn_half_widths(table, workload, plan), rel=0.06 if freedom is None else 0.12)


def test_the_scatter_of_requests_fades_among_many(profiles) -> None:
    """Of 1 and of 10,000 requests of one size: a hundredth, relative to the total."""
    relative = []
    for requests in (1.0, 10_000.0):
        w = from_pairs("w", "test", [40], [32], [requests])
        table = costs.cost_table([doubting(p, scatter=0.2) for p in profiles], w)
        found = draws.half_widths(table, w, [np.stack([w.count, 0 * w.count])])
        relative.append(found.runtime_s[0] / float(table.runtime_s[0] @ w.count))
    assert relative == pytest.approx([0.2 * Z95, 0.002 * Z95], rel=1e-6)


def test_intervals_of_several_components_are_no_narrower_than_the_draws(profiles, workload) -> None:
    """Of three components two count: the energy of one errs by its misfit, that of the other by its coefficients."""
    parts = []
    for profile in profiles:
        facts = json.loads(doubting(profile, trials=True).dump())
        facts["components"]["dram"] = json.loads(json.dumps(facts["components"]["cpu"]))
        facts["components"]["gpu"]["model"]["misfit"]["sd"] = 0.2
        parts.append(Profile.parse(json.dumps(facts)))
    table = costs.cost_table(parts, workload, "cpu+gpu")
    assert len(parts[0].energy_functions(table.components)) == 2
    plan = np.stack([workload.count, workload.count])
    found = draws.half_widths(table, workload, [plan])
    drawn, _ = drawn_half_widths(table, workload, plan)
    assert found.energy_j[0] == pytest.approx(drawn, rel=0.1)


def test_a_covariance_without_full_rank_has_an_interval(profiles, workload) -> None:
    """Rounding can leave less than nothing of what its coefficients err together."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        facts = json.loads(doubting(profiles[0]).dump())
        model = facts["runtime"]
        direction = rng.standard_normal(len(model["coefficients"])) * [c["value"] for c in model["coefficients"]]
        model["covariance"] = np.outer(direction, direction).tolist()
        table = costs.cost_table([Profile.parse(json.dumps(facts)), profiles[1]], workload)
        found = draws.half_widths(table, workload, [np.stack([workload.count] * 2)])
        assert np.isfinite(found.energy_j).all()
        assert np.isfinite(found.runtime_by_system_s).all()
