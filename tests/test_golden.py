"""What an earlier release measured, it still means: its runs and profiles load, fit, decide and resume as they did."""

import json
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.energy.meter import Meter
from harness.measuring import machine
from harness.modelling.sources import from_runs
from harness.runs.records import load_run, load_trials, read_run, read_trace, read_trials
from tests.make_golden import COMMANDS, DATA, answer, differences, prepare

GOLDEN = DATA / "golden"
FAKE = "measure --backend fake --max-foreign-load 1 --point 8,4 --point 16,4"
INTERRUPTED = f"{FAKE} -m fake:realtime=1 --min-window 0.2 --max-window 0.2 --max-trials 3 --sample-rate 100"
COMPLETE = {
    "run-first": "measure",
    "run-1": f"{FAKE} -m fake:realtime=1,segfault_at=16x4 --probes fake --min-window 0.4 --max-trials 2"
    " --precision 0.5",
    "run-fake-no-cache": "measure --backend fake --max-foreign-load 1 -m fake:noise=0.01 --no-kv-cache --probes none"
    " -p 8-512*4 -n 8-128*2 --max-trials 3 --min-window 0.1",
}
"""How stored runs were measured."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what the commands read."""
    path = tmp_path_factory.mktemp("golden")
    prepare(path)
    return path


@pytest.mark.parametrize("group", COMMANDS)
def test_answers_are_those_of_the_earlier_release(group: str, folder: Path) -> None:
    stored = json.loads((GOLDEN / f"{group}.json").read_text())
    assert list(stored) == COMMANDS[group]
    now = {command: json.loads(json.dumps(answer(folder, command))) for command in stored}
    # Processors add up in different orders; a search for the best fit then ends a few 1e-6 elsewhere.
    found = list(differences(stored, now, relative=1e-5, absolute=1e-9))
    assert not found, "\n".join(found[:20])


def test_differences_are_found() -> None:
    stored = {"a": [1.0, {"b": "x"}], "c": None}
    assert not list(differences(stored, {"a": [1.0 + 1e-12, {"b": "x", "new": 1}], "c": None}, relative=1e-9))
    for other in (
        {"a": [1.0 + 1e-12, {"b": "x"}], "c": None},
        {"a": [1.0, {"b": "y"}], "c": None},
        {"a": [1.0, {}], "c": None},
        {"a": [1.0], "c": None},
        {"a": [True, {"b": "x"}], "c": None},
        {"a": [1.0, {"b": "x"}], "c": 0},
        {"a": [1.0, {"b": "x"}]},
    ):
        assert len(list(differences(stored, other))) == 1


@pytest.fixture
def resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Iterator[Callable[..., str]]:
    """Measures into a copy of a stored run, as if on the machine that began it; returns what is printed."""

    idle = Meter.idle

    def call(name: str, command: str) -> str:
        directory = tmp_path / name
        shutil.copytree(DATA / name, directory)
        recorded = read_run(directory).machine
        monkeypatch.setattr(machine, "machine", lambda: recorded)
        monkeypatch.setattr(Meter, "idle", lambda meter, _: idle(meter, duration_s=0.3, settle_s=0.0))
        monkeypatch.setattr(sys, "argv", ["joulebench", *shlex.split(command), "-o", str(directory)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed.out

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield call
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_runs_resume_with_nothing_to_measure(name: str, resume: Callable[..., str], tmp_path: Path) -> None:
    assert "nothing is left to measure" in resume(name, COMPLETE[name])
    for file in ("run.json", "trials.jsonl"):
        assert (tmp_path / name / file).read_bytes() == (DATA / name / file).read_bytes()


@pytest.mark.parametrize(("name", "probes"), [("run-fake", "none"), ("run-fake-probe", "fake:period_s=0.005")])
def test_interrupted_runs_go_on(name: str, probes: str, resume: Callable[..., str], tmp_path: Path) -> None:
    resume(name, f"{INTERRUPTED} --probes {probes}")
    directory, earlier = tmp_path / name, (DATA / name / "trials.jsonl").read_bytes()
    assert (directory / "trials.jsonl").read_bytes().startswith(earlier)
    records = read_trials(directory)
    assert [record.session for record in records] == [0] * 3 + [1] * (len(records) - 3)
    assert [record.id for record in records] == list(range(len(records)))
    table = load_trials(directory)
    counted = table[(table.purpose == "measure") & (table.status == "ok")]
    assert counted.groupby(["input_tokens", "output_tokens"]).size().to_dict() == {(8, 4): 3, (16, 4): 3}
    assert set(counted.session) == {0, 1}
    assert (table.purpose == "drift").sum() == 3
    assert counted[counted.session == 0].energy_j.notna().all() == (probes != "none")
    assert [session.ended for session in read_run(directory).sessions] == ["interrupted", "complete"]
    for record in records:
        window, traces = read_trace(directory, record)
        assert len(window.start_ns) == record.repeats
        assert record.energy
        assert bool(traces) == bool(record.energy.components) == (probes != "none")
    measured = from_runs([load_run(directory)]).measurements
    assert [(point.input_tokens, point.runtime_s.trials) for point in measured] == [(8, 3), (16, 3)]
