"""Open loops through the public door: requests that come at a rate or as in a log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import harness as jb
from harness.core.sizes import Arrival
from harness.measuring.session import MeasuringSession
from harness.runs.records import RecordedRun, read_stamps
from tests.helpers import joulebench, refused
from tests.measuring.served import TPOT_S, TTFT_S, WITHOUT_METER, stub_server

METER = ("--max-foreign-load", "1", "--probes", "fake:idle_w=150:busy_w=150:period_s=0.002", "--sample-rate", "200")
SIZES = ("--point", "8,8", "--point", "4,16")
RATES = ("--rate", "20/s,60/s", "--duration", "1.5", *SIZES)
LIMITS = ("--slo-ttft", "0.5", "--slo-e2e", str(TTFT_S + 11 * TPOT_S))
"""The second is between what the two sizes need."""


@pytest.fixture(autouse=True)
def without_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the idle power would take most of the time."""
    monkeypatch.setattr(MeasuringSession, "_note_idle", lambda self, when: None)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """A run of open loops alone, at two rates."""
    directory = tmp_path_factory.mktemp("open") / "run"
    with pytest.MonkeyPatch.context() as patch, stub_server() as stub:
        patch.setattr(MeasuringSession, "_note_idle", lambda self, when: None)
        command = ["measure", "--url", stub.url, *RATES, *LIMITS, *METER, "-o", directory]
        done = joulebench(*command, "--json")
        assert done.returncode == 0, done.stderr
        assert [loop["rate_per_s"] for loop in json.loads(done.stdout)["open_loops"]] == [20.0, 60.0]
        assert "nothing is left to measure" in joulebench(*command).stdout
        for other, said in (
            (["--duration", "2"], "--duration"),
            (["--point", "9,9"], "sizes of requests"),
            (["--slo-ttft", "0.4"], "--slo-ttft"),
        ):
            assert said in refused(joulebench(*command, *other))
    return jb.load_run(directory)


def test_requests_come_at_the_rate_and_are_counted_as_such(loaded: RecordedRun) -> None:
    assert [(trial.purpose, trial.status, trial.rate_per_s) for trial in loaded.trials] == [
        ("open loop", "ok", 20.0),
        ("open loop", "ok", 60.0),
    ]
    for trial in loaded.trials:
        load, stamps = trial.load, read_stamps(loaded.directory, trial)
        assert load is not None
        assert load.arrivals is not None
        assert trial.rate_per_s is not None
        assert trial.concurrency == 1
        assert set(zip(stamps.input_tokens.tolist(), stamps.output_tokens.tolist(), strict=True)) == {(8, 8), (4, 16)}
        assert np.diff(stamps.due_ns).min() >= 0
        assert load.window_s == pytest.approx(1.35)
        # Four standard deviations of a Poisson count.
        expected = trial.rate_per_s * load.window_s
        assert abs(load.whole_requests - expected) < 4 * expected**0.5
        assert load.arrivals.offered_per_s == pytest.approx(load.whole_requests / load.window_s)
        assert load.ttft_s is not None
        assert TTFT_S <= load.ttft_s.p50_s < 2 * TTFT_S
        assert trial.runtime_s == pytest.approx(load.in_flight_mean * load.window_s / load.requests)
        assert load.arrivals.goodput is not None
        assert 0.0 < load.arrivals.goodput < 0.95, "the longer requests take more than is good"


def test_its_energy_is_shared_by_the_requests_of_its_window(loaded: RecordedRun) -> None:
    for trial in loaded.trials:
        assert trial.energy is not None
        assert trial.stretches is not None
        assert trial.requests is not None
        joules = trial.stretches.window.total.energy_j
        assert joules == pytest.approx(150 * 1.35, rel=0.05)
        assert trial.energy.total.request_j == pytest.approx(joules / trial.requests)


def test_it_is_shown_and_never_taken_for_a_sweep(loaded: RecordedRun, tmp_path: Path) -> None:
    shown = joulebench("trials", loaded.directory).stdout
    assert "Open loops, whose requests come at times of their own" in shown
    assert "Measured: 2 of 2 open loops." in shown
    assert "goodput is the share of the requests with TTFT ≤ 0.500 s" in shown
    assert "Nothing was measured" not in shown
    rows = json.loads(joulebench("trials", loaded.directory, "--json").stdout)
    assert [row["concurrency"] for row in rows] == [None, None]
    assert [row["rate_per_s"] for row in rows] == [20.0, 60.0]
    assert "open loops only" in refused(joulebench("fit", loaded.directory, "-o", tmp_path / "profile.json"))
    assert "open loops only" in refused(joulebench("figures", loaded.directory, "-o", tmp_path / "pictures"))
    assert joulebench("report", loaded.directory, "-o", tmp_path / "report.html").returncode == 0
    assert "20.0" in (tmp_path / "report.html").read_text()


LOG = "timestamp,input_tokens,output_tokens\n10.0,8,4\n10.1,20,1\n10.1,5,9\n10.4,6,2\n11.2,7,3\n"


def test_a_log_is_sent_again_with_its_own_times_and_sizes(tmp_path: Path) -> None:
    log, directory = tmp_path / "log.csv", tmp_path / "run"
    log.write_text(LOG)
    with stub_server() as stub:
        command = ["measure", "--url", stub.url, *WITHOUT_METER, "-o", directory]
        done = joulebench(*command, "--arrivals", log)
        assert done.returncode == 0, done.stderr
        assert "of a log" in done.stdout
        log.write_text(LOG.replace("20,1", "20,2"))
        assert "--arrivals" in refused(joulebench(*command, "--arrivals", log))
        # Requests in flight may be measured into the same run.
        done = joulebench(*command, "-c", "2", "--point", "4,8", "--runs", "1")
        assert done.returncode == 0, done.stderr
        log.write_text(LOG)
        assert "nothing is left" in joulebench(*command, "--arrivals", log).stdout
    run = jb.load_run(directory)
    assert [trial.purpose for trial in run.trials][:3] == ["open loop", "warmup", "measure"]
    stamps = read_stamps(directory, run.trials[0])
    order = np.lexsort((stamps.input_tokens, stamps.due_ns))
    assert stamps.input_tokens[order].tolist() == [8, 5, 20, 6, 7]
    assert stamps.output_tokens[order].tolist() == [4, 9, 1, 2, 3]
    assert np.diff(stamps.due_ns[order] / 1e9) == pytest.approx([0.1, 0.0, 0.3, 0.8], abs=1e-6)
    assert run.facts.plan.open_loop is not None
    assert run.facts.plan.open_loop.logged == 5


def test_a_rate_that_the_server_can_not_keep_and_one_that_fails_are_said(tmp_path: Path) -> None:
    with stub_server("--slots", "1") as stub:
        command = ["measure", "--url", stub.url, *WITHOUT_METER, "--rate", "100/s", "--duration", "1"]
        done = joulebench(*command, "--point", "4,20", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "piled up at 100/s" in done.stdout
    [trial] = jb.load_run(tmp_path / "run").trials
    assert any("the rate may be more than the server takes" in words for words in trial.warnings)
    with stub_server("--fault", "429", "--fault-from", "6", "--fault-every", "9") as stub:
        command[2] = stub.url
        done = joulebench(*command, "--point", "4,8", "-o", tmp_path / "failed")
    assert done.returncode == 1
    assert "Nothing was measured: failed: the server answered 429" in done.stderr
    assert "Measured: 0 of 3 open loops." in done.stdout


URL = ("--url", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*URL, "--rate", "2", *SIZES], "--sample-rate"),
        ([*URL, "--rate", "0/s", *SIZES], "write requests per second as 2/s"),
        ([*URL, "--rate", "nan/s", *SIZES], "write requests per second as 2/s"),
        ([*URL, "--rate", "2/s"], "--rate needs the sizes"),
        ([*URL, "--rate", "2/s", "-c", "2", *SIZES], "-c keeps a number of requests in flight"),
        ([*URL, "--rate", "2/s", "--duration", "2", *SIZES], "give --duration 3 or more"),
        ([*URL, "--rate", "2/s", "--duration", "inf", *SIZES], "--duration"),
        ([*URL, "--rate", "20000/s", *SIZES], "more than 1000000 requests"),
        ([*URL, "--slo-ttft", "0.1", *SIZES], "--slo-ttft is for requests that come at a rate"),
        ([*URL, "--rate", "2/s", "--slo-tpot", "nan", *SIZES], "--slo-tpot"),
        ([*URL, "--rate", "2/s", "--arrivals", "log.csv", *SIZES], "--arrivals has times and sizes of its own"),
        ([*URL, "--arrivals", "log.csv", "-p", "8"], "--arrivals has times and sizes of its own"),
        ([*URL, "--arrivals", "log.csv", "-c", "2"], "-c keeps a number of requests in flight"),
        ([*URL, "--arrivals", "once.csv"], "arrivals are all at one time"),
        ([*URL, "--arrivals", "empty.csv"], "empty.csv has no requests"),
        (["--backend", "transformers", "--rate", "2/s", *SIZES], "to a server only"),
        (["--backend", "fake", "--arrivals", "log.csv"], "to a server only"),
    ],
)
def test_loads_that_make_no_sense_are_refused_in_one_line(options: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "empty.csv").write_text(LOG.splitlines()[0] + "\n")
    (tmp_path / "once.csv").write_text("ts,input_tokens,output_tokens\n1,8,4\n1,9,5\n")
    assert words in refused(joulebench("measure", *options, "-o", "run", cwd=tmp_path))
    assert not (tmp_path / "run").exists()


def test_arrivals_of_a_program_are_checked_too(tmp_path: Path) -> None:
    for arrivals in (
        [Arrival(0.0, 8, 4), Arrival(2.0, 8, 4), Arrival(1.0, 8, 4)],
        [Arrival(-1.0, 8, 4), Arrival(1.0, 8, 4)],
        [Arrival(0.0, 8, 0), Arrival(1.0, 8, 4)],
        [Arrival(0.0, 8, 4), Arrival(float("nan"), 8, 4)],
        [Arrival(0.0, 8, 4), Arrival(1e9, 8, 4)],
        [Arrival(0.0, 8, 4.5), Arrival(1.0, 8, 4)],  # type: ignore[arg-type]
    ):
        with pytest.raises(jb.UserError, match="arrivals"):
            jb.measure(tmp_path / "run", url=URL[1], arrivals=arrivals)
    assert not (tmp_path / "run").exists()
