"""The profile format: what is written is read back, what is broken is refused in one line."""

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from harness.core.errors import UserError
from harness.core.quantities import parse_boundary
from harness.modelling.cost_function import CostFunction, Range
from harness.modelling.doubt import MEAN, REQUEST, Misfit, Scatter, SessionEffect
from harness.modelling.forms.phase import Phase
from harness.modelling.profile import Profile, json_schema, shipped_names
from tests.helpers import ROOT
from tests.profile_variants import VARIANTS, as_version_1, variant

GOLDEN = ROOT / "tests" / "data" / "profile-schema-3.json"
OLD = ROOT / "tests" / "data" / "profile-schema-2.json"
OLDER = ROOT / "tests" / "data" / "profile-schema-1.json"


@pytest.fixture(scope="module")
def golden() -> Profile:
    return Profile.load(GOLDEN)


def content(path: Path = GOLDEN) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def refusal(broken: Any) -> str:
    """The message for a broken profile: one line."""
    text = broken if isinstance(broken, (str, bytes)) else json.dumps(broken)
    with pytest.raises(UserError) as caught:
        Profile.parse(text, "profile broken.json")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith("profile broken.json ")
    return message


@pytest.mark.parametrize("file", [OLD, GOLDEN])
def test_golden_files_of_schema_2_and_3_load_and_predict_what_they_always_did(file: Path) -> None:
    golden = Profile.load(file)
    m, n = np.array([16, 100, 1000, 4096]), np.array([8, 50, 200, 4])
    runtime, energy = golden.predict_runtime(m, n), golden.predict_energy(m, n)
    assert runtime.value == pytest.approx([0.046533103245, 0.27057695639, 1.353805563908, 0.6532318408378])
    assert runtime.mean_95 == pytest.approx([0.00344075979316, 0.017262732876, 0.121535605354, np.nan], nan_ok=True)
    assert runtime.request_95 == pytest.approx([0.00480806985275, 0.0217806317722, 0.129521709877, np.nan], nan_ok=True)
    assert energy.mean_95 == pytest.approx([0.721491691420, 3.58895520476, 38.3783179480, np.nan], nan_ok=True)
    assert energy.request_95 == pytest.approx([2.66991202777, 10.9759275242, 50.8625450812, np.nan], nan_ok=True)
    assert energy.out_of_range.tolist() == [False, False, True, True]
    assert energy.too_far.tolist() == [False, False, False, True]
    assert golden.idle_power_w() == 60
    assert golden.idle_power_w("gpu") == 50
    net = golden.net_energy_j(m, n)
    assert net == pytest.approx(golden.energy_j(m, n) - 60 * golden.runtime_s(m, n))


def test_golden_file_of_schema_1_becomes_version_3_and_predicts_what_it_always_did() -> None:
    m, n = np.array([16, 100, 1000]), np.array([1, 50, 200])
    older = Profile.load(OLDER)
    assert older.schema_version == 3
    assert older.under_load is None
    assert older.runtime_s(m, n) == pytest.approx([0.011556515136644838, 0.27057695638966567, 1.3538055639079722])
    assert older.energy_j(m, n) == pytest.approx([1.4385278620159951, 32.37817036804937, 163.1963005681563])
    assert older.energy_j(m, n, "gpu") == pytest.approx([1.1987732183466617, 26.98180864004113, 135.9969171401301])
    predicted = older.predict_energy(m, n)
    assert predicted.sd["trials"] == pytest.approx([0.139434853673008, 0.3857098527774629, 12.677475223600334])
    # One misfit of all sizes, known to the degrees of freedom of its factor: 4.30 is Student's for two.
    assert predicted.sd["model"] == pytest.approx(0.054445518401191516 * predicted.value)
    assert (predicted.freedom["trials"], predicted.freedom["model"]) == (pytest.approx(2), pytest.approx(2))
    assert predicted.out_of_range.tolist() == [True, False, True]
    assert older.idle_power_w() == 60
    # What version 1 didn't know is presumed, and says where it is from.
    assert older.energy is not None
    assert "A100" in older.components["gpu"].gain_source
    assert older.components["gpu"].gain_ci95 == 0.075
    assert older.energy.gain_ci95 == pytest.approx(np.hypot(0.075 * 5, 0.25) / 6, rel=0.02)
    assert older.meters() == frozenset(), "no file of version 1 names its sensors"
    assert "schema version 1" in older.provenance.notes[-1]
    assert all(part.sessions.prior for part in (older.runtime, older.energy.model))
    assert all(part.sessions.sd > 0 for part in (older.runtime, older.energy.model))
    assert older.runtime.scatter is not None
    assert len(older.runtime.range.points) == len(older.measurements) == 7
    assert (predicted.request_95[1:] > predicted.mean_95[1:]).all()


def test_a_file_of_version_2_becomes_version_3_with_nothing_under_load(tmp_path: Path) -> None:
    old = Profile.load(OLD)
    assert (old.schema_version, old.under_load) == (3, None)
    old.save(tmp_path / "p.json")
    assert content(tmp_path / "p.json") == content(OLD) | {"schema_version": 3, "under_load": None}
    assert Profile.load(tmp_path / "p.json") == old
    assert "schema_version: Input should be 3" in refusal(content(OLD) | {"under_load": None})


def test_saved_profiles_read_back_bit_for_bit(golden: Profile, tmp_path: Path) -> None:
    golden.save(tmp_path / "p.json")
    again = Profile.load(tmp_path / "p.json")
    assert again == golden
    assert (tmp_path / "p.json").read_text() == GOLDEN.read_text()
    m, n = np.arange(1, 3000), np.arange(3000, 1, -1)
    for method in ("energy_j", "runtime_s"):
        assert np.array_equal(getattr(again, method)(m, n), getattr(golden, method)(m, n))
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]
    older = Profile.load(OLDER)
    older.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == older


@pytest.mark.parametrize("name", [*(name for name in VARIANTS if name != "cached-terms"), "m1-pro-llama-2-7b"])
def test_energies_of_whole_batches_become_those_of_a_request(name: str, tmp_path: Path) -> None:
    """Files of earlier versions: 8 sequences a request. Every form is linear enough to be divided."""
    older = as_version_1(variant(name))
    older["energy"] |= {"idle_power_w": 30.0, "idle_power_ci95_w": 1.0}
    single = Profile.parse(json.dumps(older))
    del older["identity"]["concurrency"]
    older["identity"]["batch_size"] = 8
    batched = Profile.parse(json.dumps(older))
    assert batched.identity.concurrency == 8
    assert {point.concurrency for point in batched.measurements} == {8}
    m, n = np.array([16, 100, 1000]), np.array([1, 50, 200])
    assert np.array_equal(batched.runtime_s(m, n), single.runtime_s(m, n))
    for boundary in (None, "gpu", "cpu"):
        assert batched.energy_j(m, n, boundary) == pytest.approx(single.energy_j(m, n, boundary) / 8)
        was, now = (profile.predict_energy(m, n, boundary) for profile in (single, batched))
        for source in MEAN:
            assert now.sd[source] == pytest.approx(was.sd[source] / 8)
        assert now.mean_95 == pytest.approx(was.mean_95 / 8, nan_ok=True)
    assert batched.idle_power_w() == 30
    assert batched.net_energy_j(m, n) == pytest.approx((single.energy_j(m, n) - 30 * single.runtime_s(m, n)) / 8)
    for now, before in zip(batched.measurements, single.measurements, strict=True):
        assert now.runtime_s == before.runtime_s
        assert now.energy_j is not None
        assert before.energy_j is not None
        assert now.energy_j.sd == pytest.approx(before.energy_j.sd and before.energy_j.sd / 8)
        for component, statistic in before.component_energy_j.items():
            assert now.component_energy_j[component].mean == pytest.approx(statistic.mean / 8)
    # Written, it is no earlier file any more.
    batched.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == batched


def test_an_unwritable_place_is_refused_in_one_line(golden: Profile, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't write .*absent/p\.json: No such file"):
        golden.save(tmp_path / "absent" / "p.json")


def test_the_schema_accepts_what_the_program_accepts(golden: Profile) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(content())
    validator.validate(json.loads(golden.dump()))
    older, neither, infinite = (json.loads(golden.dump()) for _ in range(3))
    older["identity"]["batch_size"] = 1
    del neither["identity"]["concurrency"]
    infinite["runtime"]["misfit"]["sd"] = -1
    for wrong in (content() | {"surprise": 1}, older, neither, infinite):
        assert not validator.is_valid(wrong)
        refusal(wrong)


def test_phases_add_up_and_match_the_measured_ones(golden: Profile) -> None:
    m, n = np.array([64, 512, 256]), np.array([32, 32, 128])
    phases = [golden.runtime_s(m, n, part=part) for part in ("prefill", "decode")]  # type: ignore[arg-type]
    assert sum(phases) == pytest.approx(golden.runtime_s(m, n))
    assert phases[0] == pytest.approx(0.01 + 1e-4 * m + 1e-8 * m**2, rel=0.05)


def test_boundaries(golden: Profile) -> None:
    assert golden.energy_j(64, 32, "cpu+gpu") == golden.energy_j(64, 32)
    assert golden.energy_j(64, 32, ["gpu"]) < golden.energy_j(64, 32)
    with pytest.raises(UserError, match=r"has no energy of dram; it has gpu\+cpu"):
        golden.energy_j(64, 32, "dram")
    with pytest.raises(UserError, match="'gpu\\+brain' is no boundary"):
        parse_boundary("gpu+brain")


def test_part_of_three_components_adds_values_and_errors(golden: Profile) -> None:
    more = content()
    more["components"]["dram"] = more["components"]["cpu"]
    three = Profile.parse(json.dumps(more))
    both = three.predict_energy(64, 32, "cpu+gpu")
    alone = [three.predict_energy(64, 32, component) for component in ("cpu", "gpu")]
    assert both.value == pytest.approx(sum(p.value for p in alone))
    for source in REQUEST:
        assert both.sd[source] == pytest.approx(sum(p.sd[source] for p in alone))


@pytest.mark.parametrize("m", [0, -3, 2.5, float("nan"), float("inf"), 30_000_000, "8", [8, 0]])
def test_what_is_no_token_count_is_refused(golden: Profile, m: Any) -> None:
    with pytest.raises(UserError, match="input tokens must be"):
        golden.energy_j(m, 32)


def test_strict_refuses_sizes_outside_the_measured_range(golden: Profile) -> None:
    assert golden.runtime_s(512, 32, strict=True) > 0
    with pytest.raises(UserError, match="512 input and 256 output tokens lie outside the measured range"):
        golden.runtime_s([64, 512], [32, 256], strict=True)
    with pytest.raises(UserError, match="outside the measured range"):
        golden.energy_j(4096, 32, strict=True)


def test_arrays_broadcast_and_may_be_empty(golden: Profile) -> None:
    grid = golden.energy_j(np.arange(8, 64)[:, None], np.arange(8, 40)[None, :])
    assert grid.shape == (56, 32)
    assert grid[3, 5] == golden.energy_j(11, 13)
    assert golden.predict_runtime([], []).value.shape == (0,)
    assert golden.energy_j(8, 8).shape == ()


@pytest.mark.parametrize("roofline", [1.0, 3.0])
def test_ten_million_sizes_at_once(roofline: float) -> None:
    """Ten million pairs at once; some are checked against the definition."""
    theta = np.array([0.02, 1e-4, 1e-8])
    doubt = (9.0, Misfit(0.03), Scatter(0.1, 1.0), SessionEffect(0.02), 0.0)
    function = CostFunction(Phase(False, roofline), theta, np.diag(theta**2) / 100, *doubt, Range(1, 1, [(9, 9)]))
    rng = np.random.default_rng(1)
    m, n = rng.integers(1, 4000, 10_000_000), rng.integers(1, 2000, 10_000_000)
    cost = function.cost(m, n)
    for i in range(0, 10_000_000, 2_500_000):
        x = np.arange(m[i], m[i] + n[i])
        steps = (theta[0] ** roofline + (theta[1] * x + theta[2] * x * x) ** roofline) ** (1 / roofline)
        assert cost[i] == pytest.approx(steps.sum())


def test_derivatives_multiplied_by_the_coefficients_are_the_cost(golden: Profile) -> None:
    m, n = np.array([[8, 64], [256, 512]]), np.array([[1, 64], [128, 32]])
    for function in (golden.runtime_function, *golden.energy_functions()):
        derivatives = function.derivatives(m, n)
        assert derivatives.shape == (5, 2, 2)
        assert np.tensordot(function.coefficients, derivatives, 1) == pytest.approx(function.cost(m, n))
        variance = np.einsum("i...,ij,j...->...", derivatives, function.covariance, derivatives)
        assert np.sqrt(variance) == pytest.approx(function.predict(m, n).sd["trials"])


def test_a_profile_without_energy_says_so(golden: Profile) -> None:
    bare = Profile.parse(json.dumps(content(OLD) | {"energy": None, "components": {}}))
    assert bare.runtime_s(64, 32) == golden.runtime_s(64, 32)
    for ask in (bare.energy_j, bare.predict_energy):
        with pytest.raises(UserError, match="only runtime was measured"):
            ask(64, 32)


def change(path: str, value: Any, of: Path = GOLDEN) -> dict[str, Any]:
    """The golden content with one field replaced; ``path`` names keys and indices joined by dots."""
    changed = content(of)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    at: Any = changed
    for key in parents:
        at = at[key]
    at[last] = value
    return changed


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (GOLDEN.read_text()[:4000], "not valid JSON: it is truncated or damaged"),
        ("", "not valid JSON"),
        ("[1, 2]", "is not a profile of joulebench"),
        ({"name": "x"}, "names no schema_version"),
        (change("schema_version", 4), "schema version 4, this joulebench reads up to 3: upgrade joulebench"),
        (change("schema_version", "1"), "schema_version"),
        (
            change("runtime.coefficients.0.value", "fast"),
            "runtime.coefficients.0.value: Input should be a valid number",
        ),
        (change("runtime.coefficients.0.value", -1.0), "a coefficient of the phase form is negative"),
        (change("runtime.covariance.0.0", -1.0), "a variance is negative"),
        (change("runtime.covariance.0.0", 1e300), "a variance is larger than 1e+30"),
        (change("runtime.covariance.0.1", 1e9), "the covariance is not symmetric"),
        (change("runtime.covariance", [[1.0]]), "the covariance must have 5 rows and columns"),
        (change("runtime.roofline_exponent", None), "needs a roofline_exponent"),
        (change("runtime.unit", "J"), "coefficients of the phase form must be"),
        (change("identity.kv_cache", False), "kv_cache differs"),
        (change("identity.batch_size", 8), "identity.batch_size"),
        (change("identity.batch_size", 1.5, OLDER), "identity.batch_size"),
        (change("identity.batch_size", 10**30, OLDER), "identity.batch_size"),
        (change("identity.concurrency", 8, OLDER), "concurrency and batch_size"),
        (change("runtime.covariance.0.0", -1.0, OLDER), "runtime: Value error, a variance is negative"),
        (change("runtime.misfit", -1.0, OLDER), "runtime.misfit"),
        (change("runtime.misfit.sd", None), "runtime.misfit.sd"),
        (change("runtime.freedom", 0.0), "runtime.freedom"),
        (change("energy.gain_ci95", None), "energy.gain_ci95"),
        (change("energy.meters", ["my GPU"]), "energy.meters.0"),
        (change("components.brain", None), "components.brain"),
        (
            change("measurements.0.component_energy_j.gpu.trials", 10**29),
            "measurements.0.component_energy_j.gpu.trials: Input should be less than or equal to 1000000000",
        ),
        (change("measurements", []), "measurements"),
        (change("under_load.runtime.unit", "J"), "the coefficients under load must be prefill_floor_j"),
        (change("under_load.runtime.coefficients.4.value", -1.0), "a coefficient under load is negative"),
        (change("under_load.runtime.experts_share", 0.5), "step_experts_s"),
        (change("under_load.energy.covariance.0.0", -1.0), "a variance is negative"),
        (change("under_load.energy.held_out", {}), "under_load.energy.held_out"),
        (change("under_load.energy", None), "components under load without their sum"),
        (change("under_load.components.dram", content()["under_load"]["energy"]), "energy under load that was not"),
        (content() | {"energy": None, "components": {}}, "energy under load that was not measured by itself"),
        (change("provenance.records.0.sha256", "abc"), "provenance.records.0.sha256"),
        (OLDER.read_text().replace('"misfit": 0', '"misfit": NaN, "x": 0', 1), "misfit"),
        (GOLDEN.read_text().replace('"sd": 0', '"sd": NaN, "x": 0', 1), "misfit"),
        (GOLDEN.read_text().replace('"mape": 0', '"mape": 1e999, "x": 0', 1), "mape"),
        ('{"schema_version": ' + "[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_profiles_are_refused_in_one_line(broken: Any, said: str) -> None:
    assert said in refusal(broken)


def test_a_hundred_damaged_profiles_never_end_in_a_traceback() -> None:
    """Bytes flipped, cut and doubled, and values swapped for others: refused in one line, or still valid."""
    rng = random.Random(3)
    messages = []
    for at in range(100):
        damaged = bytearray((GOLDEN, OLD, OLDER)[at % 3].read_bytes())
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            if rng.random() < 0.5:
                damaged[at] = rng.randrange(256)
            else:
                damaged[at:at] = rng.choice([b"-", b"9" * 400, b"null", b'"', b"\xff", b"[[", b"1e308,"])
        try:
            Profile.parse(bytes(damaged), "profile broken.json")
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert not [message for message in messages if "\n" in message or len(message) > 600]


def test_unknown_names_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no profile 'nobody': it is neither a file nor one of those shipped"):
        Profile.load("nobody")
    with pytest.raises(UserError, match=r"is a directory, not a profile\. To fit a run: joulebench fit"):
        Profile.load(tmp_path)
    with pytest.raises(UserError, match="can't be read: No such file"):
        Profile.load("../profiles/nobody.json")


def test_shipped_profiles_load_by_name() -> None:
    assert all(Profile.load(name).name == name for name in shipped_names())
