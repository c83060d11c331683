"""What a run's records say of a point, and how far others used the machine meanwhile."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.runs.records import load_run
from harness.runs.schema import Trial
from harness.runs.summary import disturbance, summarise, used_trials
from tests.helpers import ROOT


def trial(id: int, status: str = "ok", runtime_s: float = 1.0, **facts) -> Trial:
    base = Trial(id, 0, 0, "measure", 8, 8, "ok", "2026-01-01T00:00:00+00:00", runtime_s=runtime_s)
    return replace(base, status=status, **facts)


def disturbed(id: int, runtime_s: float = 2.0, share: float | None = 0.6, **facts) -> Trial:
    reason = "another process (pid 7) used GPU 0" if share is None else "other programs used 60 % of the CPU"
    conditions = {"foreign_cpu_load": share or 0.0, "foreign_programs": ["cc1 (pid 3)", f"ld (pid {id})"]}
    return trial(id, "disturbed", runtime_s, reason=reason, conditions=conditions, **facts)


def test_a_point_is_told_from_its_undisturbed_trials() -> None:
    (point,) = summarise([trial(0), disturbed(1), trial(2, runtime_s=1.2)])
    assert (point.trials, point.disturbed, point.trouble) == (2, 0, None)
    assert point.runtime_s
    assert point.runtime_s.mean == pytest.approx(1.1)


def test_a_point_that_was_never_left_alone_is_told_from_its_disturbed_trials_and_says_so() -> None:
    failed = trial(0, "error", reason="crashed")
    (point,) = summarise([failed, disturbed(1), disturbed(2, runtime_s=4.0)])
    assert (point.trials, point.disturbed) == (2, 2)
    assert point.trouble == "disturbed: other programs used 60 % of the CPU"
    assert point.runtime_s
    assert point.runtime_s.mean == pytest.approx(3.0)
    assert used_trials([failed]) == []


def test_disturbance_says_how_much_and_by_whom() -> None:
    other = {"input_tokens": 16}
    records = [trial(0), disturbed(1), disturbed(2, share=0.8, **other), disturbed(3, share=None, **other)]
    found = disturbance(records)
    assert found
    assert (found.trials, found.of_trials, found.points, found.of_points) == (3, 4, 1, 2)
    assert found.cpu_shares == (0.6, 0.8), "the trial on a shared GPU was not disturbed by programs on the CPU"
    assert found.programs[0] == "cc1 (pid 3)"
    assert len(found.programs) == 3
    assert disturbance([trial(0), trial(1, "error", reason="crashed")]) is None


def test_what_earlier_versions_discarded_is_disturbed(tmp_path: Path) -> None:
    run = Path(shutil.copytree(ROOT / "tests" / "data" / "run-1", tmp_path / "run"))
    lines = (run / "trials.jsonl").read_text().splitlines()
    for at, line in enumerate(lines):
        if json.loads(line)["purpose"] == "measure" and json.loads(line)["status"] == "ok":
            lines[at] = json.dumps(json.loads(line) | {"status": "discarded", "reason": "other programs took 30%"})
    (run / "trials.jsonl").write_text("\n".join(lines) + "\n")
    found = disturbance(load_run(run).trials)
    assert found
    assert (found.trials, found.of_trials, found.cpu_shares, found.programs) == (2, 2, None, ())
    assert set(load_run(run).table()["status"]) == {"ok", "disturbed", "error"}, "a warm-up is never disturbed"
