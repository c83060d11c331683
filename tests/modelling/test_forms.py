"""What every registered form promises, and that another one needs nothing but its class and a line in the registry."""

import json
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling import forms
from harness.modelling.fit import Observations, fit_form
from harness.modelling.fitting import Power, build_profile, fit_quantities
from harness.modelling.forms import AUTO, DEFAULT, FORMS, form_named
from harness.modelling.forms.base import Form, Part, Sizes
from harness.modelling.profile import Profile, json_schema
from harness.modelling.profile_schema import Measurement, Statistic
from harness.modelling.tables import long_table
from harness.showing.profiles import print_profile
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "data" / "profile-schema-1.json"
MODES = (False, True)
CANDIDATES = [c for name in FORMS for kv_cache in MODES for c in form_named(name).candidates(kv_cache)]
CANDIDATES += [c.attending("m + n") for c in CANDIDATES]
TYPICAL = {"s": 0.03, "s/token": 2e-4, "s/token²": 2e-8}
"""A machine's size of a coefficient of each unit."""
POINTS = [(m, n) for m in (8, 32, 128, 512, 2048) for n in (8, 64, 512)]

each_candidate = pytest.mark.parametrize("form", list(dict.fromkeys(CANDIDATES)), ids=str)


def machine(form: Form, seed: int) -> Floats:
    """Positive coefficients as real machines have them."""
    rng = np.random.default_rng(seed)
    return np.array([TYPICAL[unit] * np.exp(rng.uniform(-1, 1)) for _, unit in form.coefficients("s")])


def sizes(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Whole m and n, the smallest ones among them."""
    rng = np.random.default_rng(seed)
    return np.append(rng.integers(1, 3000, count), [1, 1, 50]), np.append(rng.integers(1, 600, count), [1, 2, 1])


def as_floats(m: np.ndarray, n: np.ndarray) -> Sizes:
    return Sizes(m.astype(float), n.astype(float))


def by_formula(form: Form, theta: Floats, folder: Path) -> Callable[[int, int], float]:
    """The cost as its printed formula says, decode step after decode step."""
    text = form.formula("s").replace("Σ D(m + k), k = 1 … n − 1", "sum(D(m + k) for k in range(1, n))")
    for printed, python in (("·", "*"), ("^", "**"), ("²", "**2"), ("−", "-")):
        text = text.replace(printed, python)
    lines = [f"{name} = {value!r}" for (name, _), value in zip(form.coefficients("s"), theta.tolist(), strict=True)]
    for line in text.splitlines():
        head, body = line.split(" = ")
        name, arguments = head.rstrip(")").split("(")
        lines.append(f"{name} = lambda {arguments}: {body}")
    (folder / "formula.py").write_text("\n".join(lines), encoding="utf-8")
    cost: Callable[[int, int], float] = runpy.run_path(str(folder / "formula.py"))["cost"]
    return cost


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_registered_under_their_names(name: str) -> None:
    assert form_named(name).name == name


def test_an_unknown_form_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="no form 'cubic': choose one of phase, bilinear"):
        fit_quantities(Profile.load(GOLDEN).measurements, True, "cubic")


@each_candidate
def test_coefficients_are_named_with_their_units(form: Form) -> None:
    for unit, suffix in (("s", "_s"), ("J", "_j")):
        named = form.coefficients(unit)
        assert len({name for name, _ in named}) == len(named)
        words = {unit: suffix, f"{unit}/token": f"{suffix}_per_token", f"{unit}/token²": f"{suffix}_per_token2"}
        assert all(name.endswith(words[of]) for name, of in named)


@each_candidate
def test_derivatives_are_those_of_the_cost_which_they_add_up_to(form: Form) -> None:
    """Euler: the cost doubles with its coefficients, so that derivatives times coefficients are the cost."""
    theta, at = machine(form, 1), as_floats(*sizes(2))
    design = form.design(theta, at)
    assert design.shape == (at.m.size, theta.size)
    assert form.cost(2 * theta, at) == pytest.approx(2 * form.cost(theta, at), rel=1e-12)
    assert form.design(2 * theta, at) == pytest.approx(design, rel=1e-12)
    for i, step in enumerate(1e-4 * theta * np.eye(theta.size)):
        slope = (form.cost(theta + step, at) - form.cost(theta - step, at)) / (2 * step[i])
        assert slope == pytest.approx(design[:, i], rel=1e-4, abs=1e-6 * np.abs(design[:, i]).max())


@each_candidate
@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_tables_and_quadrature_agree_with_the_formula(form: Form, seed: int, tmp_path: Path) -> None:
    theta, (m, n) = machine(form, seed), sizes(seed)
    cost = by_formula(form, theta, tmp_path)
    expected = np.array([cost(*pair) for pair in zip(m.tolist(), n.tolist(), strict=True)])
    assert form.cost(theta, as_floats(m, n)) == pytest.approx(expected, rel=1e-6)
    longest = int((m + n).max())
    assert form.evaluator(theta, theta, longest)(m, n) == pytest.approx(expected, rel=1e-9)
    directions = np.column_stack([theta, np.eye(theta.size)])
    looked_up = form.evaluator(theta, directions, longest)(m, n)
    assert looked_up[:, 0] == pytest.approx(expected, rel=1e-9)
    off = (looked_up[:, 1:] - form.design(theta, as_floats(m, n))) * theta
    assert (np.abs(off) <= 1e-6 * expected[:, None]).all()


@each_candidate
def test_phases_add_up_to_the_request_or_are_refused(form: Form) -> None:
    theta, (m, n) = machine(form, 3), sizes(4)
    phases: list[Part] = ["prefill", "decode"]
    longest = int((m + n).max())
    if not form.has_phases:
        for part in phases:
            with pytest.raises(UserError, match=f"the {form.name} form does not tell prefill from decode"):
                form.evaluator(theta, theta, longest, part)(m, n)
        return
    whole = form.evaluator(theta, theta, longest)(m, n)
    assert sum(form.evaluator(theta, theta, longest, part)(m, n) for part in phases) == pytest.approx(whole)
    assert sum(form.design(theta, as_floats(m, n), part) @ theta for part in phases) == pytest.approx(whole, rel=1e-6)
    assert form.design(theta, as_floats(m, np.ones_like(m)), "decode") == pytest.approx(0)


@each_candidate
def test_the_plain_form_is_linear_and_is_met_where_a_form_says_so(form: Form) -> None:
    one, other, at = machine(form, 5), machine(form, 6), as_floats(*sizes(7))
    assert form.plain.plain == form.plain
    assert form.plain.coefficients("s") == form.coefficients("s")
    assert np.array_equal(form.plain.design(one, at), form.plain.design(other, at))
    assert not form.plain.is_plain_at(one)
    assert not form.is_plain_at(one)
    for i in range(one.size):
        without = np.where(np.arange(one.size) == i, 0.0, one)
        if form.is_plain_at(without):
            assert form.cost(without, at) == pytest.approx(form.plain.cost(without, at), rel=1e-6)


@each_candidate
@pytest.mark.parametrize("kv_cache", MODES)
def test_a_form_comes_back_from_json(form: Form, kv_cache: bool) -> None:
    context = form.parameters.get("decode_context", "grows")
    if form not in [candidate.attending(context) for candidate in type(form).candidates(kv_cache)]:
        return
    again = type(form).restore(kv_cache, json.loads(json.dumps(form.parameters)))
    assert again == form
    assert hash(again) == hash(form)
    assert form.describe().startswith(f"{form.name} form")


@each_candidate
def test_exact_measurements_of_a_form_give_its_costs_back(form: Form) -> None:
    theta = machine(form, 8)
    m, n = (np.array(axis, dtype=float) for axis in zip(*POINTS, strict=True))
    cost = form.cost(theta, Sizes(m, n))
    context = form.parameters.get("decode_context", "grows")
    for kv_cache in MODES:
        if form in [candidate.attending(context) for candidate in type(form).candidates(kv_cache)]:
            fitted = fit_form(type(form), Observations(m, n, cost, np.zeros(m.size)), kv_cache, context)
            assert fitted.form == form
            assert fitted.form.cost(fitted.coefficients, Sizes(m, n)) == pytest.approx(cost, rel=1e-3)


@dataclass(frozen=True)
class Toy(Form):
    """a·m + b·n + c·n², which no real machine follows."""

    name = "toy"
    non_negative = True
    has_phases = False

    @classmethod
    def candidates(cls, kv_cache: bool) -> Sequence["Toy"]:
        return [cls()]

    @classmethod
    def restore(cls, kv_cache: bool, parameters: Any) -> "Toy":
        return cls()

    @classmethod
    def refusal(cls, kv_cache: bool, sizes: Sizes) -> str | None:
        return None if np.unique(sizes.n).size > 2 else "measure three output sizes"

    def coefficients(self, unit: str) -> list[tuple[str, str]]:
        return [("toy_in", f"{unit}/token"), ("toy_out", f"{unit}/token"), ("toy_out2", f"{unit}/token²")]

    def design(self, theta: Floats, sizes: Sizes, part: Part = "request") -> Floats:
        return np.stack([sizes.m, sizes.n, sizes.n**2], axis=1)

    def formula(self, unit: str) -> str:
        return "cost(m, n) = toy_in·m + toy_out·n + toy_out2·n²"


TRUTH = np.array([2e-3, 5e-2, 1e-4])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """Trials of a machine that follows the toy form, which is registered."""
    monkeypatch.setitem(forms.FORMS, "toy", f"{__name__}.Toy")
    shape = Profile.load(GOLDEN).measurements[0].model_dump()
    for field, value in shape.items():
        if field.endswith(("_s", "_j")):
            shape[field] = {} if isinstance(value, dict) and "mean" not in value else None
    rng = np.random.default_rng(0)
    points = []
    for m, n in POINTS:
        runtime_s, energy_j = (Toy().cost(TRUTH, Sizes(np.array([m]), np.array([n])))[0] * scale for scale in (1, 50))
        noisy = [value * (1 + 1e-3 * rng.standard_normal()) for value in (runtime_s, energy_j)]
        given = [Statistic(mean=value, sd=value / 1e3, trials=4, ci95=None) for value in noisy]
        here = {"input_tokens": m, "output_tokens": n, "output_tokens_requested": n, "trials": 4}
        points.append(Measurement(**shape | here | {"runtime_s": given[0], "energy_j": given[1]}))
    return points


def test_another_form_is_fitted_saved_loaded_and_used(
    measured: list[Measurement], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = Profile.load(GOLDEN)
    quantities = fit_quantities(measured, True, AUTO)
    assert [quantity.chosen for quantity in quantities] == ["toy", "toy"], "it has the smallest held-out error"
    assert list(quantities[0].fits) == ["phase", "bilinear", "toy"]
    build_profile("p", golden.identity, measured, quantities, Power({}, {}), golden.provenance).save(
        tmp_path / "p.json"
    )
    profile = Profile.load(tmp_path / "p.json")
    assert [c.value for c in profile.runtime.coefficients] == pytest.approx(TRUTH, rel=0.05)
    m, n = np.arange(8, 2000), np.arange(1999, 7, -1)
    predicted = profile.predict_energy(m, n)
    assert predicted.value == pytest.approx(50 * (TRUTH[0] * m + TRUTH[1] * n + TRUTH[2] * n**2), rel=0.05)
    assert (predicted.sd["trials"] > 0).all()
    assert profile.runtime_function.derivatives(m, n) == pytest.approx(np.stack([m, n, n**2]))
    assert set(long_table(profile)["name"]) >= {"toy_in", "toy_out", "toy_out2"}
    print_profile(profile)
    printed = capsys.readouterr().out
    assert "runtime: toy form; held-out error" in printed
    assert "cost(m, n) = toy_in·m + toy_out·n + toy_out2·n²" in printed
    schema = json_schema()["$defs"]
    for part in ("CostModel", "Alternative"):
        assert schema[part]["properties"]["form"]["enum"] == ["phase", "bilinear", "toy"]


def test_a_form_that_is_not_there_is_refused_in_a_file(
    measured: list[Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Profile.load(GOLDEN)
    quantities = fit_quantities(measured, True, "toy")
    build_profile("p", golden.identity, measured, quantities, Power({}, {}), golden.provenance).save(
        tmp_path / "p.json"
    )
    monkeypatch.delitem(forms.FORMS, "toy")
    with pytest.raises(UserError, match=r"runtime\.form: .*no form 'toy': choose one of phase, bilinear"):
        Profile.load(tmp_path / "p.json")


def test_a_forms_own_refusal_names_the_quantity(measured: list[Measurement]) -> None:
    two_sizes = [point for point in measured if point.output_tokens < 500]
    with pytest.raises(UserError, match="runtime: measure three output sizes"):
        fit_quantities(two_sizes, True)


def test_the_default_is_registered() -> None:
    assert DEFAULT in FORMS
    assert AUTO not in FORMS
