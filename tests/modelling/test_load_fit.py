"""From points at several numbers of requests in flight to the models under load of a profile."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.modelling.latency_record import latency_model
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import ProfileFit, fit_pooled
from harness.modelling.sources import from_csv

SIZES = ((32, 16), (128, 16), (512, 16), (32, 128), (128, 64), (512, 128))
COUNTS = (1, 2, 4, 16)


def runtime_s(m: float, n: float, c: int) -> float:
    contexts = (n - 1) * m + (n - 1) * n / 2
    return 0.02 + c * 1e-4 * m + (n - 1) * (0.02 + 0.001 * c) + 1e-6 * c * contexts


def energy_j(m: float, n: float, c: int) -> float:
    """With 80 W that don't depend on what is computed."""
    return 80.0 * runtime_s(m, n, c) / c + 0.01 * m + 0.2 * n


def fitted(folder: Path, counts: Sequence[int] = COUNTS, kv_cache: bool = True, kind: str | None = None) -> ProfileFit:
    rows = ["input_tokens,output_tokens,runtime_s,prefill_s,decode_s,gpu_energy_j,concurrency"]
    for m, n in SIZES:
        for c in counts:
            whole, first = runtime_s(m, n, c), runtime_s(m, 1, c)
            rows.append(f"{m},{n},{whole},{first},{whole - first},{energy_j(m, n, c)},{c}")
    path = folder / "trials.csv"
    path.write_text("\n".join(rows) + "\n")
    pooled = from_csv(path, "box", "mine", kv_cache, meter="nvml")
    return fit_pooled(replace(pooled, in_flight_as=kind))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ProfileFit:
    return fitted(tmp_path_factory.mktemp("loads"), kind="static batch")


def test_a_fit_of_several_numbers_in_flight_knows_those_between(made: ProfileFit) -> None:
    profile = made.profile
    assert (profile.identity.concurrency, made.load.why_not) == (1, "")
    between = profile.at(8)
    for m, n in ((64, 32), (512, 128)):
        assert between.runtime_s(m, n) == pytest.approx(runtime_s(m, n, 8), rel=0.01)
        assert between.energy_j(m, n) == pytest.approx(energy_j(m, n, 8), rel=0.01)
        assert between.energy_j(m, n, "gpu") == pytest.approx(energy_j(m, n, 8), rel=0.01)
    load = profile.under_load
    assert load is not None
    assert load.energy is not None
    assert {kind: error.mape < 0.01 for kind, error in load.runtime.held_out.items()} == dict.fromkeys(
        ("sizes", "inner", "outermost"), True
    )
    assert load.runtime.held_out["outermost"].worst.concurrency == 16
    assert [rival.name for rival in load.runtime.rivals][1] == "linear in c"
    assert load.runtime.rivals[2].mape["inner"] > load.runtime.held_out["inner"].mape
    assert Profile.parse(profile.dump()) == profile


def test_static_power_is_derived(made: ProfileFit) -> None:
    load = made.profile.under_load
    assert load is not None
    assert load.static_power_w == pytest.approx(80.0, rel=0.01)
    assert load.static_power_ci95_w is not None
    assert load.static_power_ci95_w < 1


def test_latencies_of_a_static_batch_are_its_phases(made: ProfileFit) -> None:
    load = made.profile.under_load
    assert load is not None
    assert load.latency is not None
    times = load.latency.times([64, 512], [32, 128], 8)
    decode = [runtime_s(m, n, 8) - runtime_s(m, 1, 8) for m, n in ((64, 32), (512, 128))]
    assert times["ttft"] == pytest.approx([runtime_s(64, 1, 8), runtime_s(512, 1, 8)], rel=0.02)
    assert times["tpot"] == pytest.approx([decode[0] / 31, decode[1] / 127], rel=0.02)
    assert 0.1 < load.latency.relative_95("tpot", 8) < 0.15, "mostly another session, of which one tells nothing"
    assert not load.latency.relative_95("tpot", 200) < 1, "too far to know"


def test_a_size_is_left_out_of_latencies_whole_where_outputs_end_early(made: ProfileFit) -> None:
    """One size is 1.5 times as slow as the others say, which only it itself tells."""
    profile = made.profile
    assert profile.under_load is not None
    points = [*profile.measurements, *profile.under_load.measurements]
    found = []
    for less in (0.0, 0.001):
        measured = []
        for point in points:
            assert point.prefill_s is not None
            slow = 1.5 if (point.input_tokens, point.output_tokens_requested) == (512, 128) else 1.0
            prefill = point.prefill_s.model_copy(update={"mean": slow * point.prefill_s.mean})
            output = point.output_tokens - less * point.concurrency
            measured.append(point.model_copy(update={"prefill_s": prefill, "output_tokens": output}))
        model = latency_model(measured, "static batch", profile.under_load.runtime, None)
        assert model is not None
        found.append(model.held_out["ttft"]["sizes"].mape)
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[0] > 0.03


def test_all_points_count_and_the_notes_say_where(made: ProfileFit) -> None:
    origin = made.profile.provenance
    assert origin.excluded_trials == 0
    assert (
        "the model is of 1 request in flight; 18 points are in the model under load alone, at 2, 4, 16 in flight"
        in (origin.notes)
    )


@pytest.mark.parametrize(
    ("counts", "kv_cache", "kind", "said"),
    [
        ((1, 4), True, None, "it takes at least 3 numbers of requests in flight, 1 among them, and measured are 1, 4"),
        ((2, 4, 8), True, None, "it takes at least 3 numbers of requests in flight, 1 among them"),
        (COUNTS, False, None, "without the KV cache its form doesn't hold"),
        (COUNTS, True, "closed loop or static batch", "don't cost the same: fit their runs apart"),
    ],
)
def test_where_there_is_no_model_under_load_a_note_says_why(
    tmp_path: Path, counts: Sequence[int], kv_cache: bool, kind: str | None, said: str
) -> None:
    made = fitted(tmp_path, counts, kv_cache, kind)
    assert made.profile.under_load is None
    assert f"no model under load: {kind if kind else ''}" in made.load.why_not
    assert said in made.profile.provenance.notes[-1]
    assert made.profile.provenance.excluded_trials == len(SIZES) * (len(counts) - 1)
