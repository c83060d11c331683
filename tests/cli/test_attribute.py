"""``joulebench attribute``: a log, a profile and a meter's energy, to joules of each request."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from harness.energy.readings import Window
from harness.energy.stretches import LoopStretches, Stretch, StretchFigure
from harness.energy.trace_file import write_trace
from harness.modelling.profile import Profile
from harness.modelling.served.engine import Engine
from harness.runs.load_stamps import LoopStamps
from harness.runs.records import dump_trial
from harness.serving.shares import coefficients_of
from harness.serving.shares_over_time import ServedTimes, shares_over_time
from harness.serving.simulation import Requests, Simulated, simulate
from tests.helpers import ROOT, joulebench, refused
from tests.showing.loaded_runs import open_loop, write_run

PROFILE = ROOT / "tests" / "data" / "profile-schema-3.json"
VLLM = ROOT.parent / "shared" / "data" / "load" / "vllm-requests-rtxpro6000-llama-3.1-8b.csv"
COUNT = 120


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Profile.load(PROFILE).engine()


@pytest.fixture(scope="module")
def load(engine: Engine) -> Simulated:
    """A mixed load on the profile's engine, with pauses in which it has nothing to do."""
    rng = np.random.default_rng(5)
    m, n = (np.exp(rng.uniform(math.log(16), math.log(512), COUNT)).astype(np.int64) for _ in range(2))
    capacity = COUNT / simulate(engine, Requests(np.zeros(COUNT), m, n)).busy_s[0]
    arrivals = np.cumsum(rng.exponential(2.5 / capacity, COUNT))
    return simulate(engine, Requests(arrivals, m, n))


def rows(load: Simulated) -> list[dict[str, Any]]:
    columns = {
        "request_id": [f"r{i}" for i in range(COUNT)],
        "user": ["ann" if i % 3 else "bob" for i in range(COUNT)],
        "input_tokens": load.requests.input_tokens.tolist(),
        "output_tokens": load.requests.output_tokens.tolist(),
        "queued_s": load.requests.arrival_s.tolist(),
        "scheduled_s": load.start_s.tolist(),
        "first_token_s": load.first_token_s.tolist(),
        "last_token_s": load.end_s.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    return path


@pytest.fixture
def log(load: Simulated, tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", rows(load))


def attribute(log: Path, *options: object) -> dict[str, Any]:
    done = joulebench("attribute", log, "--profile", PROFILE, "--json", *options)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["logs"]
    return dict(found)


def joules(found: dict[str, Any]) -> np.ndarray:
    return np.array([request["energy_j"] for request in found["requests"]])


def idle_s(load: Simulated) -> float:
    return float(load.end_s.max() - load.start_s[0] - load.busy_s[0])


def test_without_a_meter_the_joules_are_the_models(log: Path, load: Simulated, engine: Engine) -> None:
    found = attribute(log)
    assert found["total_from"] == "model"
    assert {request["total_from"] for request in found["requests"]} == {"model"}
    assert joules(found).sum() == pytest.approx(load.joules, rel=1e-3)
    assert found["total"] == found["model"]
    times = ServedTimes(
        load.requests.input_tokens * 1.0,
        load.requests.output_tokens * 1.0,
        np.zeros(COUNT),
        load.start_s,
        load.first_token_s,
        load.end_s,
    )
    assert engine.joules is not None
    expected = shares_over_time(times, engine).terms @ coefficients_of(engine.joules)
    assert joules(found) == pytest.approx(expected, rel=1e-9)
    assert all(request["energy_ci95_j"] > 0 for request in found["requests"])
    assert any("no meter" in note for note in found["notes"])


def test_shares_add_up_to_the_meters_energy_less_idle(log: Path, load: Simulated, engine: Engine) -> None:
    assert load.joules is not None
    assert engine.idle_power_w is not None
    idle_j = engine.idle_power_w * idle_s(load)
    metered = 1.1 * load.joules + idle_j
    found = attribute(log, "--energy", repr(metered))
    assert found["idle"] == pytest.approx({"duration_s": idle_s(load), "energy_j": idle_j})
    assert math.fsum(joules(found)) == pytest.approx(metered - found["idle"]["energy_j"], rel=1e-12)
    assert found["model"]["energy_j"] == pytest.approx(load.joules, rel=1e-3)
    # What is scaled to a meter is only unsure of how it is divided.
    assert found["total"]["ci95_j"] is None
    widths = [[request["energy_ci95_j"] for request in each["requests"]] for each in (found, attribute(log))]
    assert np.mean(widths[0]) / 1.1 < np.mean(widths[1])


def test_sums_by_a_column(log: Path, load: Simulated) -> None:
    found = attribute(log, "--by", "user", "--energy", "1e6")
    sums = {each["user"]: each for each in found["by"]}
    each = joules(found)
    assert sums["ann"]["requests"] + sums["bob"]["requests"] == COUNT
    assert sums["bob"]["energy_j"] == pytest.approx(each[::3].sum(), rel=1e-12)
    assert 0 < sums["bob"]["energy_ci95_j"] < 0.2 * sums["bob"]["energy_j"]
    shown = joulebench("attribute", log, "--profile", PROFILE, "--by", "user", "--energy", "1e6").stdout
    assert "ann" in shown
    assert "J/request" in shown
    assert "has no column team" in refused(joulebench("attribute", log, "--profile", PROFILE, "--by", "team"))


def test_the_table_has_a_row_a_request(log: Path, tmp_path: Path) -> None:
    found = attribute(log, "--by", "user", "-o", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["request_id"] for row in table] == [f"r{i}" for i in range(COUNT)]
    assert [float(row["energy_j"]) for row in table] == joules(found).tolist()
    assert table[0]["user"] == "bob"
    assert "end its name in .csv" in refused(joulebench("attribute", log, "--profile", PROFILE, "-o", "out.json"))


def test_arrivals_and_ends_are_enough(load: Simulated, tmp_path: Path) -> None:
    """As dates in JSON lines, with a latency in place of the end."""
    path = tmp_path / "log.jsonl"
    with path.open("w") as file:
        for row in rows(load):
            date = datetime.fromtimestamp(1.7e9 + row["queued_s"], tz=UTC).isoformat()
            record = {"timestamp": date, "latency_ms": 1e3 * (row["last_token_s"] - row["queued_s"])}
            record |= {name: row[name] for name in ("input_tokens", "output_tokens")}
            file.write(json.dumps(record) + "\n")
    parquet = tmp_path / "log.parquet"
    duckdb.sql(f"COPY (SELECT * FROM read_json('{path}')) TO '{parquet}'")
    found = attribute(path)
    assert joules(attribute(parquet)) == pytest.approx(joules(found), rel=1e-5)
    assert joules(found).sum() == pytest.approx(load.joules, rel=0.01)
    assert any("begun" in note for note in found["notes"])
    assert any("first token" in note for note in found["notes"])


def test_times_of_other_names(load: Simulated, tmp_path: Path, log: Path) -> None:
    names = {"queued_s": "came", "scheduled_s": "begun", "first_token_s": "one", "last_token_s": "done"}
    table = [{names.get(name, name): value for name, value in row.items()} for row in rows(load)]
    path = write(tmp_path / "other.csv", table)
    assert "--time arrived=COLUMN" in refused(joulebench("attribute", path, "--profile", PROFILE))
    options = [
        f"--time={mark}={name}"
        for mark, name in zip(("arrived", "scheduled", "first", "last"), names.values(), strict=True)
    ]
    assert joules(attribute(path, *options)).tolist() == joules(attribute(log)).tolist()
    assert "--time MARK=COLUMN" in refused(joulebench("attribute", path, "--profile", PROFILE, "--time", "end=done"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"last_token_s": ""}, "have no time of their end (row 3)"),
        ({"queued_s": "", "scheduled_s": ""}, "have no time of their start (row 3)"),
        ({"first_token_s": 0.0, "scheduled_s": 1.0, "queued_s": 0.0}, "first token before they were begun (row 3)"),
        ({"last_token_s": -5.0}, "last token before their first (row 3)"),
        ({"output_tokens": 0}, "broken row"),
        ({"last_token_s": "soon"}, "have a time that can't be read (row 3)"),
    ],
)
def test_broken_rows_are_named(load: Simulated, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    table = rows(load)
    table[2] |= changes
    path = write(tmp_path / "log.csv", table)
    message = refused(joulebench("attribute", path, "--profile", PROFILE))
    assert said in message
    found = attribute(path, "--skip-bad")
    assert len(found["requests"]) == COUNT - 1
    assert sum(found["left_out"].values()) == 1
    assert [request["row"] for request in found["requests"][:3]] == [1, 2, 4]
    assert any("1 rows were left out" in note for note in found["notes"])


def test_more_at_once_than_slots_is_noticed(load: Simulated, tmp_path: Path, engine: Engine) -> None:
    assert engine.slots is not None
    table = [row | {"queued_s": 0.0, "scheduled_s": 0.0} for row in rows(load)]
    found = attribute(write(tmp_path / "log.csv", table))
    assert found["most_at_once"] > engine.slots
    assert any("slots" in note for note in found["notes"])


def test_readings_of_a_meter(log: Path, load: Simulated, tmp_path: Path) -> None:
    end_s = float(load.end_s.max()) + 5
    readings = [{"time_s": time, "power_w": 200.0} for time in np.arange(-5.0, end_s, 0.5).tolist()]
    path = write(tmp_path / "meter.csv", readings)
    found = attribute(log, "--meter", path)
    span_s = float(load.end_s.max() - load.requests.arrival_s[0])
    assert found["meter"]["energy_j"] == pytest.approx(200.0 * span_s, rel=1e-3)
    assert found["meter"]["method"] == "integrated"
    assert found["gain_ci95"] == 0.05
    assert joules(found).sum() == pytest.approx(found["total"]["energy_j"], rel=1e-12)
    counter = [{"time_s": row["time_s"], "energy_kwh": 200.0 * (row["time_s"] + 5) / 3.6e6} for row in readings]
    found = attribute(log, "--meter", write(tmp_path / "counter.csv", counter))
    assert found["meter"]["energy_j"] == pytest.approx(200.0 * span_s, rel=1e-3)
    late = [row | {"time_s": row["time_s"] + 1e6} for row in readings]
    shifted = write(tmp_path / "late.csv", late)
    assert "different times" in refused(joulebench("attribute", log, "--profile", PROFILE, "--meter", shifted))
    short = write(tmp_path / "short.csv", readings[: len(readings) // 2])
    assert "don't reach over" in refused(joulebench("attribute", log, "--profile", PROFILE, "--meter", short))
    third = len(readings) // 3
    gap = write(tmp_path / "gap.csv", readings[:third] + readings[-third:])
    assert "has no readings for " in refused(joulebench("attribute", log, "--profile", PROFILE, "--meter", gap))
    counted = attribute(log, "--meter", write(tmp_path / "gap.csv", counter[:third] + counter[-third:]))
    assert counted["meter"]["energy_j"] == pytest.approx(200.0 * span_s, rel=1e-3)


def test_labels_do_not_steer_the_terminal(load: Simulated, tmp_path: Path) -> None:
    table = [row | {"user": "\x1b[31mred\x1b[0m"} for row in rows(load)]
    done = joulebench("attribute", write(tmp_path / "log.csv", table), "--profile", PROFILE, "--by", "user")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert r"\x1b[31mred\x1b[0m" in done.stdout


def test_the_answer_of_a_meter(log: Path, load: Simulated, tmp_path: Path) -> None:
    assert load.joules is not None
    path = tmp_path / "window.json"
    answer = {"energy_j": 2 * load.joules, "ci95_j": 0.02 * load.joules, "method": "counter", "duration_s": 100.0}
    path.write_text(json.dumps(answer))
    found = attribute(log, "--meter", path)
    assert found["total"]["ci95_j"] == pytest.approx(0.02 * load.joules)
    assert found["idle"]["duration_s"] == pytest.approx(100.0 - load.busy_s[0])
    for changed, said in (({"duration_s": 1.0}, "requests ran for"), ({"energy_j": None, "reason": "dead"}, "dead")):
        path.write_text(json.dumps(answer | changed))
        assert said in refused(joulebench("attribute", log, "--profile", PROFILE, "--meter", path))


def test_energy_that_can_not_be_shared_out(log: Path) -> None:
    for options, said in (
        (["--energy", "0"], "above 0"),
        (["--energy", "1e-3"], "while idle"),
        (["--energy", "5", "--meter", "x.csv"], "not both"),
        (["--meter", "x.csv"], "x.csv"),
    ):
        assert said in refused(joulebench("attribute", log, "--profile", PROFILE, *options))


def test_recorded_steps(load: Simulated, log: Path, tmp_path: Path) -> None:
    """Each request by itself in steps of its own: nothing is shared but with itself."""
    path = tmp_path / "steps.jsonl"
    with path.open("w") as file:
        for i, (m, n) in enumerate(zip(load.requests.input_tokens, load.requests.output_tokens, strict=True)):
            for tokens in (int(m), *[1] * (int(n) - 1)):
                file.write(json.dumps({"scheduled": {f"r{i}": tokens}}) + "\n")
    found = attribute(log, "--steps", path)
    sizes = [(request["input_tokens"], request["output_tokens"]) for request in found["requests"]]
    alone = Profile.load(PROFILE).at(1).energy_j(*np.array(sizes).T)
    assert joules(found) == pytest.approx(alone, rel=0.15)
    assert joules(found).sum() > joules(attribute(log)).sum()


def test_a_profile_without_energy_shares_out_by_time(log: Path, tmp_path: Path) -> None:
    content = json.loads(PROFILE.read_text())
    content |= {"energy": None, "components": {}, "name": "timed"}
    content["under_load"] |= {"energy": None, "components": {}, "static_power_w": None, "static_power_ci95_w": None}
    profile = tmp_path / "timed.json"
    profile.write_text(json.dumps(content))
    assert "--energy or --meter" in refused(joulebench("attribute", log, "--profile", profile))
    done = joulebench("attribute", log, "--profile", profile, "--energy", "1000", "--json")
    (found,) = json.loads(done.stdout)["logs"]
    assert joules(found).sum() == pytest.approx(1000.0, rel=1e-12)
    assert found["model"] == {"energy_j": None, "ci95_j": None}
    assert any("by the time" in note for note in found["notes"])


def stamps(load: Simulated) -> LoopStamps:
    """The load as an open loop of ours stamped it: first and last token alone came as pieces."""
    start, first, end = (
        np.round(1e9 * times).astype(np.int64) for times in (load.requests.arrival_s, load.first_token_s, load.end_s)
    )
    n = load.requests.output_tokens
    pieces = np.minimum(n, 2)
    piece_ns = np.concatenate(
        [times[2 - count :] for times, count in zip(np.stack((first, end), 1), pieces, strict=True)]
    )
    piece_tokens = np.concatenate([[1, size - 1][:count] for size, count in zip(n, pieces, strict=True)])
    number = np.arange(COUNT)
    return LoopStamps(
        client=number,
        number=number,
        due_ns=start,
        start_ns=start,
        end_ns=end,
        input_tokens=load.requests.input_tokens,
        output_tokens=n,
        cached_tokens=np.full(COUNT, -1),
        counted=np.ones(COUNT, dtype=bool),
        told=np.ones(COUNT, dtype=bool),
        pieces=pieces,
        piece_ns=piece_ns,
        piece_tokens=piece_tokens,
    )


def test_a_run_with_an_open_loop(load: Simulated, tmp_path: Path) -> None:
    """The meter's energy is that of ramp, window and drain of the trial."""
    assert load.joules is not None
    run = write_run(tmp_path / "run", (1,))
    message = refused(joulebench("attribute", run, "--profile", PROFILE))
    assert "no loop of requests" in message
    edges = np.linspace(0, 1e9 * float(load.end_s.max()), 4).astype(int).tolist()
    edges = [edges[0], *edges, edges[-1]]
    each = 0.5 * load.joules
    parts = [
        Stretch(start, end, StretchFigure(each * (end > start), 0.01 * each, "counter", gain_ci95=0.05))
        for start, end in pairwise(edges)
    ]
    whole = Stretch(edges[0], edges[-1], StretchFigure(3 * each, 0.02 * each, "counter"))
    trial = replace(open_loop(900, 2.0, 2.0), trace="traces/900.npz", stretches=LoopStretches(*parts, whole))
    (run / "traces").mkdir()
    nothing = np.zeros(1, dtype=np.int64)
    with (run / "traces" / "900.npz").open("wb") as file:
        write_trace(file, Window(nothing, nothing, nothing + 1), [], stamps(load).arrays())
    with (run / "trials.jsonl").open("ab") as file:
        file.write(dump_trial(trial))
    found = attribute(run)
    assert (found["log"], len(found["requests"])) == ("trial 900", COUNT)
    assert found["meter"]["energy_j"] == pytest.approx(3 * each)
    assert found["meter"]["ci95_j"] == pytest.approx(math.sqrt(3) * 0.01 * each)
    assert math.fsum(joules(found)) == pytest.approx(found["total"]["energy_j"], rel=1e-12)
    assert found["model"]["energy_j"] == pytest.approx(load.joules, rel=0.01)
    assert "own times" in refused(joulebench("attribute", run, "--profile", PROFILE, "--by", "user"))


@pytest.mark.skipif(not VLLM.exists(), reason="needs the shared data")
def test_a_published_run_of_vllm() -> None:
    found = attribute(VLLM, "--energy", "12345")
    assert math.fsum(joules(found)) == pytest.approx(12345.0, rel=1e-12)
    assert (len(found["requests"]), found["most_at_once"]) == (300, 128)
