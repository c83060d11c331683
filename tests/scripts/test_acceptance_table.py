"""The table of the GPU's acceptance script, on runs of made-up machines whose rates and energies are known."""

import getpass
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.energy.readings import Window
from harness.energy.trace_file import write_trace
from harness.runs.records import read_trials
from tests.helpers import FAKE, FOUR_POINTS, ROOT, joulebench
from tests.scripts.acceptance import table, tabled


def made(out: Path) -> subprocess.CompletedProcess[str]:
    """The table of what is in a folder."""
    return tabled("gpu", out)


@pytest.fixture(scope="module")
def with_energy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a made-up machine, read by two made-up sensors of one source."""
    out = tmp_path_factory.mktemp("out")
    plan = [*FOUR_POINTS, "--max-trials", "3", "--min-window", "0.01"]
    assert joulebench(*FAKE, *plan, "-o", out / "precise", "--model", "fake:noise=0.001").returncode == 0
    run_file = out / "precise" / "run.json"
    content = json.loads(run_file.read_text())
    content["model"]["name"] = "llama-2-7b"
    domain = {"component": "gpu", "source": "gpu:GPU-1", "period_s": 0.1, "probe": "nvml", "resolution": 0.001}
    content["sessions"][0]["energy"]["domains"] = {
        "gpu0": {"name": "gpu0", "kind": "counter", "method": "counter", "averaging_s": None, **domain},
        "gpu0-power": {"name": "gpu0-power", "kind": "power", "method": "integrated", "averaging_s": 0.025, **domain},
    }
    run_file.write_text(json.dumps(content))
    trials_file = out / "precise" / "trials.jsonl"
    trials = [json.loads(line) for line in trials_file.read_text().splitlines()]
    worst = [trial["id"] for trial in trials if trial["purpose"] == "measure"][4]
    for number, trial in enumerate(trials):
        counted_j = 100 * trial["runtime_s"] * (1 + 0.001 * (number % 3))
        trial["window_s"] = 6.0
        disagreement = {"measure": 1.03 if trial["id"] == worst else 1.005}.get(trial["purpose"], 1.5)
        trial["energy"] = energy(counted_j, counted_j * disagreement)
    trials_file.write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    busy = {"loaded": True, "idle_w": 75.0, "busy_w": 690.0, "rise_w": 615.0}
    reading = {"name": "gpu0", "method": "counter", "period_s": 0.1, "idle_power_w": 75.0, "idle_reason": None}
    sensors = {
        "probes": [{"name": "nvml", "works": True, "domains": [reading]}],
        "load": {"reason": None, "domains": {"gpu0": busy}, "ratios": {"gpu:GPU-1": 1.012}},
    }
    (out / "sensors.json").write_text(json.dumps(sensors))
    return out


def energy(counted_j: float, integrated_j: float) -> dict:
    def figure(method: str, joules: float) -> dict:
        nothing = dict.fromkeys(("prefill_j", "prefill_ci95_j", "decode_j", "decode_ci95_j", "reason"))
        return {"method": method, "request_j": joules, "request_ci95_j": joules / 100, **nothing}

    counter, power = figure("counter", counted_j), figure("integrated", integrated_j)
    domains = {"gpu0": counter, "gpu0-power": power}
    return {"domains": domains, "components": {"gpu": counter}, "total": counter, "warnings": []}


def test_table_tells_how_energies_agree_and_spread(with_energy: Path) -> None:
    done = made(with_energy)
    rows = table(with_energy)
    agreement, spread = rows["integrated power to counter"], rows["spread of energy per request"]
    assert agreement["value"] == pytest.approx(0.03)
    assert agreement["met"] is False
    assert "median +0.50 %, worst +3.00 %" in agreement["text"]
    assert agreement["text"].endswith("gpu0-power looks at 25 % of the time")
    assert 0 < spread["value"] < 0.01
    assert spread["met"] is True
    assert "NOT MET" in done.stdout
    assert rows["gpu0 (counter)"]["text"] == "new value every 100 ms, idle 75.0 W"
    assert rows["gpu0 under load"]["text"] == "75.0 W idle, 690.0 W busy"
    assert rows["integrated to counter, gpu:GPU-1"]["text"] == "+1.20 % over the whole load"
    assert rows["integrated to counter, gpu:GPU-1"]["met"] is True
    assert rows["roofline"]["text"] == "not measured: roofline.json is absent or not whole; its step failed"


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 tokens/s eagerly, 200 from a graph; a prefill of any length takes 10 ms."""
    out = tmp_path_factory.mktemp("decoded")
    constant = "floor_s=0.01,linear_s=0,quadratic_s=0,step_linear_s=0"
    for name, step_s, points in (
        ("decode-none", 0.02, ["--point", "32,256"]),
        ("decode-graph", 0.005, ["--point", "32,256"]),
        ("precise", 0.005, FOUR_POINTS),
    ):
        model = f"fake:step_s={step_s},{constant}"
        assert joulebench(*FAKE, *points, "--max-trials", "3", "-m", model, "-o", out / name).returncode == 0
        content = json.loads((out / name / "run.json").read_text())
        content["model"] |= {"name": "llama-2-7b", "dtype": "bfloat16"}
        (out / name / "run.json").write_text(json.dumps(content))
    # A step in the middle of the output reads 6 607 343 616 weights and keys and values of 160 tokens in 32 layers of
    # 4096, in two bytes each; the matrices of a prefill are all weights but the embeddings and the head.
    step_bytes = 2 * (6_607_343_616 + 2 * 32 * 4096 * 160)
    prefill_flops = 2 * 6_476_271_616 * 64 / 0.01
    roofline = {"copy_bytes_per_s": 250 * step_bytes, "matmul_flops_per_s": 4 * prefill_flops}
    (out / "roofline.json").write_text(json.dumps(roofline | {"matmul_dtype": "bfloat16", "device_name": "a GPU"}))
    return out


def test_table_sets_decoding_beside_the_roofline(decoded: Path) -> None:
    made(decoded)
    rows = table(decoded)
    assert rows["decode, none"]["value"] == pytest.approx(50)
    assert rows["decode, graph"]["value"] == pytest.approx(200)
    assert rows["graph over eager"]["value"] == pytest.approx(4)
    assert rows["graph over eager"]["met"] is True
    assert rows["graph of memory roofline"]["value"] == pytest.approx(0.8)
    assert rows["graph of memory roofline"]["met"] is True
    assert "of 250.0 decode tokens/s (13.30 GB a step)" in rows["graph of memory roofline"]["text"]
    assert rows["prefill of matrix rate"]["value"] == pytest.approx(0.25)
    assert "sensors.json is absent" in rows["sensors"]["text"]


def test_graph_below_its_aims_is_not_met(decoded: Path, tmp_path: Path) -> None:
    shutil.copytree(decoded, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "decode-none", tmp_path / "decode-graph", dirs_exist_ok=True)
    done = made(tmp_path)
    rows = table(tmp_path)
    assert rows["graph of memory roofline"]["value"] == pytest.approx(0.2)
    assert not rows["graph of memory roofline"]["met"]
    assert not rows["graph over eager"]["met"]
    assert done.stdout.count("NOT MET") == 2


def test_tied_embeddings_are_read_as_the_head() -> None:
    sys.path.insert(0, str(ROOT / "scripts" / "bench"))
    from roofline import decode_step_bytes

    from backends.presets import PRESETS

    architecture = PRESETS["smollm2-135m"].architecture
    cached = 2 * 30 * 3 * 64 * 100
    assert decode_step_bytes(architecture, 100, 4) == 4 * (134_515_008 + cached)


def test_files_of_another_shape_cost_their_own_rows(decoded: Path, tmp_path: Path) -> None:
    shutil.copytree(decoded, tmp_path, dirs_exist_ok=True)
    for name in ("roofline.json", "sensors.json", "profile-precise.json"):
        (tmp_path / name).write_text("{}")
    done = made(tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path)
    assert rows["decode, graph"]["value"] == pytest.approx(200)
    for what in ("roofline", "sensors", "graph of memory roofline", "held-out error of runtime"):
        assert rows[what]["text"].startswith("not measured: a file has another shape"), rows[what]


def test_newest_run_that_was_put_aside_is_named(decoded: Path, tmp_path: Path) -> None:
    shutil.copytree(decoded, tmp_path, dirs_exist_ok=True)
    for number in (2, 9, 10):
        (tmp_path / "steps" / f"decode-inductor.failed-{number}").mkdir(parents=True)
    made(tmp_path)
    assert "joulebench trials steps/decode-inductor.failed-10 says why" in table(tmp_path)["decode, inductor"]["text"]


def test_table_of_no_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    done = made(tmp_path / "absent")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "is no folder" in line


def test_sensors_that_did_not_work_say_why(with_energy: Path, tmp_path: Path) -> None:
    shutil.copytree(with_energy, tmp_path, dirs_exist_ok=True)
    sensors = {
        "probes": [{"name": "nvml", "works": False, "reason": "there is no NVIDIA driver"}],
        "load": {"reason": "the load did not start", "domains": {}, "ratios": {}},
    }
    (tmp_path / "sensors.json").write_text(json.dumps(sensors))
    made(tmp_path)
    rows = table(tmp_path)
    assert rows["sensors"]["text"] == "not measured: nvml: there is no NVIDIA driver"
    assert rows["sensors under load"]["text"] == "not measured: the load did not start"


def test_precise_run_is_used_where_it_is_there_and_else_the_quick_one(with_energy: Path, tmp_path: Path) -> None:
    shutil.copytree(with_energy / "precise", tmp_path / "quick")
    made(tmp_path)
    assert table(tmp_path)["points that count"]["text"] == "4 of 4 of the quick run"
    assert table(tmp_path)["integrated power to counter"]["value"] == pytest.approx(0.03)
    made(with_energy)
    assert table(with_energy)["points that count"]["text"] == "4 of 4 of the precise run"


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps of 1 ms and 2 µs more for each token before; one of two warm-ups begins with a slow request."""
    out = tmp_path_factory.mktemp("cached")
    steps = ["--point", "64,64", "--point", "512,64", "--max-trials", "3"]
    model = "fake:step_s=0.001,step_linear_s=0.000002,floor_s=0.001,linear_s=0,quadratic_s=0"
    assert joulebench(*FAKE, *steps, "-m", model, "-o", out / "cache").returncode == 0
    content = json.loads((out / "cache" / "run.json").read_text())
    content["backend"]["config"]["compile"] = "graph"
    (out / "cache" / "run.json").write_text(json.dumps(content))
    for trial in read_trials(out / "cache"):
        if trial.purpose == "warmup":
            times = 3 if trial.input_tokens == 64 else 1
            marks = np.array([[0, 1, times * 10], [50, 51, 60], [70, 71, 99]], dtype=np.int64)
            with (out / "cache" / str(trial.trace)).open("wb") as file:
                write_trace(file, Window(*marks.T), [])
    return out


def test_step_time_is_set_against_the_length_of_the_cache(cached: Path) -> None:
    made(cached)
    rows = table(cached)
    slope = rows["step time against cache length"]
    assert slope["value"] == pytest.approx(2e-6, rel=1e-3)
    assert slope["text"].startswith("2,000 ns more for each token that is cached")
    assert rows["step at 544 cached tokens"]["value"] == pytest.approx(0.001 + 2e-6 * 544, rel=1e-2)


def test_cache_made_for_the_whole_request_is_read_whole(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "cache" / "run.json").read_text())
    content["backend"]["settings"]["kv_cache_length"] = "m + n"
    (tmp_path / "cache" / "run.json").write_text(json.dumps(content))
    made(tmp_path)
    assert {"step at 128 cached tokens", "step at 576 cached tokens"} <= table(tmp_path).keys()


def test_first_request_of_a_warm_up_is_set_beside_the_second(cached: Path) -> None:
    made(cached)
    row = table(cached)["warm-up, cache (graph)"]
    assert row["value"] == pytest.approx(2)
    assert "median of 2 warm-ups, worst 3.00 × at 64 in, 64 out" in row["text"]


def test_trials_that_others_disturbed_are_used_and_told(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path, dirs_exist_ok=True)
    trials_file = tmp_path / "cache" / "trials.jsonl"
    trials = [json.loads(line) for line in trials_file.read_text().splitlines()]
    for trial in trials:
        if trial["purpose"] == "measure" and trial["input_tokens"] == 64:
            trial["status"] = "disturbed"
    trials_file.write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    made(tmp_path)
    rows = table(tmp_path)
    assert rows["step time against cache length"]["value"] == pytest.approx(2e-6, rel=1e-3)
    assert rows["disturbed, cache"]["text"].endswith("1 of 2 points have no others")


def test_table_names_no_folder_user_or_host(tmp_path: Path) -> None:
    user, host = getpass.getuser(), socket.gethostname().partition(".")[0]
    reason = f"Sorry, user {user} may not run /usr/bin/{user}/tool as root on {host}.local; see {tmp_path}/x.log"
    (tmp_path / "sensors.json").write_text(json.dumps({"probes": [{"name": "n", "works": False, "reason": reason}]}))
    done = made(tmp_path)
    written = [done.stdout, *((tmp_path / f"acceptance.{end}").read_text() for end in ("txt", "json"))]
    for text in written:
        assert str(tmp_path) not in text
        assert "/usr/bin" not in text
        assert host not in text
        assert user == "root" or user not in text
    assert "see x.log" in done.stdout
