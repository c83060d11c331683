"""The one rule of what may be compared."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.modelling.comparable import check, check_drawn
from harness.modelling.contrast import compare
from harness.modelling.profile import Profile
from harness.modelling.profile_schema import IN_FLIGHT_AS
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "data" / "profile-schema-2.json"


def profile(
    name: str, components: tuple[str, ...] = ("cpu", "gpu"), methods: str = "counter", **identity: Any
) -> Profile:
    """The golden profile with another name, boundary, method and identity."""
    content = json.loads(GOLDEN.read_text())
    part = content["components"]["gpu"] | {"method": methods}
    energy = content["energy"] | {"method": methods} if components is not None else None
    content |= {
        "name": name,
        "components": dict.fromkeys(components, part),
        "energy": energy,
        "identity": content["identity"] | identity,
    }
    if identity.get("kv_cache") is False:
        content["runtime"] = content["energy"] = None
        content |= json.loads((GOLDEN.parents[2] / "profiles" / "m1-pro-mistral-7b.json").read_text()) | {
            "name": name,
            "identity": content["identity"],
        }
    return Profile.parse(json.dumps(content))


def test_like_is_compared_with_like_without_a_word() -> None:
    comparison = check([profile("a"), profile("b")])
    assert comparison.boundary == ("cpu", "gpu")
    assert comparison.warnings == ()
    assert not comparison.mixed


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"model": "other"}, "different models"),
        ({"kv_cache": False}, "differ in cache mode"),
        ({"dtype": "float32"}, "differ in precision"),
    ],
)
def test_what_differs_is_refused_unless_mixed_is_allowed(other: dict[str, Any], said: str) -> None:
    pair = [profile("a"), profile("b", **other)]
    with pytest.raises(UserError, match=f"{said}.*measure one again with the same -.*--allow-mixed"):
        check(pair)
    mixed = check(pair, allow_mixed=True)
    assert mixed.mixed
    assert any(said in warning for warning in mixed.warnings)


def test_another_way_of_decoding_is_compared_with_a_warning() -> None:
    pair = [profile("a", settings={"compile": "none"}), profile("b", settings={"compile": "graph"})]
    drawn = check_drawn([(p.name, p.identity, frozenset(p.components)) for p in pair], None, False)
    for comparison in (check(pair), drawn):
        assert not comparison.mixed
        assert comparison.warnings == ("decode steps are launched in different ways (none: a, graph: b)",)
    assert not check([profile("a"), profile("b", settings={"compile": "graph"})]).warnings
    chunked = [profile("a", settings={"prefill_chunk": None}), profile("b", settings={"prefill_chunk": 64})]
    assert check(chunked).warnings == ("prefills are cut into different chunks (none: a, 64: b)",)


def test_other_loads_are_compared_and_each_is_said() -> None:
    trio = [profile("a"), profile("b", concurrency=8), profile("c", concurrency=8)]
    drawn = check_drawn([(p.name, p.identity, frozenset(p.components)) for p in trio], None, False)
    said = "energy and runtime are those of a request at different loads (1 in flight: a, 8 in flight: b and 1 more)"
    for comparison in (check(trio), drawn):
        assert not comparison.mixed
        assert comparison.warnings == (said,)
    assert not check([profile("a", concurrency=None), profile("b", concurrency=8)]).warnings
    kinds = {"a": "static batch", "b": "closed loop"}
    (warning,) = check(
        [profile(name, concurrency=8, settings={IN_FLIGHT_AS: kind}) for name, kind in kinds.items()]
    ).warnings
    assert warning == "requests in flight are computed in different ways (static batch: a, closed loop: b)"


def test_an_unknown_precision_hides_no_difference_in_any_order() -> None:
    trio = [profile("a"), profile("b", dtype=None), profile("c", dtype="float32")]
    for order in itertools.permutations(trio):
        with pytest.raises(UserError, match="differ in precision"):
            check(order)


def test_a_meter_of_the_whole_system_is_chosen_alone() -> None:
    pair = [profile("a", ("system",)), profile("b", ("cpu", "gpu", "system"))]
    assert check(pair, "system").boundary == ("system",)
    with pytest.raises(UserError, match="system contains the other components; name it alone"):
        check(pair, "cpu+system")
    with pytest.raises(UserError, match="--boundary system or part of it would work"):
        check(pair)


def test_an_unknown_precision_is_no_difference() -> None:
    assert not check([profile("a"), profile("b", dtype=None, concurrency=None)]).mixed


def test_more_components_on_one_side_are_refused_with_what_would_work() -> None:
    pair = [profile("a"), profile("b", ("cpu", "gpu", "dram"))]
    with pytest.raises(UserError, match=r"b counts cpu\+dram\+gpu.*--boundary cpu\+gpu or part of it would work"):
        check(pair)
    assert check(pair, "gpu+cpu").boundary == ("cpu", "gpu")
    assert check(pair, ["gpu"]).boundary == ("gpu",)
    with pytest.raises(UserError, match="a has no energy of dram"):
        check(pair, "dram")
    # What a profile does not hold can't be had by allowing anything.
    with pytest.raises(UserError, match="a has no energy of dram"):
        check(pair, "dram", allow_mixed=True)
    assert check(pair, allow_mixed=True).boundary is None


def test_nothing_in_common_says_so() -> None:
    with pytest.raises(UserError, match="no component in common"):
        check([profile("a", ("gpu",)), profile("b", ("cpu",))])


def test_estimated_is_never_set_against_measured() -> None:
    pair = [profile("a"), profile("b", methods="estimated")]
    with pytest.raises(UserError, match="an estimated energy of cpu is set against a measured one"):
        check(pair)
    assert check(pair, allow_mixed=True).mixed
    both = check([profile("a", methods="estimated"), profile("b", methods="estimated")])
    assert not both.mixed


def test_another_method_alone_is_a_warning() -> None:
    comparison = check([profile("a"), profile("b", methods="modelled")])
    assert not comparison.mixed
    assert any("energy of gpu was measured by different methods" in warning for warning in comparison.warnings)


def test_sums_without_components_are_compared_as_sums() -> None:
    assert check([profile("a", ()), profile("b", ())]).boundary is None
    with pytest.raises(UserError, match="an undivided sum"):
        check([profile("a"), profile("b", ())])


def test_runtime_alone_needs_no_boundary() -> None:
    pair = [profile("a"), profile("b", ("cpu",), methods="estimated")]
    comparison = check(pair, energy=False)
    assert comparison.boundary is None
    assert not comparison.mixed
    bare = json.loads(GOLDEN.read_text()) | {"energy": None, "components": {}, "name": "bare"}
    with pytest.raises(UserError, match="bare has no energy"):
        check([profile("a"), Profile.parse(json.dumps(bare))])


def test_profiles_of_one_name_are_told_apart() -> None:
    with pytest.raises(UserError, match="estimated"):
        check([profile("same", methods="estimated"), profile("same", methods="counter")])
    with pytest.raises(UserError, match="model"):
        check([profile("same"), profile("same", model="another")])
    assert check([profile("same", methods="modelled"), profile("same", methods="counter")]).warnings


def test_llama_cpp_and_torch_call_one_precision_by_two_names() -> None:
    assert not check([profile("a", dtype="F16"), profile("b", dtype="float16")]).mixed
    with pytest.raises(UserError, match="differ in precision"):
        check([profile("a", dtype="Q4_0"), profile("b", dtype="float16")])


def test_what_is_not_comparable_is_named_in_one_line() -> None:
    pair = [profile("a"), profile("b", model="other", dtype="float32", concurrency=8)]
    mark = check(pair, allow_mixed=True).mark
    assert mark == "NOT COMPARABLE (--allow-mixed): different models and precisions"
    assert check([profile("a"), profile("b")]).mark == ""


def test_an_energy_ratio_never_falls_below_nothing() -> None:
    """Intervals wider than their values: the ratio may be anything from 0 up, never negative."""
    sure, unsure = (_with_misfit(profile(name), misfit) for name, misfit in (("a", 0.01), ("b", 2.0)))
    for first, second in ((sure, unsure), (unsure, sure), (unsure, unsure), (sure, sure)):
        found = compare(first, second, [8, 512], [8, 64]).runtime
        assert (found.ratio_low >= 0).all()
        assert (found.ratio_low <= found.ratio).all()
        assert (found.ratio <= found.ratio_high).all()
    assert np.isinf(compare(sure, unsure, [8], [8]).runtime.ratio_high).all()
    assert (compare(unsure, sure, [8], [8]).runtime.ratio_low == 0).all()


@pytest.mark.parametrize("misfit", [0.001, 0.05, 0.3, 0.8])
def test_a_ratio_excludes_one_exactly_where_the_difference_is_significant(misfit: float) -> None:
    found = compare(
        Profile.load("m1-pro-llama-2-7b"), _with_misfit(Profile.load("swing-a100-llama-2-7b"), misfit), SIZES, SIZES
    )
    assert found.energy is not None
    excludes = (found.energy.ratio_low > 1) | (found.energy.ratio_high < 1)
    assert (excludes == (found.energy.cheaper != "")).all()


def _metered(name: str, gain_ci95: float, meters: list[str]) -> Profile:
    content = json.loads(GOLDEN.read_text()) | {"name": name}
    for part in (content["energy"], *content["components"].values()):
        part |= {"gain_ci95": gain_ci95, "meters": meters}
    return Profile.parse(json.dumps(content))


HERE, THERE = ["0123456789abcdef"], ["fedcba9876543210"]


@pytest.mark.parametrize(
    ("meters", "shared"), [((HERE, HERE), True), ((HERE, THERE), False), ((HERE, []), False), (([], []), False)]
)
def test_a_gain_cancels_where_both_share_a_meter(meters: tuple[list[str], list[str]], shared: bool) -> None:
    """A twentieth apart and known to a few per cent each: with a common gain that tells, with two gains it doesn't."""
    first, second = (_metered(name, 0.3, one) for name, one in zip("ab", meters, strict=True))
    known = [_metered(name, 0.0, one) for name, one in zip("ab", meters, strict=True)]
    found, without = compare(first, second, [64], [32]).energy, compare(*known, [64], [32]).energy
    assert found is not None
    assert without is not None
    assert found.shared_meters == shared
    width, least = ((one.ratio_high - one.ratio_low)[0] for one in (found, without))
    assert (width == pytest.approx(least)) == shared
    if not shared:
        # Two gains of 30 % each on a ratio of 1.
        assert found.ratio_high[0] > 1 + 0.3 * np.sqrt(2)


def test_a_shared_gain_stays_where_the_meters_have_other_shares() -> None:
    """Both systems by one machine's meters of CPU and GPU; one takes most of its energy from the CPU."""
    content = json.loads(_metered("b", 0.3, HERE).dump())
    for name, factor in (("cpu", 5.5), ("gpu", 0.1)):
        for coefficient in content["components"][name]["model"]["coefficients"]:
            coefficient["value"] *= factor
    swapped, alike = Profile.parse(json.dumps(content)), _metered("b", 0.3, HERE)
    widths = []
    for other in (alike, swapped):
        found = compare(_metered("a", 0.3, HERE), other, [64], [32]).energy
        assert found is not None
        assert found.shared_meters
        widths.append(float(found.ratio_high[0] - found.ratio_low[0]))
    # Of energies that are 5/6 GPU's and 1/12 GPU's: gains of 30 % on three quarters each way.
    assert widths[1] == pytest.approx(np.hypot(widths[0], 2 * 0.3 * 0.75 * np.sqrt(2)), rel=0.02)


def test_no_interval_is_given_too_far_outside_what_was_measured() -> None:
    found = compare(Profile.load("m1-pro-llama-2-7b"), Profile.load("swing-a100-llama-2-7b"), [64, 9000], [32])
    assert found.too_far.tolist() == [False, True]
    assert found.energy is not None
    for contrast in (found.runtime, found.energy):
        assert np.isfinite(contrast.ratio).all()
        for column in (contrast.ratio_low, contrast.ratio_high, contrast.difference_ci95):
            assert np.isfinite(column).tolist() == [True, False]
        assert contrast.cheaper[1] == ""


def test_sessions_count_on_both_sides() -> None:
    content = json.loads(GOLDEN.read_text())
    quiet, loud = json.loads(json.dumps(content)), json.loads(json.dumps(content))
    quiet["runtime"]["sessions"]["sd"], loud["runtime"]["sessions"]["sd"] = 0.0, 0.2
    widths = {}
    for names, pair in (("neither", (quiet, quiet)), ("one", (quiet, loud)), ("both", (loud, loud))):
        first, second = (
            Profile.parse(json.dumps(each | {"name": name})) for name, each in zip("ab", pair, strict=True)
        )
        widths[names] = float(compare(first, second, [64], [32]).runtime.difference_ci95[0])
    assert widths["neither"] < widths["one"] < widths["both"]
    assert widths["both"] == pytest.approx(np.sqrt(2 * widths["one"] ** 2 - widths["neither"] ** 2), rel=1e-6)


SIZES = [8, 16, 24, 32, 48, 64, 128]


def _with_misfit(made: Profile, misfit: float) -> Profile:
    """The profile with another relative error of its models."""
    content = json.loads(made.dump())
    for model in (
        content["runtime"],
        *(part["model"] for part in (content["energy"], *content["components"].values())),
    ):
        model["misfit"]["sd"] = misfit
    return Profile.parse(json.dumps(content))
