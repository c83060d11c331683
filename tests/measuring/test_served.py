"""A served model through the public door, against a stub with known delays: a sweep over sizes and requests in flight,
interrupted, resumed and extended; what is recorded of it, read back, shown and fitted."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import harness as jb
from harness.core.sizes import Point
from harness.measuring.session import MeasuringSession
from harness.runs.records import RecordedRun, read_stamps
from harness.runs.schema import Trial
from harness.runs.summary import summarise
from tests.helpers import joulebench, refused
from tests.measuring.served import QUICK, TPOT_S, TTFT_S, measuring, stub_server, wait_for_trials

SIZES = ((4, 8), (16, 12), (48, 24), (4, 24))
POINTS = [option for m, n in SIZES for option in ("--point", f"{m},{n}")]
POWER_W = 150.0
METER = f"fake:idle_w={POWER_W}:busy_w={POWER_W}:period_s=0.002"
METERED = (*QUICK, "--probes", METER, "--sample-rate", "200", "--runs", "1")


@dataclass(frozen=True)
class Swept:
    """A run that was interrupted, and resumed with more requests in flight."""

    run: RecordedRun
    said: str
    """What the first session said in the end."""
    first: bytes
    """The trials that it left."""
    command: tuple[str, ...]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    directory = tmp_path_factory.mktemp("served") / "run"
    trials = directory / "trials.jsonl"
    with pytest.MonkeyPatch.context() as patch, stub_server() as stub:
        patch.setattr(MeasuringSession, "_note_idle", lambda self, when: None)
        command = ("measure", "--url", stub.url, *POINTS, *METERED, "-o", str(directory))
        said = interrupted_after(3, directory, [*command, "-c", "1,2"])
        first = trials.read_bytes()
        resumed = joulebench(*command, "-c", "1,2,4")
        assert resumed.returncode == 0, resumed.stderr
        again = joulebench(*command, "-c", "1,2,4")
        assert "nothing is left to measure" in again.stdout
    return Swept(jb.load_run(directory), said, first, command)


def interrupted_after(count: int, directory: Path, command: list[str]) -> str:
    """Measure in another process until there are so many trials, end it as Ctrl-C does; what it said then."""
    with measuring(command) as process:
        wait_for_trials(count, directory, process)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 130
    return said


def measured(swept: Swept) -> list[Trial]:
    return [trial for trial in swept.run.trials if trial.usable]


def test_an_interrupted_sweep_goes_on_where_it_was_and_takes_further_concurrencies(swept: Swept) -> None:
    assert "resume with: " in swept.said
    assert (swept.run.directory / "trials.jsonl").read_bytes().startswith(swept.first)
    assert [each.ended for each in swept.run.facts.sessions] == ["interrupted", "complete"]
    assert [trial.id for trial in swept.run.trials] == list(range(len(swept.run.trials)))
    assert all(trial.status == "ok" for trial in swept.run.trials)
    points = [trial.point for trial in measured(swept)]
    assert sorted(points) == sorted(Point(m, n, c) for c in (1, 2, 4) for m, n in SIZES)
    assert [point.concurrency for point in points[-4:]] == [4] * 4, "what was planned first is measured first"
    assert {(*size, c) for size in SIZES for c in (1, 2, 4)} == set(swept.run.facts.plan.points)


def test_every_request_has_its_size_and_a_prompt_of_its_own(swept: Swept) -> None:
    numbers: list[int] = []
    for trial in swept.run.trials:
        stamps = read_stamps(swept.run.directory, trial)
        assert set(stamps.input_tokens) == {trial.input_tokens}
        assert set(stamps.output_tokens[stamps.counted]) == {trial.output_tokens}
        assert (stamps.output_tokens[~stamps.counted] <= trial.output_tokens).all()
        assert trial.asked_tokens is None
        assert trial.output_tokens_produced == trial.output_tokens
        numbers += stamps.number.tolist()
    assert len(set(numbers)) == len(numbers)


def test_times_are_those_of_the_server(swept: Swept) -> None:
    for c in (1, 2, 4):
        trials = [trial for trial in measured(swept) if trial.concurrency == c]
        longest = [trial for trial in trials if trial.output_tokens == 24]
        whole_s = TTFT_S + 23 * TPOT_S
        # What a busy machine adds is no fault of ours: the best trial shows what is measured.
        assert nearest("ttft_s", trials, TTFT_S) == pytest.approx(TTFT_S, abs=0.002)
        assert min(trial.load.ttft_s.p50_s for trial in trials if trial.load and trial.load.ttft_s) >= TTFT_S
        assert nearest("tpot_s", trials, TPOT_S) == pytest.approx(TPOT_S, rel=0.1)
        assert nearest("e2e_s", longest, whole_s) == pytest.approx(whole_s, abs=0.004)
        assert min(trial.runtime_s or 0.0 for trial in longest) == pytest.approx(whole_s, rel=0.25)


def nearest(latency: str, trials: list[Trial], expected_s: float) -> float:
    """The median of the trial in which it is nearest to what is expected."""
    medians_s = [getattr(trial.load, latency).p50_s for trial in trials]
    return float(min(medians_s, key=lambda median_s: abs(median_s - expected_s)))


def test_requests_of_a_window_follow_littles_law_and_the_server_counts_as_many(swept: Swept) -> None:
    for trial in measured(swept):
        load = trial.load
        assert load is not None
        assert load.kind == "closed loop"
        assert trial.requests == load.requests
        assert trial.runtime_s == pytest.approx(trial.concurrency * load.window_s / load.requests)
        assert load.requests + 1e-9 >= load.whole_requests >= 2
        assert 0.8 * trial.concurrency < load.in_flight_mean <= load.in_flight_max <= trial.concurrency
        stamps = read_stamps(swept.run.directory, trial)
        assert load.server.grown("requests_total") == load.all_requests == len(stamps)
        assert load.server.grown("generation_tokens_total") == stamps.output_tokens.sum()
        assert load.server.grown("prompt_tokens_total") == stamps.input_tokens.sum()
        assert load.server.readings >= (load.window_s > 0.2)


def test_energies_of_all_stretches_add_up_and_the_windows_is_shared_by_its_requests(swept: Swept) -> None:
    for trial in measured(swept):
        parts, energy = trial.stretches, trial.energy
        assert parts is not None
        assert energy is not None
        each = [parts.idle_before, parts.ramp, parts.window, parts.drain, parts.idle_after]
        joules = [part.total.energy_j for part in each]
        assert all(value is not None and math.isfinite(value) for value in joules), joules
        assert math.fsum(value for value in joules if value is not None) == pytest.approx(
            parts.whole.total.energy_j, rel=1e-9
        )
        assert [part.end_ns for part in each[:-1]] == [part.start_ns for part in each[1:]]
        assert parts.window.total.energy_j is not None
        assert trial.requests is not None
        assert energy.total.request_j == pytest.approx(parts.window.total.energy_j / trial.requests, rel=1e-12)
        assert trial.window_s is not None
        assert parts.window.total.energy_j == pytest.approx(POWER_W * trial.window_s, rel=0.1)


def test_the_table_and_the_points_say_concurrency(swept: Swept) -> None:
    table = swept.run.table()
    chosen = table[table["purpose"] == "measure"]
    assert chosen["concurrency"].value_counts().to_dict() == {1: 4, 2: 4, 4: 4}
    rate = chosen["concurrency"] * chosen["output_tokens"] / chosen["runtime_s"]
    assert np.allclose(chosen["output_tokens_per_s"], rate)
    assert np.allclose(chosen["tokens_per_j"], chosen["output_tokens"] / chosen["energy_j"])
    assert chosen[["ttft_p50_s", "ttft_p99_s", "e2e_p90_s", "in_flight_mean", "requests"]].notna().all(axis=None)
    assert chosen["prefill_tokens_per_s"].isna().all()
    assert chosen[chosen["concurrency"] > 1]["prefill_energy_j"].isna().all()
    energy = chosen.groupby("concurrency")["energy_j"].mean()
    assert energy[4] < energy[2] < energy[1]


def test_command_line_shows_it_as_a_table_and_as_json(swept: Swept) -> None:
    shown = joulebench("trials", swept.run.directory).stdout
    assert "Under load (closed loop)" in shown
    assert "TTFT p50" in shown
    rows = json.loads(joulebench("trials", swept.run.directory, "--json").stdout)
    assert {row["concurrency"] for row in rows} == {1, 2, 4}
    points = summarise(swept.run.trials)
    assert all(point.load and point.load.ttft_s and point.energy_j for point in points)


def test_a_model_is_fitted_to_what_was_measured(swept: Swept, tmp_path: Path) -> None:
    for c in (1, 4):
        done = joulebench("fit", swept.run.directory, "-c", c, "-o", tmp_path / "profile.json")
        assert done.returncode == 0, done.stderr
        profile = jb.Profile.load(tmp_path / "profile.json")
        assert [point.concurrency for point in profile.measurements] == [c] * 4


def test_what_would_mix_unlike_runs_is_refused(swept: Swept) -> None:
    with stub_server() as other:
        elsewhere = ["measure", "--url", other.url, *swept.command[3:]]
        assert "--url" in refused(joulebench(*elsewhere))
