"""Trials pooled from runs and files: what may be averaged with what."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.core.errors import UserError
from harness.modelling.fitting import build_profile, fit_quantities
from harness.modelling.measurements import aggregate, observations
from harness.modelling.sources import Pooled, from_runs
from harness.modelling.trials_csv import read_csv
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
    """A gauge of 1 % half-width: every point is at least that uncertain, and so is every prediction."""
    source = pooled([metered("gauge", {"gpu": (100.0, "counter")})])
    observed = observations(source.measurements, "gpu")
    assert observed is not None
    assert (observed.noise >= 0.0099 / 1.96).all()
    quantities = fit_quantities(source.measurements, source.identity.kv_cache)
    profile = build_profile("p", source.identity, source.measurements, quantities, source.power, source.provenance)
    predicted = profile.predict_energy(64, 64)
    assert predicted.new_standard_error >= 0.0099 / 1.96 * predicted.value


def test_a_file_with_a_system_meter_beside_components_counts_none_twice(tmp_path: Path) -> None:
    rows = [{"input_tokens": 8, "output_tokens": 8, "runtime_s": 1.0, "cpu_energy_j": 5.0, "system_energy_j": 9.0}] * 2
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    (point,) = aggregate(read_csv(tmp_path / "t.csv").table)
    assert point.energy_j is not None
    assert point.energy_j.mean == 5
    assert set(point.component_energy_j) == {"cpu"}
    assert observations([point], "system") is None
