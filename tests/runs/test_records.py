"""Reading runs back: the golden run of schema 1 must load for ever."""

import json
import shutil
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.energy import attribution
from harness.modelling.sources import from_runs
from harness.runs import records
from harness.runs.records import load_run, load_trials, read_run, read_trace, read_trials
from harness.runs.schema import COLUMNS
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "data" / "run-1"


def test_golden_run_of_schema_1_loads() -> None:
    table = load_trials(GOLDEN)
    assert len(table) == 10
    assert {column.name for column in COLUMNS} <= set(table)
    counted = table[table.purpose == "measure"]
    ok = counted[counted.status == "ok"]
    assert list(ok.input_tokens) == [8, 8]
    assert ok.runtime_s.tolist() == pytest.approx([0.02646, 0.02646], rel=0.01)
    # The synthetic source draws 150 W all the time.
    assert (ok.energy_j / ok.runtime_s).tolist() == pytest.approx([150, 150], rel=0.1)
    assert (ok.energy_method == "counter").all()
    failures = table[table.status == "error"]
    assert len(failures) == 3
    assert failures.reason.str.contains("SIGSEGV").all()
    assert failures.energy_j.isna().all()
    assert read_run(GOLDEN).schema_version == 2


def test_joules_can_be_derived_again_from_the_raw_readings() -> None:
    record = read_trials(GOLDEN)[1]
    window, traces = read_trace(GOLDEN, record)
    assert record.energy
    again, stored = attribution.attribute(traces, window).total, record.energy.total
    # The release that wrote it weighed the counts around an edge alike, whatever their distance.
    assert again.request_j == pytest.approx(stored.request_j, abs=stored.request_ci95_j)
    assert again.request_ci95_j <= stored.request_ci95_j
    assert record.repeats == len(window.start_ns)
    assert record.window_s == pytest.approx((window.end_ns[-1] - window.start_ns[0]) / 1e9)


def test_net_energy_is_what_lies_above_idle() -> None:
    table = load_trials(GOLDEN)
    idle_w = sum(read_run(GOLDEN).sessions[0].idle[when].total.power_w for when in ("before", "after")) / 2
    ok = table[(table.purpose == "measure") & (table.status == "ok")]
    assert ok.net_energy_j.tolist() == pytest.approx((ok.energy_j - idle_w * ok.runtime_s).tolist())
    assert (ok.net_energy_ci95_j >= ok.energy_ci95_j).all()


def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "run"))


def test_newer_versions_are_refused(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    run = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(run | {"schema_version": records.RUN_VERSION + 1}))
    with pytest.raises(UserError, match="upgrade joulebench"):
        load_trials(directory)


def test_older_versions_are_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two later versions, a run of version 1 goes through all steps in order."""
    monkeypatch.setattr(records, "RUN_VERSION", 4)
    steps = {
        1: records.MIGRATIONS[1],
        2: lambda run: run | {"path": [run["schema_version"]]},
        3: lambda run: run | {"path": [*run["path"], run["schema_version"]]},
    }
    monkeypatch.setattr(records, "MIGRATIONS", steps)
    assert read_run(copy(tmp_path)).model_extra == {"path": [2, 3]}


def test_batches_of_version_1_are_requests_in_flight(tmp_path: Path) -> None:
    """Its energies were those of whole batches; a request has its part of them, and the whole batch's runtime."""
    directory = copy(tmp_path)
    alone = load_run(directory)
    run = json.loads((directory / "run.json").read_text())
    run["backend"]["config"]["batch_size"] = 4
    (directory / "run.json").write_text(json.dumps(run))
    batched = load_run(directory)
    assert batched.facts.plan.points == tuple((m, n, 4) for m, n, _ in alone.facts.plan.points)
    assert read_trials(directory) == list(batched.trials)
    for one, of_batch in zip(alone.trials, batched.trials, strict=True):
        assert of_batch.concurrency == 4
        assert of_batch.runtime_s == one.runtime_s
        assert of_batch.requests == (None if one.repeats is None else 4 * one.repeats)
        if one.energy and one.energy.total.request_j is not None:
            assert of_batch.energy is not None
            assert of_batch.energy.total.request_j == pytest.approx(one.energy.total.request_j / 4)
            assert of_batch.energy.total.request_ci95_j == pytest.approx(one.energy.total.request_ci95_j / 4)
    first = next(trial for trial in alone.trials if trial.counts)
    row = batched.table().set_index("trial_id").loc[first.id]
    assert row.output_tokens_per_s == pytest.approx(4 * first.output_tokens / first.runtime_s)


@pytest.mark.parametrize("damage", [{"plan": 3}, {"backend": {}}, {"sessions": [3]}])
def test_a_damaged_run_of_version_1_is_one_clear_refusal(tmp_path: Path, damage: dict[str, object]) -> None:
    directory = copy(tmp_path)
    run = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(run | damage))
    with pytest.raises(UserError, match="damaged"):
        load_run(directory)


def test_missing_and_damaged_traces_are_named(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    first, second = read_trials(directory)[:2]
    with pytest.raises(UserError, match=r"0\.npz"):
        read_trace(directory, first)
    trace = directory / str(second.trace)
    for content in (b"", b"PK\x03\x04 torn", trace.read_bytes()[:-500]):
        trace.write_bytes(content)
        with pytest.raises(UserError, match="not the trace"):
            read_trace(directory, second)


def test_run_can_be_moved_and_read_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = copy(tmp_path)
    moved = directory.rename(tmp_path / "with space ü")
    monkeypatch.chdir(tmp_path)
    assert len(load_trials("with space ü")) == len(load_run(moved).table()) == 10


RUN_DAMAGE = [
    (("model", "dtype"), 32),
    (("model", "name"), ""),
    (("model", "random_weights"), "yes"),
    (("backend", "config", "batch_size"), -1),
    (("backend", "settings", "attention"), []),
    (("sessions", 0, "software"), [1]),
    (("sessions", 0, "software", "psutil"), None),
    (("sessions", 0, "idle", "before", "total", "power_w"), 3.0),
    (("sessions",), []),
    (("backend", "config", "kv_cache"), "yes"),
    (("backend", "config", "kv_cache"), 1),
    (("backend", "config", "batch_size"), "2"),
    (("backend", "config", "batch_size"), 10**12),
    (("backend", "config", "compile"), []),
    (("backend", "config", "prefill_chunk"), {}),
    (("backend", "settings", "threads"), float("nan")),
]
TRIAL_DAMAGE = [
    (("session",), 7),
    (("session",), -1),
    (("output_tokens",), -1),
    (("runtime_s",), 1e300),
    (("output_tokens",), 10**12),
    (("energy", "total", "request_j"), "5"),
    (("energy", "total", "request_j"), float("nan")),
    (("energy", "total", "request_ci95_j"), float("inf")),
    (("energy", "total", "request_ci95_j"), None),
    (("energy", "total", "request_ci95_j"), -1),
    (("energy", "components", "cpu", "method"), None),
]


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [("run.json", *damage) for damage in RUN_DAMAGE] + [("trials.jsonl", *damage) for damage in TRIAL_DAMAGE],
)
def test_damage_inside_whole_files_is_refused_in_words(file: str, path: tuple, value: object, tmp_path: Path) -> None:
    for name in ("run.json", "trials.jsonl"):
        shutil.copy(ROOT / "tests" / "data" / "run-first" / name, tmp_path / name)
    lines = (tmp_path / file).read_text().splitlines() if file == "trials.jsonl" else [(tmp_path / file).read_text()]
    # The last trial that counts, as the first of a size is a warm-up.
    at = max(i for i, line in enumerate(lines) if file == "run.json" or ('"measure", ' in line and '"ok"' in line))
    content = json.loads(lines[at])
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    lines[at] = json.dumps(content)
    (tmp_path / file).write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"damaged|is not a trial record|don't belong together|no measurement"):
        from_runs([load_run(tmp_path)])
