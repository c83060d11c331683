"""How a run ends: its numbers, what was and wasn't measured, the table with its reasons, what to type next."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.sizes import Point
from harness.core.statistics import Estimate
from harness.runs.records import RecordedRun, load_run
from harness.runs.schema import Trial
from harness.runs.summary import Drift, headline, summarise
from harness.showing.run_results import drift_text, headline_lines, result_lines
from tests.helpers import FAKE, ROOT, joulebench

DATA = ROOT / "tests" / "data"
SIZES = ["-p", "8,32", "-n", "8,32"]


def lines_of(run: RecordedRun) -> list[str]:
    return list(result_lines(run, summarise(run.trials)))


def before_table(output: str) -> list[str]:
    """The lines of the results that stand before the table of points."""
    lines = output.splitlines()
    return lines[: next(number for number, line in enumerate(lines) if "prefill  decode" in line)]


def test_headline_is_of_the_request_where_the_sweeps_cross() -> None:
    run = load_run(DATA / "run-first")
    found = headline(run.facts, run.trials)
    assert found
    assert (found.point, found.trials, found.disturbed) == (Point(32, 32), 3, 0)
    trials = [trial for trial in run.trials if trial.counts and trial.point == found.point]
    assert found.decode_tokens_per_s
    times_s = [trial.decode_s for trial in trials if trial.decode_s]
    assert found.decode_tokens_per_s.mean == pytest.approx(31 * 3 / sum(times_s))
    assert found.energy_j
    assert found.energy_per_output_token_j
    assert found.energy_per_output_token_j.mean == pytest.approx(found.energy_j.mean / 32)
    assert found.energy_reason is None


def test_speeds_agree_with_the_times_beside_them() -> None:
    """A mean of speeds is that of the luckiest trial: 844 decode tokens/s stood beside 0.0753 s for 3 tokens."""
    run = load_run(DATA / "run-first")
    first = next(trial for trial in run.trials if trial.counts)
    trials = [replace(first, decode_s=decode_s) for decode_s in (0.001, 0.3, 0.3)]
    (summary,) = summarise(trials)
    assert summary.decode_s
    assert summary.decode_tokens_per_s
    assert summary.decode_tokens_per_s.mean == pytest.approx((first.output_tokens - 1) / summary.decode_s.mean)
    relative = [value.half_width / value.mean for value in (summary.decode_s, summary.decode_tokens_per_s)]
    assert relative[0] == pytest.approx(relative[1])


def test_a_drift_too_uncertain_to_be_seen_is_not_denied() -> None:
    assert drift_text(Drift(Point(8, 8), 0.01, 0.03)).startswith("No significant drift: ")
    assert drift_text(Drift(Point(8, 8), 1.4, 3.5)).startswith("Drift can't be told: ")
    assert drift_text(Drift(Point(8, 8), 0.0, None)).startswith("Drift can't be told: ")


def test_disturbed_trials_of_points_that_have_others_harm_nothing() -> None:
    """After the second run of the command the summary still said that times are too long, and to run it again."""
    run = load_run(DATA / "run-first")
    trials = [replace(trial, status="disturbed") if trial.counts and trial.id % 2 else trial for trial in run.trials]
    lines = lines_of(replace(run, trials=trials))
    (said,) = (line for line in lines if "disturbed" in line)
    assert said == "Left out: 22 of 35 trials, which others disturbed; every point has undisturbed ones."


@pytest.mark.parametrize(("lost", "nearest"), [({(32, 32)}, Point(16, 32)), ({(32, 32), (16, 32)}, Point(32, 16))])
def test_headline_is_of_the_nearest_point_where_the_crossing_was_not_measured(
    lost: set[tuple[int, int]], nearest: Point
) -> None:
    run = load_run(DATA / "run-first")
    kept = [trial for trial in run.trials if (trial.input_tokens, trial.output_tokens) not in lost]
    found = headline(run.facts, kept)
    assert found
    assert found.point == nearest


def test_sweeps_that_cross_elsewhere_have_their_headline_there(tmp_path: Path) -> None:
    sizes = ["-p", "8,16,64", "-n", "2,4", "--fixed-input", "16", "--fixed-output", "4"]
    assert joulebench(*FAKE, "-m", "fake", *sizes, "-o", tmp_path / "run").returncode == 0
    run = load_run(tmp_path / "run")
    found = headline(run.facts, run.trials)
    assert found
    assert found.point == Point(16, 4)


def test_estimated_energy_has_no_interval_and_says_what_it_is_from() -> None:
    lines = lines_of(load_run(DATA / "run-first"))
    assert lines[:3] == [
        "37.85 ± 0.26 decode tokens/s for 32 in, 32 out.",
        "0.8778 ± 0.0069 s per request; the first token comes after 0.0585 ± 0.0027 s.",
        "≈ 8.8 J per request, ≈ 0.27 J per output token, estimated at 5 W per busy core: no power meter.",
    ]
    assert "Drift: the first point (32 in, 16 out) was 8.0 % ± 3.5 % slower at the end of the run." in lines
    assert "Measured: 11 of 11 points, 35 trials; ± is the 95 % interval." in lines
    assert lines[-1] == "Idle power not measured: an estimate has no sensor."


def test_measured_energy_failures_and_idle_power() -> None:
    lines = lines_of(load_run(DATA / "run-1"))
    energy = "4.00 ± 0.53 J per request, 1.00 ± 0.13 J per output token"
    # Recorded before gains were.
    assert lines[2] == f"{energy}; by what factor the meter is off isn't known."
    drift = "No significant drift: the first point (8 in, 4 out) was 0.6 % ± 2.0 % faster"
    assert any(line.startswith(drift) for line in lines)
    assert "Measured: 1 of 2 points, 2 trials; ± is the 95 % interval." in lines
    assert "Not measured: 16 in, 4 out: failed: the worker process was killed by SIGSEGV." in lines
    assert lines[-1] == "Idle power of fake: 150.0 ± 1.3 W before, 150.0 ± 1.3 W after, change 0.0 ± 1.8 W."


@pytest.mark.parametrize(("gain", "said"), [(0.075, "; the meter may be 7.5 % off in all alike"), (0.0, "")])
def test_the_gain_of_the_meter_is_said_beside_the_interval_that_does_not_hold_it(gain: float, said: str) -> None:
    run = load_run(DATA / "run-1")
    found = headline(run.facts, run.trials)
    assert found
    lines = list(headline_lines(replace(found, energy_gain_ci95=gain)))
    assert f"4.00 ± 0.53 J per request, 1.00 ± 0.13 J per output token{said}." in lines


def test_several_in_flight_and_a_single_output_token_are_said() -> None:
    run = load_run(DATA / "run-first")
    found = headline(run.facts, run.trials)
    assert found
    first, *_ = headline_lines(replace(found, point=Point(32, 32, 8), decode_tokens_per_s=None))
    assert first.startswith("0.8778 ± 0.0069 s per request for 32 in, 32 out, 8 in flight; ")


def test_run_without_a_meter_says_so_in_sentence_and_table(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", *SIZES, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "Energy not measured: no power meter was asked for (--probes none)." in done.stdout
    assert done.stdout.count("no meter") == 3 + 1, "once a point, and explained once"
    assert "no meter: no power meter saw the device" in done.stdout


def test_single_trials_have_no_interval(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", "--point", "8,4", "--max-trials", "1", "-o", tmp_path / "run")
    assert "s per request; the first token comes after" in done.stdout
    assert done.stdout.count("only one trial, so no interval") == 1


def test_a_request_of_one_output_token_has_no_decode_speed(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", "--point", "8,1", "-o", tmp_path / "run")
    assert "decode tokens/s for" not in done.stdout
    assert "s per request for 8 in, 1 out" in done.stdout
    assert "1 token: a single output token comes out of prefill" in done.stdout
    rows = json.loads(joulebench("trials", tmp_path / "run", "--format", "json").stdout)
    assert all(row["decode_tokens_per_s"] is None for row in rows)
    assert all(row["prefill_tokens_per_s"] == pytest.approx(8 / row["prefill_s"]) for row in rows)
    assert all(row["total_tokens_per_s"] == pytest.approx(9 / row["runtime_s"]) for row in rows)


def test_speeds_count_the_tokens_of_all_sequences(tmp_path: Path) -> None:
    assert joulebench(*FAKE, "-m", "fake", "--point", "8,4", "--batch-size", "2", "-o", tmp_path).returncode == 0
    row = json.loads(joulebench("trials", tmp_path, "--format", "json").stdout)[-1]
    assert row["prefill_tokens_per_s"] == pytest.approx(2 * 8 / row["prefill_s"])
    assert row["decode_tokens_per_s"] == pytest.approx(2 * 3 / row["decode_s"])
    assert row["total_tokens_per_s"] == pytest.approx(2 * 12 / row["runtime_s"])


def test_failed_points_have_their_reason_in_the_table(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=40", "-p", "8,64,128", "-n", "8", "--fixed-input", "8", "--fixed-output", "8"]
    done = joulebench(*FAKE, *options, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    shown = joulebench("trials", tmp_path / "run").stdout
    table = done.stdout[done.stdout.index("prefill  decode") :].partition("trials are in")[0].rpartition("\n")[0]
    assert table in shown, "the same results are shown again later"
    assert table.count("out of memory") == 3, "in two rows, and explained once"
    assert "out of memory: the request needed more memory than there is" in table
    assert "Not measured: " in done.stdout
    assert len(before_table(done.stdout[done.stdout.index("± ") :])) <= 10


def test_nothing_measured_says_why_and_fails(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake:oom_above=3", "--point", "8,8", "-o", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.startswith("joulebench: Nothing was measured: out of memory: ")
    assert f"trials {tmp_path / 'run'}" in done.stderr
    assert "Next:" not in done.stdout


def too_short(trial: Trial) -> Trial:
    """The same trial, had the sensor been too slow for it."""
    reason = "fewer than two sensor updates inside the window: repeat the request more often"
    if trial.energy is None:
        return trial
    unknown = {f"{part}_{end}": None for part in ("request", "prefill", "decode") for end in ("j", "ci95_j")}
    return replace(trial, energy=replace(trial.energy, total=replace(trial.energy.total, reason=reason, **unknown)))


def test_energy_that_a_meter_could_not_tell_has_its_reason() -> None:
    run = load_run(DATA / "run-1")
    run = replace(run, trials=tuple(map(too_short, run.trials)))
    assert "Energy not measured: fewer than two sensor updates inside the window" in lines_of(run)[2]


def test_disturbed_trials_are_said_with_their_share_and_their_programs() -> None:
    run = load_run(DATA / "run-first")
    conditions = {"foreign_cpu_load": 0.63, "foreign_programs": ["cc1plus (pid 7)"]}
    reason = "other programs used 63 % of the CPU (limit 10 %)"

    def crowded(trial: Trial) -> Trial:
        at_rest = not trial.counts or trial.point != Point(32, 32)
        return trial if at_rest else replace(trial, status="disturbed", reason=reason, conditions=conditions)

    run = replace(run, trials=tuple(map(crowded, run.trials)))
    found = headline(run.facts, run.trials)
    assert found
    assert (found.point, found.disturbed) == (Point(32, 32), 3), "disturbed numbers are better than none"
    lines = lines_of(run)
    (said,) = (line for line in lines if line.startswith("DISTURBED"))
    assert "3 of 35 trials (others used 63 % of the CPU), most by cc1plus (pid 7)" in said
    assert "1 of 11 points have no undisturbed trial" in said
    assert not any(line.startswith("Not measured") for line in lines)
    assert len(lines) <= 10


def test_next_commands_are_right_as_they_stand(tmp_path: Path) -> None:
    run = Path(shutil.copytree(DATA / "run-first", tmp_path / "a run"))
    shown = joulebench("trials", run).stdout
    fit, *others = shown.splitlines()[-3:]
    for line in others:
        words = shlex.split(line.rpartition("  ")[0].rpartition(" harness ")[2].rpartition(" joulebench ")[2])
        assert joulebench(*words, cwd=tmp_path).returncode == 0, "figures asked for -o"
    command, _, arguments = fit.partition(" fit ")
    assert command.split()[-1].endswith(("joulebench", "harness"))
    *_, profile = shlex.split(arguments.rpartition("  ")[0])
    done = joulebench("fit", *shlex.split(arguments.partition("  ")[0]))
    assert done.returncode == 0, done.stderr
    assert Path(profile).exists()
    for name in ("figures", "report"):
        (line,) = (line for line in shown.splitlines()[-2:] if f" {name} " in line)
        arguments = line.partition(f" {name} ")[2].partition("  ")[0]
        done = joulebench(name, *shlex.split(arguments), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert " predict " in joulebench("trials", run).stdout.splitlines()[-1], "what is fitted already needs no fit"


def test_a_run_of_few_points_is_not_told_to_fit(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", "--point", "8,1", "-r", "1", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert " fit " not in done.stdout, "a fit needs four points"
    assert " report " in done.stdout
    assert "1 of 1 point, 1 trial;" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.split()[:3] == ["8", "1", "1"])
    assert "0.0000" not in row, "the clock's tick is no time of decoding"


def test_a_point_that_is_not_yet_measured_is_not_called_too_large(tmp_path: Path) -> None:
    run = Path(shutil.copytree(DATA / "run-first", tmp_path / "run"))
    first, *_ = (run / "trials.jsonl").read_text().splitlines()
    (run / "trials.jsonl").write_text(first + "\n")
    shown = joulebench("trials", run).stdout
    assert "unfinished: measuring stopped, or is still" in shown
    assert "needs more memory" not in shown


def test_pictures_are_told_after_the_table(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", "-p", "8-64*2", "-n", "8-32*2", "-o", tmp_path / "run", "--pictures")
    assert done.returncode == 0, done.stderr
    places = [done.stdout.index(text) for text in ("decode tokens/s for", "prefill  decode", "report: ", "Next:")]
    assert places == sorted(places)


def test_intervals_of_one_trial_are_unknown_not_zero() -> None:
    run = load_run(DATA / "run-first")
    first = next(trial for trial in run.trials if trial.counts)
    found = headline(run.facts, [first])
    assert found
    assert found.runtime_s == Estimate(first.runtime_s or 0.0, None)
