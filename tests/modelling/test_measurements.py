"""Trials pooled from runs and files: what may be averaged with what."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.core.errors import UserError
from harness.modelling.fitting import build_profile, fit_quantities
from harness.modelling.measured_table import read_table
from harness.modelling.measurements import DISTURBED_ERROR, aggregate, observations
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import fit
from harness.modelling.sources import Pooled, from_runs
from harness.runs.records import load_run
from tests.helpers import FAKE, FOUR_POINTS, joulebench

Powers = dict[str, tuple[float, str]]
"""Watts and method of each component."""


@pytest.fixture(scope="module")
def bare_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the fake backend without any meter."""
    run = tmp_path_factory.mktemp("runs") / "bare"
    done = joulebench(*FAKE, "--model", "fake", "-o", run, *FOUR_POINTS)
    assert done.returncode == 0, done.stderr
    return run


def pooled(directories: list[Path]) -> Pooled:
    return from_runs([load_run(directory) for directory in directories])


@pytest.fixture
def metered(bare_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """The same run as meters of constant power would have recorded it."""

    def make(name: str, *sessions: Powers, total: tuple[str, ...] | None = None) -> Path:
        """One baseline and an equal share of the trials for each of ``sessions``."""
        run = tmp_path / name
        shutil.copytree(bare_run, run)
        lines = (run / "trials.jsonl").read_text().splitlines()
        with (run / "trials.jsonl").open("w") as stream:
            for i, line in enumerate(lines):
                trial = json.loads(line)
                powers = sessions[i % len(sessions)]
                trial["energy"] = report(powers, total or tuple(powers), trial["runtime_s"])
                stream.write(json.dumps(trial) + "\n")
        content = json.loads((run / "run.json").read_text())
        baselines = {}
        for i, powers in enumerate(sessions):
            figures = report(powers, total or tuple(powers), 1.0)
            baselines[str(i)] = {
                "components": {c: idle_figure(figure) for c, figure in figures["components"].items()},
                "total": idle_figure(figures["total"]),
            }
        content["sessions"][0]["idle"] = baselines
        (run / "run.json").write_text(json.dumps(content))
        return run

    return make


def report(powers: Powers, total: tuple[str, ...], seconds: float) -> dict[str, Any]:
    components = {c: figure(watts * seconds, method) for c, (watts, method) in powers.items()}
    whole = figure(sum(powers[c][0] for c in total) * seconds, powers[total[0]][1])
    return {"domains": {}, "components": components, "total": whole, "warnings": []}


def figure(joules: float, method: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("prefill_j", "prefill_ci95_j", "decode_j", "decode_ci95_j", "reason", "phase_reason"))
    return nothing | {"method": method, "request_j": joules, "request_ci95_j": joules / 100}


def idle_figure(whole: dict[str, Any]) -> dict[str, Any]:
    return {"power_w": whole["request_j"], "ci95_w": whole["request_ci95_j"], "method": whole["method"], "reason": None}


def test_runs_of_different_boundaries_or_methods_are_not_pooled(metered: Callable[..., Path]) -> None:
    gpu = metered("gpu", {"gpu": (100.0, "counter")})
    both = metered("both", {"gpu": (100.0, "counter"), "cpu": (20.0, "counter")})
    guessed = metered("guessed", {"gpu": (100.0, "estimated")})
    said = r"gpu counts gpu \(counter\), .*both counts cpu \(counter\) \+ gpu \(counter\): fit them apart"
    with pytest.raises(UserError, match=said):
        pooled([gpu, both])
    with pytest.raises(UserError, match=r"counts gpu \(estimated\): fit them apart"):
        pooled([gpu, guessed])
    assert pooled([both, metered("again", {"gpu": (100.0, "counter"), "cpu": (20.0, "counter")})]).measurements


def test_a_session_that_lost_a_meter_counts_for_no_total(metered: Callable[..., Path]) -> None:
    both: Powers = {"gpu": (100.0, "counter"), "cpu": (20.0, "counter")}
    source = pooled([metered("resumed", both, {"gpu": (100.0, "counter")})])
    for point in source.measurements:
        gpu = point.component_energy_j["gpu"]
        if point.energy_j is not None:
            assert point.energy_j.mean == pytest.approx(120 * point.runtime_s.mean, rel=0.1)
            assert point.energy_j.trials < gpu.trials
    assert any(point.energy_j for point in source.measurements)
    total, gpu_alone = (source.power.idle_w[what] for what in ("total", "gpu"))
    assert total is not None
    assert gpu_alone is not None
    assert total.mean == pytest.approx(120)
    assert gpu_alone.mean == pytest.approx(100)


def test_a_meter_of_the_whole_system_is_no_part_of_the_sum(metered: Callable[..., Path]) -> None:
    powers = {"cpu": (20.0, "counter"), "gpu": (100.0, "counter"), "system": (150.0, "counter")}
    source = pooled([metered("psys", powers, total=("cpu", "gpu"))])
    quantities = fit_quantities(source.measurements, source.identity.kv_cache)
    profile = build_profile("p", source.identity, source.measurements, quantities, source.power, source.provenance)
    assert set(profile.components) == {"cpu", "gpu"}
    assert profile.energy_j(64, 64) == pytest.approx(profile.energy_j(64, 64, "cpu") + profile.energy_j(64, 64, "gpu"))
    assert any("whole system" in note for note in source.provenance.notes)


def test_idle_power_is_as_uncertain_as_two_baselines_leave_it(metered: Callable[..., Path]) -> None:
    """Student's factor for two values is 12.7; the sensors' part does not average out."""
    run = metered("idle", {"gpu": (100.0, "counter")}, {"gpu": (102.0, "counter")})
    idle_w = pooled([run]).power.idle_w["gpu"]
    assert idle_w is not None
    assert idle_w.mean == pytest.approx(101)
    assert idle_w.half_width == pytest.approx(np.hypot(12.706 * np.sqrt(2) / np.sqrt(2), 1.01), rel=1e-3)


def test_repeating_trials_does_not_lessen_what_the_sensors_leave(metered: Callable[..., Path]) -> None:
    """A gauge of 1 % half-width: every point is at least that uncertain, and a prediction is by what points share."""
    source = pooled([metered("gauge", {"gpu": (100.0, "counter")})])
    observed = observations(source.measurements, "gpu")
    assert observed is not None
    assert (observed.noise >= 0.0099 / 1.96).all()
    quantities = fit_quantities(source.measurements, source.identity.kv_cache)
    profile = build_profile("p", source.identity, source.measurements, quantities, source.power, source.provenance)
    predicted = profile.predict_energy(64, 64)
    # At one of four points of four coefficients, little is averaged.
    assert predicted.sd["trials"] >= 0.5 * 0.0099 / 1.96 * predicted.value


def test_a_file_with_a_system_meter_beside_components_counts_none_twice(tmp_path: Path) -> None:
    rows = [{"input_tokens": 8, "output_tokens": 8, "runtime_s": 1.0, "cpu_energy_j": 5.0, "system_energy_j": 9.0}] * 2
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    (point,) = aggregate(read_table(tmp_path / "t.csv").trials.table)
    assert point.energy_j is not None
    assert point.energy_j.mean == 5
    assert set(point.component_energy_j) == {"cpu"}
    assert observations([point], "system") is None


@pytest.fixture
def disturbed(bare_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """The same run with some trials disturbed by others, who made them take longer."""

    def make(name: str, spoil: Callable[[int, dict[str, Any]], bool], factor: float = 2.0) -> Path:
        """``spoil`` is asked for each measured trial with its number among those of its point, from 0."""
        run = tmp_path / name
        shutil.copytree(bare_run, run)
        lines, seen = [], Counter[tuple[int, int]]()
        for line in (run / "trials.jsonl").read_text().splitlines():
            trial = json.loads(line)
            size = trial["input_tokens"], trial["output_tokens"]
            if trial["purpose"] == "measure":
                if spoil(seen[size], trial):
                    trial |= {"status": "disturbed", "reason": "other programs used 60 % of the CPU (limit 10 %)"}
                    trial |= {cost: factor * trial[cost] for cost in ("runtime_s", "prefill_s", "decode_s")}
                seen[size] += 1
            lines.append(json.dumps(trial))
        (run / "trials.jsonl").write_text("\n".join(lines) + "\n")
        return run

    return make


def test_disturbed_trials_are_left_out_where_a_point_has_others(bare_run: Path, disturbed: Callable[..., Path]) -> None:
    calm = pooled([bare_run])
    partly = pooled([disturbed("partly", lambda at, trial: at == 0 and trial["input_tokens"] == 64)])
    assert [point.runtime_s.mean for point in partly.measurements] == pytest.approx(
        [point.runtime_s.mean for point in calm.measurements]
    )
    assert [(point.trials, point.disturbed_trials) for point in partly.measurements] == [(3, 0), (3, 0), (2, 0), (2, 0)]
    assert partly.provenance.excluded_trials == 2
    assert partly.provenance.notes == ["2 disturbed trials are not used: there are undisturbed ones of their points"]
    # Undisturbed trials of another run stand for the disturbed ones too.
    both = pooled([disturbed("wholly", lambda at, trial: True), bare_run])
    assert [(point.trials, point.disturbed_trials) for point in both.measurements] == [(3, 0)] * 4
    assert not any("disturbed_trials" in point.model_dump() for point in both.measurements)


def test_a_disturbed_point_is_kept_marked_and_weighs_little(tmp_path: Path) -> None:
    points = [option for m in (8, 32, 64, 128) for n in (8, 32, 64) for option in ("--point", f"{m},{n}")]
    assert joulebench(*FAKE, "-m", "fake:noise=0.01", "-o", tmp_path / "wide", *points).returncode == 0
    calm = fit(tmp_path / "wide")
    lines = [json.loads(line) for line in (tmp_path / "wide" / "trials.jsonl").read_text().splitlines()]
    for trial in lines:
        if trial["purpose"] == "measure" and trial["input_tokens"] == 128:
            trial |= {cost: 1.5 * trial[cost] for cost in ("runtime_s", "prefill_s", "decode_s")}

    def fitted(status: str) -> Profile:
        marked = [
            trial | {"status": status} if trial["purpose"] == "measure" and trial["input_tokens"] == 128 else trial
            for trial in lines
        ]
        (tmp_path / "wide" / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in marked))
        return fit(tmp_path / "wide")

    unmarked, marked = fitted("ok"), fitted("disturbed")
    truth = calm.runtime_s(128, 64)
    off_unmarked, off_marked = (abs(made.runtime_s(128, 64) / truth - 1) for made in (unmarked, marked))
    assert off_unmarked > 0.1
    assert off_marked < 0.05
    assert [point.disturbed_trials for point in marked.measurements if point.input_tokens == 128] == [3, 3, 3]
    note = "9 of 36 trials (3 of 12 points) are disturbed: others used the machine"
    assert any(note in said for said in marked.provenance.notes)
    assert Profile.model_validate_json(marked.model_dump_json()) == marked


def test_where_all_is_disturbed_the_model_is_as_unsure_as_that_makes_it(
    bare_run: Path, disturbed: Callable[..., Path]
) -> None:
    calm = pooled([bare_run]).measurements
    spoilt = pooled([disturbed("spoilt", lambda at, trial: True, factor=1.0)]).measurements
    before, after = observations(calm, "runtime"), observations(spoilt, "runtime")
    assert before is not None
    assert after is not None
    assert after.cost.tolist() == before.cost.tolist()
    assert after.noise.min() >= DISTURBED_ERROR
    # What all points have alike doesn't average out over them.
    assert (before.shared_error, after.shared_error) == (0.0, DISTURBED_ERROR)


def test_idle_power_that_was_read_beside_others_is_doubted(metered: Callable[..., Path]) -> None:
    run = metered("beside", {"gpu": (100.0, "counter")})
    assert not any("idle power" in note for note in pooled([run]).provenance.notes)
    content = json.loads((run / "run.json").read_text())
    for baseline in content["sessions"][0]["idle"].values():
        baseline["conditions"] = {"disturbed": "other programs used 60 % of the CPU (limit 10 %)"}
    (run / "run.json").write_text(json.dumps(content))
    assert any("idle power" in note and "too high" in note for note in pooled([run]).provenance.notes)
