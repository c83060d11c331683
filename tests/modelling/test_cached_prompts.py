"""What requests cost of whose prompts a prefix cache holds a part."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.core.sizes import parse_cached_tokens
from harness.modelling.cost_function import CostFunction, Range
from harness.modelling.doubt import NO_SCATTER, Misfit
from harness.modelling.forms.base import Form
from harness.modelling.forms.bilinear import Bilinear
from harness.modelling.forms.phase import ROOFLINES, Phase
from harness.modelling.forms.terms import Term, library
from harness.modelling.profile import Profile
from harness.modelling.served.form import ServedForm
from harness.modelling.served.function import MeasuredLoads, ServedFunction
from harness.modelling.session_effect import of_one_session
from tests.helpers import ROOT, joulebench

GRID = Range.of(*np.array([(m, n) for m in (16, 64, 256, 1024, 4096) for n in (1, 8, 64, 256)], dtype=float).T)
THETA = np.array([0.02, 2e-4, 2e-8, 0.008, 1e-6])
TERMS = [*library(decode=False), *library(decode=True)]
GOLDEN = ROOT / "tests" / "data" / "profile-schema-3.json"


def function(form: Form, coefficients: np.ndarray) -> CostFunction:
    return CostFunction(
        form=form,
        coefficients=coefficients,
        covariance=np.diag((0.01 * coefficients) ** 2),
        freedom=20.0,
        misfit=Misfit(0.02, growth=2.0, freedom=10.0),
        scatter=NO_SCATTER,
        session=of_one_session(),
        gain_ci95=0.0,
        range=GRID,
    )


@st.composite
def phase_functions(draw: st.DrawFn, plain: bool = False) -> CostFunction:
    """With the KV cache, of any roofline, cache and terms; ``plain`` ones join nothing and pad nothing."""
    known = [term for term in TERMS if not (plain and term.kind == "tile")]
    terms = tuple(draw(st.lists(st.sampled_from(known), max_size=3, unique=True)))
    context = draw(st.sampled_from(["grows", "m + n"]))
    form = Phase(True, 1.0 if plain else draw(st.sampled_from(ROOFLINES)), context, terms)
    factors = draw(st.lists(st.floats(0.01, 100.0), min_size=5 + len(terms), max_size=5 + len(terms)))
    return function(form, np.array(factors) * np.array([*THETA, *([1e-4] * len(terms))]))


sizes = st.tuples(st.integers(1, 6000), st.integers(1, 600), st.floats(0.0, 1.0, exclude_max=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(phase_functions(), sizes)
def test_without_anything_cached_the_cost_is_the_same_bit_for_bit(cost: CostFunction, size: Any) -> None:
    m, n, share = size
    k = int(share * m)
    alone, mixed = cost.cost(m, n), cost.cost([m, m, m], n, [0, k, 0])
    assert cost.cost(m, n, 0) == alone == cost.cost([m], [n], [0])[0]
    assert mixed[0] == alone == mixed[2]
    plain, zeros = cost.predict(m, n), cost.predict([m, m], n, [0, k])
    assert plain.value == zeros.value[0]
    assert plain.request_95 == pytest.approx(zeros.request_95[0], rel=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(phase_functions(), sizes)
def test_the_cost_falls_with_what_is_cached_and_decoding_stays(cost: CostFunction, size: Any) -> None:
    m, n, _ = size
    cached = np.unique(np.linspace(0, m - 1, 40).astype(int))
    found = cost.cost(m, n, cached)
    assert (np.diff(found) <= 1e-12 * found[:-1]).all()
    assert (found > 0).all()
    decode = cost.cost(m, n, part="decode")
    np.testing.assert_allclose(cost.cost(m, n, cached, part="decode"), decode, rtol=1e-9, atol=1e-12)
    assert found == pytest.approx(cost.cost(m, n, cached, part="prefill") + decode, rel=1e-9)
    # The first token alone costs a forward pass over what isn't cached: never less than its floor.
    assert (cost.cost(m, 1, cached) >= cost.coefficients[0] * (1 - 1e-9)).all()
    # Derivatives multiplied by the coefficients are the cost itself.
    derivatives = cost.derivatives(m, n, cached)
    assert np.tensordot(cost.coefficients, derivatives, 1) == pytest.approx(found, rel=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(phase_functions(plain=True), st.lists(st.integers(1, 2000), min_size=2, max_size=5))
def test_a_prompt_costs_what_its_chunks_do(cost: CostFunction, chunks: list[int]) -> None:
    """Each chunk finds those before it cached; each but one pays a floor that the whole prompt doesn't."""
    ends = np.cumsum(chunks)
    parts = cost.cost(ends, 1, ends - chunks)
    floors = (len(chunks) - 1) * cost.coefficients[0]
    assert parts.sum() - floors == pytest.approx(float(cost.cost(int(ends[-1]), 1)), rel=1e-9)


def test_it_is_attention_over_all_and_prefill_of_the_rest() -> None:
    c0, c1, c2, d0, d1 = THETA
    decode = 99 * d0 + d1 * sum(2104 + k for k in range(1, 100))
    work = c1 * 104 + c2 * (2104**2 - 2000**2)
    assert function(Phase(True), THETA).cost(2104, 100, 2000) == pytest.approx(c0 + work + decode)
    joined = function(Phase(True, 3.0), THETA).cost(2104, 100, 2000)
    assert joined == pytest.approx((c0**3 + work**3) ** (1 / 3) + decode)
    # A tile pads the pass of 104 tokens; a hinge is of positions.
    padded = function(Phase(True, 1.0, terms=(Term("tile", 64), Term("hinge", 2048))), np.append(THETA, [1e-3, 1e-2]))
    assert padded.cost(2104, 100, 2000) == pytest.approx(c0 + work + decode + 1e-3 * 128 + 1e-2 * 56)


@pytest.mark.parametrize("form", ServedForm.candidates(), ids=str)
def test_under_load_it_is_the_phase_form_at_each_number_in_flight(form: ServedForm) -> None:
    coefficients = np.array([0.05, 2e-4, 1e-8, 0.02, 4e-4, 3e-7, 1e-3])[: len(form.coefficients("s"))]
    points = np.array([(m, n, c) for m in (32.0, 512.0) for n in (16.0, 256.0) for c in (1.0, 4.0, 16.0)])
    doubt = {"misfit": Misfit(0.02), "scatter": NO_SCATTER, "session": of_one_session(), "gain_ci95": 0.0}
    served = ServedFunction(
        form, coefficients, np.diag(coefficients**2), 20.0, **doubt, loads=MeasuredLoads(points), per_request=True
    )
    m, n, k = np.array([100, 700, 2104]), np.array([1, 64, 300]), np.array([0, 699, 2000])
    for c in (1, 4, 16):
        assert served.cost(m, n, c, k) == pytest.approx(served.at(c).cost(m, n, k))
    assert served.cost(m, n, 4, 0) == pytest.approx(served.cost(m, n, 4), rel=0)


def test_what_was_never_measured_is_less_sure() -> None:
    """The misfit counts what is cached as distance, by the share of prefill in the cost."""
    cost = function(Phase(True), THETA)
    m, n = 2048, np.array([1, 100])
    whole, half, most = (cost.octaves_away(m, n, k) for k in (0, 1024, 1984))
    assert (whole < half).all()
    assert half[0] < most[0]
    assert half[0] == pytest.approx(np.sqrt(whole[0] ** 2 + 1), rel=0.01)
    # With 100 output tokens prefill is a small part of the cost.
    assert half[1] ** 2 - whole[1] ** 2 < 0.1
    relative = [cost.predict(m, 1, k).half_width_95(["model"]) / cost.cost(m, 1, k) for k in (0, 1024, 1984)]
    assert relative == sorted(relative)
    # Fewer tokens computed than any prompt had: extrapolated, and far below them there is no interval.
    assert not cost.predict(m, 1, 1984).out_of_range
    assert cost.predict(m, [1, 256], 2044).out_of_range.all()
    far = replace(cost, range=replace(GRID, min_input_tokens=64.0)).predict(m, [1, 256], 2044)
    assert far.too_far.tolist() == [True, False]
    with pytest.raises(UserError, match="2048 input, 4 of them computed, and 1 output tokens lie outside"):
        cost.predict(m, 1, 2044, strict=True)


@pytest.mark.parametrize(
    ("form", "theta", "m", "cached", "said"),
    [
        (Phase(True), THETA, 10, 10, "10 of 10 input tokens can't be cached: at least one is computed"),
        (Phase(True), THETA, 10, -1, "cached tokens must be between 0 and"),
        (Phase(True), THETA, 10, 1.5, "cached tokens must be whole numbers"),
        (Phase(False), THETA[:3], 10, 5, "without a KV cache every step computes the whole prompt"),
        (Bilinear(), THETA[:3], 10, 5, "the bilinear form doesn't tell what prefill costs"),
    ],
)
def test_what_cannot_be_cached_is_refused(form: Form, theta: np.ndarray, m: int, cached: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        function(form, theta).cost(m, 5, cached)


def test_a_profile_prices_cached_prompts() -> None:
    profile = Profile.load(GOLDEN)
    m, n, k = np.array([64, 64, 256]), 16, np.array([0, 32, 255])
    runtime, energy = profile.predict_runtime(m, n, cached=k), profile.predict_energy(m, n, cached=k)
    assert profile.runtime_s(m, n, cached=k) == pytest.approx(runtime.value)
    assert profile.energy_j(m, n, cached=k) == pytest.approx(energy.value)
    assert profile.energy_j(m, n, cached=k)[0] == profile.energy_j(64, n)
    assert (profile.runtime_s(m, n, cached=k)[1:] < profile.runtime_s(m, n)[1:]).all()


def test_predict_takes_cached_tokens() -> None:
    assert parse_cached_tokens("0,8,16-64*2") == [0, 8, 16, 32, 64]
    done = joulebench("predict", GOLDEN, "-p", "64", "-n", "16", "--cached-tokens", "0,32", "--json")
    assert done.returncode == 0, done.stderr
    shown = joulebench("predict", GOLDEN, "-p", "64", "-n", "16", "-c", "1,4", "--cached-tokens", "0,32")
    assert "cached: tokens of the input that a prefix cache holds; the rest is computed" in shown.stdout
    refused = joulebench("predict", GOLDEN, "-p", "64", "-n", "16", "--cached-tokens", "64")
    assert (refused.returncode, "64 of 64 input tokens can't be cached" in refused.stderr) == (2, True)
    none = joulebench("predict", "m1-pro-llama-2-7b", "-p", "64", "-n", "16", "--cached-tokens", "32")
    assert (none.returncode, "leave cached tokens out" in none.stderr) == (2, True)
