"""Profiles that know several numbers of requests in flight: a profile at each of them, and their engine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.modelling.profile import Profile
from tests.helpers import ROOT
from tests.profile_variants import variant

GOLDEN = ROOT / "tests" / "data" / "profile-schema-3.json"
RUNTIME = (0.01, 1e-4, 1.2e-8, 0.0045, 0.0005, 1.1e-6)
ENERGY = (1.32, 0.0132, 1.2e-6, 0.36, 0.096, 1.32e-4)
EXPERTS, SHARE = 0.12, 0.12
"""Coefficients in the golden file: its prefills join in runtime and are steps of their own in energy."""


@pytest.fixture(scope="module")
def golden() -> Profile:
    return Profile.load(GOLDEN)


def runtime_s(m: int, n: int, c: int) -> float:
    """By the formula of docs/profiles.md, step by step."""
    c0, c1, c2, a, s, d1 = RUNTIME
    steps = sum(a + s * c + d1 * c * (m + k) for k in range(1, n))
    return c0 + c * (c1 * m + c2 * m**2) + steps


def energy_j(m: int, n: int, c: int) -> float:
    c0, c1, c2, a, s, d1 = ENERGY
    experts = EXPERTS * sum((1 - SHARE) ** k for k in range(c))
    steps = sum(a + s * c + experts + d1 * c * (m + k) for k in range(1, n))
    return (c * c0 + c * (c1 * m + c2 * m**2) + steps) / c


@pytest.mark.parametrize(("c", "factor"), [(2, np.sqrt(1.02)), (4, 1.02), (16, 0.98)])
def test_at_c_in_flight_costs_are_those_of_the_form(golden: Profile, c: int, factor: float) -> None:
    there = golden.at(c)
    assert there.identity.concurrency == there.requests_in_flight == c
    assert there.identity.settings["requests_in_flight"] == "closed loop"
    assert there.under_load is None
    assert golden.identity.concurrency == 1
    for m, n in ((8, 1), (8, 32), (512, 100)):
        assert there.runtime_s(m, n) == pytest.approx(factor * runtime_s(m, n, c))
        assert there.energy_j(m, n) == pytest.approx(energy_j(m, n, c))
        assert there.energy_j(m, n, "gpu") == pytest.approx(5 / 6 * energy_j(m, n, c))
    net = energy_j(64, 32, c) - 60 * factor * runtime_s(64, 32, c) / c
    assert there.net_energy_j(64, 32) == pytest.approx(net)
    assert there.meters() == golden.meters()
    assert there.gain_ci95("gpu") == golden.gain_ci95("gpu")
    assert Profile.parse(there.dump()) == there


def test_at_its_own_number_in_flight_a_profile_is_itself(golden: Profile) -> None:
    assert golden.at(1) is golden
    alone = Profile.load("m1-pro-llama-2-7b")
    assert alone.at(1) is alone
    with pytest.raises(UserError, match=r"knows costs with 1 in flight only, not with 4; measure at three or more"):
        alone.at(4)
    with pytest.raises(UserError, match="0 requests can't be in flight"):
        golden.at(0)


def test_beyond_the_slots_requests_wait(golden: Profile) -> None:
    full, waiting = golden.at(16), golden.at(64)
    assert waiting.runtime_s(64, 32) == pytest.approx(4 * full.runtime_s(64, 32))
    assert waiting.energy_j(64, 32) == pytest.approx(full.energy_j(64, 32))


def test_intervals_widen_with_the_octaves_from_what_was_measured(golden: Profile) -> None:
    """d² gains the octaves² to the nearest measured number in flight: 1 at 2, which lies between 1 and 4."""
    measured, between = (golden.at(c).predict_runtime(64, 32) for c in (4, 2))
    level = 0.02 * (measured.value / 2.0) ** -0.05
    assert measured.sd["model"] == pytest.approx(measured.value * level)
    level = 0.02 * (between.value / 2.0) ** -0.05
    assert between.sd["model"] == pytest.approx(between.value * level * np.sqrt(1 + 1.5))
    assert measured.sd["scatter"] == pytest.approx(0.02 * measured.value**0.8)
    held_out = [golden.at(c).runtime.held_out.mape for c in (2, 4, 16)]
    assert held_out == [0.034, 0.016, 0.016], "of an inner number in flight, and of sizes at measured ones"


def test_far_beyond_what_was_measured_no_interval_is_known() -> None:
    content = json.loads(GOLDEN.read_text())
    for model in models(content):
        model["slots"] = None
    unlimited = Profile.parse(json.dumps(content))
    near, far = unlimited.at(64), unlimited.at(65)
    assert not unlimited.at(16).predict_runtime(64, 32).out_of_range
    assert near.predict_runtime(64, 32).out_of_range
    with pytest.raises(UserError, match=r"64 input and 32 output .* with other numbers of requests in flight"):
        near.runtime_s(64, 32, strict=True)
    assert near.predict_runtime(64, 32).mean_95 > 0
    assert np.isnan(far.predict_runtime(64, 32).mean_95)
    assert np.isnan(far.predict_energy(64, 32).request_95)
    assert near.runtime.held_out.mape == 0.071
    again = Profile.parse(far.dump())
    assert again == far
    assert np.isnan(again.predict_runtime(64, 32).mean_95), "a file keeps it"


def models(content: dict[str, Any]) -> list[dict[str, Any]]:
    load = content["under_load"]
    return [load["runtime"], load["energy"], *load["components"].values()]


def test_the_points_of_a_profile_at_c_are_those_measured_so(golden: Profile) -> None:
    assert {point.concurrency for point in golden.at(4).measurements} == {4}
    assert {point.concurrency for point in golden.at(2).measurements} == {1, 4, 16}
    assert golden.under_load is not None
    for point in golden.at(4).measurements:
        m, n = point.input_tokens, int(point.output_tokens)
        assert golden.at(4).runtime_s(m, n) == pytest.approx(point.runtime_s.mean)
        assert point.energy_j is not None
        assert golden.at(4).energy_j(m, n) == pytest.approx(point.energy_j.mean)


def test_an_engine_has_the_steps_of_the_models_under_load(golden: Profile) -> None:
    engine = golden.engine()
    assert (engine.slots, engine.chunk_tokens, engine.kv_tokens, engine.idle_power_w) == (16, 512, None, 60)
    seconds, joules = engine.seconds, engine.joules
    assert (seconds.prefill_floor, seconds.per_prefill_token, seconds.per_prefill_token2) == RUNTIME[:3]
    assert (seconds.floor, seconds.per_sequence, seconds.per_context) == RUNTIME[3:]
    assert seconds.prefill_joined
    assert joules is not None
    assert (joules.floor, joules.experts, joules.experts_share, joules.prefill_joined) == (0.36, EXPERTS, SHARE, False)
    gpu = golden.engine("gpu")
    assert gpu.joules is not None
    assert gpu.joules.per_sequence == pytest.approx(5 / 6 * ENERGY[4])
    assert gpu.idle_power_w == 50
    with pytest.raises(UserError, match="has no energy of dram"):
        golden.engine("dram")


def test_without_costs_under_load_an_engine_has_one_slot() -> None:
    engine = variant("cached").engine()
    assert engine.slots == 1
    profile = variant("cached")
    seconds = engine.seconds
    whole = seconds.prefill_floor + 100 * seconds.per_prefill_token + 100**2 * seconds.per_prefill_token2
    whole += sum(seconds.floor + seconds.per_sequence + seconds.per_context * (100 + k) for k in range(1, 20))
    assert whole == pytest.approx(profile.runtime_s(100, 20))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cached-roofline", "roofline exponent 3"),
        ("cached-terms", "tile 64"),
        ("bilinear", "bilinear form"),
        ("m1-pro-llama-2-7b", "without a KV cache"),
    ],
)
def test_what_tells_no_steps_has_no_engine(name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"{said}.*which tells no steps; measure at three or more"):
        variant(name).engine()


def test_a_profile_of_several_in_flight_alone_has_no_engine(golden: Profile, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is of 4 requests in flight alone; measure at three or more"):
        golden.at(4).engine()


def test_the_page_on_profiles_evaluates_costs_under_load(golden: Profile, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "profiles.md").read_text()
    block = next(text for text in page.split("```python\n")[1:] if "def under_load" in text).partition("```")[0]
    sizes = [(m, n, c) for c in (1, 3, 16, 40) for m, n in ((8, 1), (512, 100))]
    asked = [f'    print(under_load(load["{part}"], *size))' for part in ("runtime", "energy")]
    (tmp_path / "page.py").write_text("\n".join([block, f"for size in {sizes}:", *asked]))
    shutil.copy(GOLDEN, tmp_path / "first.json")
    command = [sys.executable, "page.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    costs = [(golden.served_at(c).runtime_s(m, n), golden.served_at(c).energy_j(m, n)) for m, n, c in sizes]
    assert [float(value) for value in said] == pytest.approx([float(cost) for pair in costs for cost in pair])


def test_the_page_on_profiles_has_the_station_of_a_closed_loop(golden: Profile) -> None:
    """Its recursion, written out for one size."""
    load = golden.under_load
    assert load is not None
    assert load.latency is not None
    c0, c1, c2, a, s, d1, chunk, wait, random, together = (each.value for each in load.latency.coefficients)
    m, n, q, b = 200, 40, 0.0, 0.0
    work = c1 * m + c2 * m**2
    for k in range(1, 9):
        idle = (1 - b / (k - 1)) ** (k - 1) if k > 1 else 1.0
        step = a * (1 - idle) + (s + d1 * (m + n / 2)) * b
        beside = step + c0 * idle
        ahead = min(k - 1, random * q + together * min(k - 1, max(chunk / m - 1, chunk / 2 / m)))
        ttft = max(1, m / chunk) * beside + work + wait * step + ahead * (m / chunk * beside + work)
        decode = (n - 1) * (a + (s + d1 * (m + n / 2)) * (1 + b)) + (k - 1 - ahead) * work
        q = k * ttft / (ttft + decode)
        b = k - q
    times = load.latency.times(m, n, 8)
    assert times["ttft"] == pytest.approx(ttft)
    assert times["tpot"] == pytest.approx(decode / (n - 1))
