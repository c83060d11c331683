"""Servers that fail, clients and servers that are killed: each is recorded with its reason, and the sweep goes on."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

import harness as jb
from backends.base import NotInstalled
from backends.openai.servers.base import find_program
from harness.measuring.session import MeasuringSession
from harness.runs.records import RecordedRun
from harness.runs.schema import Trial
from harness.runs.store import RunStore
from harness.runs.summary import summarise
from tests.helpers import ROOT, joulebench, refused
from tests.measuring.served import (
    DELAYS,
    WITHOUT_METER,
    Stub,
    family,
    free_port,
    measuring,
    still_running,
    stub_server,
    wait_for_trials,
)

ONE = ["--point", "4,8"]
TWO = [*ONE, "--point", "8,12"]


@pytest.fixture(autouse=True)
def without_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the idle power would take most of the time."""
    monkeypatch.setattr(MeasuringSession, "_note_idle", lambda self, when: None)


def measured(directory: Path, url: str, *options: object) -> RecordedRun:
    """A run to its end, which must be a success."""
    done = joulebench("measure", "--url", url, *WITHOUT_METER, "--runs", "1", "-o", directory, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return jb.load_run(directory)


def failed(run: RecordedRun) -> list[Trial]:
    return [trial for trial in run.trials if trial.status != "ok"]


def whole(run: RecordedRun, points: int) -> bool:
    """Whether each point has its one trial, no trial is missing, and none is there twice."""
    counts = Counter(trial.asked for trial in run.trials if trial.counts)
    return len(counts) == points and set(counts.values()) == {1} and _numbered(run)


def _numbered(run: RecordedRun) -> bool:
    return [trial.id for trial in run.trials] == list(range(len(run.trials)))


WELL = {"STUB_WITHOUT_FAULTS": "yes"}
REASONS = {
    "429": "the server answered 429: Rate limit reached",
    "500": "the server answered 500: EngineCore encountered an issue",
    "garbage": "isn't HTTP",
    "cut": "closed the connection in mid answer",
    "garbage-json": "sent what isn't JSON",
    "error-event": "failed in mid answer: the engine died",
    "short": r"counted \d+ input and \d+ output tokens, not",
    "no-usage": "sent no usage",
    "no-stream": "answered without streaming",
}


@pytest.mark.parametrize("part", [0, 1])
def test_each_fault_of_a_server_is_recorded_with_its_reason_and_the_sweep_goes_on(part: int, tmp_path: Path) -> None:
    reasons = dict(list(REASONS.items())[part::2])
    faults = ["--fault", ",".join(reasons), "--fault-from", "8", "--fault-every", "20"]
    with stub_server(*faults) as stub:
        run = measured(tmp_path / "run", stub.url, *ONE, "--runs", "3")
    seen = {name for trial in failed(run) for name, reason in reasons.items() if re.search(reason, trial.reason or "")}
    # A fault may also hit a request that tries a size before it is timed, or one that finds out how to ask.
    assert len(seen) >= 2, seen
    assert {trial.status for trial in failed(run)} == {"error"}
    assert all(re.search("|".join(reasons.values()), trial.reason or "") for trial in failed(run))
    assert [point.trials for point in summarise(run.trials)] == [3], "a trial that fails is done again"
    assert _numbered(run)
    assert run.facts.sessions[-1].ended == "complete"


def test_a_server_that_hangs_costs_its_point_and_the_others_are_measured(tmp_path: Path) -> None:
    with stub_server("--fault", "hang", "--fault-from", "6", "--fault-every", "1000") as stub:
        run = measured(tmp_path / "run", stub.url, *TWO, "--timeout", "3")
    assert [(trial.id, trial.status, trial.reason) for trial in failed(run)] == [(0, "timeout", "no answer within 3 s")]
    assert sorted(point.trials for point in summarise(run.trials)) == [0, 1]
    assert {trial.worker for trial in run.trials} == {0, 1}


def test_a_server_that_closes_every_connection_early_is_not_taken_for_one_that_answers(tmp_path: Path) -> None:
    with stub_server("--fault", "early-close", "--fault-from", "12", "--fault-every", "7") as stub:
        run = measured(tmp_path / "run", stub.url, *TWO)
    assert failed(run)
    assert {(trial.reason or "").partition(" (")[0] for trial in failed(run)} == {
        "the server closed the connection before it answered"
    }


def test_a_server_that_dies_is_waited_for_and_measured_on(tmp_path: Path) -> None:
    options = ("--fault", "die", "--fault-from", "12")
    with stub_server(*options, port=free_port()) as stub:
        again: list[Stub] = []
        over = threading.Event()

        def start_again() -> None:
            stub.process.wait()
            time.sleep(0.3)
            with stub_server(*options, port=stub.port, **WELL) as other:
                again.append(other)
                over.wait(60)

        thread = threading.Thread(target=start_again)
        thread.start()
        try:
            run = measured(tmp_path / "run", stub.url, *ONE)
        finally:
            over.set()
            thread.join()
    assert again
    assert [trial.status for trial in failed(run)] == ["error"]
    assert "closed the connection" in (failed(run)[0].reason or "")
    assert whole(run, 1)


def test_a_server_that_stays_away_stops_the_run_which_goes_on_later(tmp_path: Path) -> None:
    # The worker is a process of its own: this is how it gets less patience.
    (tmp_path / "sitecustomize.py").write_text("import backends.openai.backend as one\none.PATIENCE_S = 0.2\n")
    path = f"{ROOT}:{tmp_path}"
    command = ["measure", *WITHOUT_METER, "--runs", "1", *ONE, "-o", tmp_path / "run"]
    options = ("--fault", "die", "--fault-from", "12")
    with stub_server(*options, port=free_port()) as stub:
        stopped = joulebench(*command, "--url", stub.url, PYTHONPATH=path)
    assert stopped.returncode == 1
    assert "stopped: the model can't be loaded: no server answers at" in stopped.stderr
    assert "resume with: " in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "failed: the server closed the connection" in stopped.stdout, "why is said before it is waited for"
    kept = jb.load_run(tmp_path / "run")
    assert (kept.facts.sessions[-1].ended or "").startswith("stopped: ")
    gone = joulebench(*command, "--url", stub.url)
    assert "no server answers" in refused(gone)
    with stub_server(*options, port=stub.port, **WELL) as stub:
        run = measured(tmp_path / "run", stub.url, *ONE)
    assert run.trials[: len(kept.trials)] == kept.trials
    assert whole(run, 1)


def test_a_server_that_comes_back_as_another_stops_the_run(tmp_path: Path) -> None:
    with stub_server("--fault", "die", "--fault-from", "30", port=free_port()) as stub:

        def start_again() -> None:
            stub.process.wait()
            with stub_server("--context", "99", port=stub.port):
                over.wait(60)

        over, thread = threading.Event(), threading.Thread(target=start_again)
        thread.start()
        try:
            done = joulebench("measure", "--url", stub.url, *WITHOUT_METER, *TWO, "-o", tmp_path / "run")
        finally:
            over.set()
            thread.join()
    assert done.returncode == 1
    assert "stopped: what is measured has changed: its context_length was None and is 99 now" in done.stderr


def test_what_failed_for_a_while_is_measured_in_the_next_session(tmp_path: Path) -> None:
    options = ("--fault", "500", "--fault-from", "8", "--fault-every", "5")
    with stub_server(*options, port=free_port()) as stub:
        done = joulebench("measure", "--url", stub.url, *WITHOUT_METER, *ONE, "-o", tmp_path / "run")
        assert done.returncode == 1
        assert "failed: the server answered 500" in done.stderr
    with stub_server(*options, port=stub.port, **WELL) as stub:
        run = measured(tmp_path / "run", stub.url, *ONE)
    assert len(failed(run)) == 3
    assert whole(run, 1)


def test_what_can_not_be_measured_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with stub_server("--context", "64", "--fault", "short") as stub:
        command = ["measure", "--url", stub.url, *WITHOUT_METER, "-o", run]
        assert "serves no model 'nope'; it has stub" in refused(joulebench(*command, "-m", "nope", *ONE))
        assert "context of 64 tokens" in refused(joulebench(*command, "--point", "60,8"))
        said = refused(joulebench(*command, *ONE))
        assert "doesn't give exactly the tokens asked for" in said
        assert "--allow-inexact" in said
    assert not run.exists()


def test_more_requests_than_a_server_works_on_at_once_are_skipped(tmp_path: Path) -> None:
    with stub_server("--tells-slots", "--slots", "2", "--context", "64") as stub:
        run = measured(tmp_path / "run", stub.url, "-c", "1,4", *ONE)
        assert [(trial.status, trial.concurrency) for trial in failed(run)] == [("skipped", 4)]
        assert "4 requests in flight are more than the 2" in (failed(run)[0].reason or "")
        # What was skipped is not tried again, and further concurrencies are.
        run = measured(tmp_path / "run", stub.url, "-c", "1,2,4", *ONE)
    assert len(failed(run)) == 1
    assert whole(run, 2)


def test_a_context_that_the_server_does_not_tell_costs_the_sizes_beyond_it(tmp_path: Path) -> None:
    with stub_server("--context", "64", "--tells-no-context") as stub:
        run = measured(tmp_path / "run", stub.url, "--point", "60,8", *ONE)
    assert [(trial.status, trial.input_tokens) for trial in failed(run)] == [("skipped", 60)]
    assert "takes no requests of 60 input and 8 output tokens" in (failed(run)[0].reason or "")
    assert "maximum context length is 64 tokens" in (failed(run)[0].reason or "")
    assert whole(run, 1)
    assert {trial.worker for trial in run.trials} == {0}, "a server that refuses a size has nothing wrong with it"


def test_sizes_that_a_server_does_not_keep_to_are_those_measured_where_that_is_allowed(tmp_path: Path) -> None:
    options = ["--allow-inexact", "-c", "1,2", "--point", "6,12", "--point", "6,20"]
    with stub_server("--fault", "short,long-prompt") as stub:
        first = measured(tmp_path / "run", stub.url, *options)
        run = measured(tmp_path / "run", stub.url, *options, "--runs", "2")
    assert run.trials[: len(first.trials)] == first.trials
    assert failed(run) == []
    counted = Counter(trial.asked for trial in run.trials if trial.counts)
    assert set(counted.values()) == {2}
    for trial in run.trials:
        assert trial.input_tokens in (6, 7)
        assert trial.asked.output_tokens - trial.output_tokens in (0, 1)
        assert (trial.asked_tokens is None) == (trial.point == trial.asked)
        assert trial.load is not None
        assert trial.load.output_tokens / trial.load.requests == pytest.approx(trial.output_tokens, abs=0.5)
    assert any(trial.asked_tokens for trial in run.trials)
    points = summarise(run.trials)
    assert [point.trials for point in points] == [2, 2, 2, 2], "a point is what was asked for, whatever came"
    assert {point.asked.output_tokens for point in points} == {12, 20}
    assert all(
        point.asked.output_tokens - 1 <= point.point.output_tokens <= point.asked.output_tokens for point in points
    )


def test_what_a_server_says_of_a_window_marks_it(tmp_path: Path) -> None:
    with stub_server("--preempts", "--slots", "2", "--cached", "3") as stub:
        run = measured(tmp_path / "run", stub.url, "-c", "4", "--point", "8,8")
    for trial in run.trials:
        said = "; ".join(trial.warnings)
        assert "the server preempted requests" in said
        assert "requests waited in the server" in said
        assert "prompts were partly in the prefix cache, up to 3 tokens" in said
        assert "input tokens from its prefix cache" in said
        assert trial.load is not None
        assert trial.load.cached_tokens_max == 3
        assert trial.load.server.during_max["requests_waiting"] in (1, 2)
    table = run.table()
    assert table["warnings"].str.contains("preempted").all()


KEY = "sk-a-key-that-nobody-else-has"


def test_a_key_is_used_and_shown_nowhere(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with stub_server("--key", KEY) as stub:
        command = ["measure", "--url", stub.url, *WITHOUT_METER, "--runs", "1", *ONE, "-o", str(directory)]
        assert "--api-key-env NAME" in refused(joulebench(*command))
        named = [*command, "--api-key-env", "STUB_KEY"]
        assert "no key in this environment variable" in refused(joulebench(*named))
        assert "no key in this environment variable" in refused(joulebench(*named, STUB_KEY=" "))
        for wrong in ("sk-wrong-key", "sk-wrong-\nkey", "sk-wröng"):
            said = refused(joulebench(*named, STUB_KEY=wrong))
            assert "STUB_KEY" in said
            assert wrong.split("\n")[0] not in said
        assert not directory.exists()
        with measuring(named, STUB_KEY=KEY) as process:
            wait_for_trials(1, directory, process)
            words = [word for each in family(process) for word in each.cmdline()]
            said = process.communicate(timeout=60)[1]
            assert process.returncode == 0
    assert words
    assert not any(KEY in word for word in words)
    assert KEY not in said
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {"run.json", "trials.jsonl", "worker.log"} <= {path.name for path in files}
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_a_killed_worker_costs_its_trial_and_a_killed_run_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    command = ["measure", *WITHOUT_METER, "--runs", "1", *TWO, "-c", "2", "-o", str(directory)]
    with stub_server() as stub:
        command += ["--url", stub.url]
        with measuring(command) as process:
            wait_for_trials(1, directory, process)
            [worker] = [each for each in family(process) if "harness.measuring.worker" in each.cmdline()]
            worker.kill()
            wait_for_trials(4, directory, process)
            ours = family(process)
            process.kill()
            assert still_running(ours) == []
            assert stub.process.poll() is None, "a server that others started is theirs"
        kept = jb.load_run(directory)
        assert [trial.status for trial in failed(kept)] == ["error"]
        assert "the worker process was killed by SIGKILL" in (failed(kept)[0].reason or "")
        done = joulebench(*command)
        assert done.returncode == 0, done.stderr
    run = jb.load_run(directory)
    assert run.trials[: len(kept.trials)] == kept.trials
    assert whole(run, 2)


PROGRAM = """#!{python}
import os, sys
given = dict(zip(sys.argv, sys.argv[1:]))
sys.path.insert(0, {root!r})
print("a server starts", file=sys.stderr, flush=True)
if "STUB_ENDS" in os.environ:
    sys.exit("error: " + os.environ["STUB_ENDS"])
sys.argv[1:] = ["--model", given["--alias"], "--port", given["--port"], "--context", "512", *{delays!r}]
from tests.stub_server import main
main()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of llama-server's name and flags, and a cache of our own."""
    path = tmp_path / "servers" / "llama-server" / "bin" / "llama-server"
    path.parent.mkdir(parents=True)
    path.write_text(PROGRAM.format(python=sys.executable, root=str(ROOT), delays=DELAYS))
    path.chmod(0o755)
    monkeypatch.setenv("JOULEBENCH_SERVERS", str(tmp_path / "servers"))
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path / "cache"))


def server_of(processes: list[psutil.Process]) -> psutil.Process:
    """The server itself, beneath its supervisors."""
    named = [each for each in processes if any(word.endswith("/llama-server") for word in each.cmdline()[:2])]
    [server] = [each for each in named if not any("supervisor" in word for word in each.cmdline())]
    return server


MANAGED = ["measure", "--serve", "llama-server", "-m", "tiny-test", *WITHOUT_METER, "--runs", "1", *TWO, "-c", "2"]


def test_a_managed_server_that_dies_is_started_again_and_ends_with_us(tmp_path: Path, program: None) -> None:
    directory = tmp_path / "run"
    command = [*MANAGED, "-o", str(directory)]
    with measuring(command) as process:
        wait_for_trials(1, directory, process)
        first = family(process)
        server_of(first).kill()
        wait_for_trials(4, directory, process)
        assert still_running(first, 1.0) == []
        ours = family(process)
        assert server_of(ours)
        process.kill()
        assert still_running(ours) == []
    kept = jb.load_run(directory)
    assert [trial.status for trial in failed(kept)] == ["error"]
    assert "llama-server was killed by SIGKILL" in (failed(kept)[0].reason or "")
    log = (directory / "server.log").read_text()
    assert log.count("a server starts") == log.count("$ ") == 2, "what the servers wrote is kept"
    with measuring(command) as process:
        wait_for_trials(len(kept.trials) + 1, directory, process)
        ours = family(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert still_running(ours, 0.0) == [], "nothing of it is left when the command has ended"
    done = joulebench(*command)
    assert done.returncode == 0, done.stderr
    run = jb.load_run(directory)
    assert run.trials[: len(kept.trials)] == kept.trials
    assert whole(run, 2)
    assert run.facts.backend.settings["server"] == "other"
    assert (directory / "server.log").read_text().count("$ ") == 4


def test_a_server_that_can_not_be_started_leaves_its_log(tmp_path: Path, program: None) -> None:
    directory = tmp_path / "run"
    done = joulebench(*MANAGED, "-o", directory, STUB_ENDS="no such thing as a slot")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "llama-server exited with code 1: error: no such thing as a slot" in done.stderr
    assert str(directory / "server.log") in done.stderr
    assert (directory / "server.log").read_text().count("a server starts") == 3
    with RunStore(directory):
        assert (directory / "server.log").exists(), "the next try may go there"


def test_a_real_llama_server_that_dies_is_started_again(tmp_path: Path) -> None:
    try:
        find_program("llama-server")
    except NotInstalled:
        pytest.skip("bash scripts/setup/servers.sh llama-server builds it")
    directory = tmp_path / "run"
    command = [*MANAGED, "-o", str(directory), "--", "-np", "2", "-c", "1024"]
    with measuring(command) as process:
        wait_for_trials(1, directory, process)
        server_of(family(process)).kill()
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
    run = jb.load_run(directory)
    assert [trial.status for trial in failed(run)] == ["error"]
    assert "llama-server was killed by SIGKILL" in (failed(run)[0].reason or "")
    assert whole(run, 2)
    assert run.facts.backend.settings["server"] == "llama-server"
    assert run.facts.backend.settings["most_in_flight"] == 2
