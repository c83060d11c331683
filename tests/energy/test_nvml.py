"""The nvml probe through the real pynvml, which loads a C library built here. Each scenario is a process of its own,
because pynvml keeps the library it has loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.energy.driver_scenarios import agrees, play_all
from tests.helpers import ROOT, build_nvml, needs_gcc

pytestmark = needs_gcc

PROGRAM = """
import json, os, sys, time
from dataclasses import asdict
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes.base import ProbeContext
from harness.core.errors import UserError

scenario = os.environ["NVML_SCENARIO"]
text = open(scenario).read().replace("SELF", str(os.getpid()))
open(scenario, "w").write(text)
uuids, during, seconds, attribution = json.loads(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]

def tell(**answer):
    print(json.dumps(answer))
    sys.exit()

try:
    config = EnergyConfig("nvml", max_foreign_load=None, attribution=attribution)
    meter = Meter.open(config, ProbeContext(gpu_uuids=tuple(uuids), worker_pid=os.getpid()))
except UserError as error:
    tell(error=str(error))
with meter:
    time.sleep(1.0)
    with meter.window() as window:
        time.sleep(seconds / 2)
        if during:
            with open(scenario, "a") as file:
                file.write(during)
        time.sleep(seconds / 2)
    conditions = {**window.conditions, "disturbed": window.disturbed}
    length_s = int(window.marks.end_ns[0] - window.marks.start_ns[0]) / 1e9
    tell(seconds=length_s, report=asdict(window.energy), describe=asdict(meter.describe()), conditions=conditions)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


TURING, HOPPER, BLACKWELL = 6, 9, 10
HARDWARE_SLOWDOWN, POWER_CAP, DRIVER_NOT_LOADED = 8, 4, 9

SHARED = "gpus=1\npid=SELF\nother_pid=999998\n"

SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {"text": "gpus=1\n"},
    "fast": {"text": "gpus=1\nperiod_ms=20\n", "seconds": 0.6},
    "no counter": {"text": "gpus=1\nno_counter=1\n"},
    "hopper": {"text": f"gpus=1\narchitecture={HOPPER}\n", "seconds": 0.5},
    "hopper, average only": {"text": f"gpus=1\narchitecture={HOPPER}\nno_instant=1\n", "seconds": 0.5},
    "hopper, old call": {"text": f"gpus=1\narchitecture={HOPPER}\nno_instant=1\nno_average=1\n", "seconds": 0.5},
    "Grace Hopper": {"text": f"gpus=2\narchitecture={HOPPER}\nmodule=1\n"},
    "two GPUs on one module": {"text": f"gpus=2\narchitecture={BLACKWELL}\nmodule=1\ngpus_per_module=2\n"},
    "no scopes": {"text": "gpus=1\nno_scopes=1\n", "seconds": 0.5},
    "nothing": {"text": "gpus=1\nno_counter=1\nno_power=1\n"},
    "second GPU": {"text": "gpus=2\n", "uuids": ("GPU-1",)},
    "both GPUs": {"text": "gpus=2\n", "uuids": ("GPU-1", "GPU-0")},
    "unknown GPU": {"text": "gpus=1\n", "uuids": ("GPU-3",)},
    "GPU-prefixed MIG uuid": {"text": "gpus=2\n", "uuids": ("GPU-7",)},
    "bare MIG uuid": {"text": "gpus=2\n", "uuids": ("7",), "seconds": 0.5},
    "one forbidden": {"text": "gpus=2\nforbidden=1\n", "seconds": 0.5},
    "all forbidden": {"text": "gpus=1\nforbidden=0\n", "seconds": 0.5},
    "lost before": {"text": "gpus=1\nnameless=1\n", "seconds": 0.5},
    "Blackwell": {"text": f"gpus=1\narchitecture={BLACKWELL}\n", "seconds": 0.5},
    "Turing, average only": {"text": f"gpus=1\narchitecture={TURING}\nno_instant=1\n", "seconds": 0.5},
    "still power": {"text": "gpus=1\nrepeats=1000000\n", "seconds": 0.5},
    "slice": {"text": "gpus=2\n", "uuids": ("MIG-7",)},
    "lost": {"text": "gpus=2\n", "during": "lost=1\n", "seconds": 2.0},
    "slowed": {"text": f"gpus=1\nthrottle={HARDWARE_SLOWDOWN}\n"},
    "capped": {"text": f"gpus=1\nthrottle={POWER_CAP}\n"},
    "shared": {"text": "gpus=1\npid=SELF\nother_pid=999998\n"},
    "other namespace": {"text": "gpus=1\npid=999999\nother_pid=999998\n"},
    "no driver": {"text": f"init_error={DRIVER_NOT_LOADED}\n"},
    "share": {"text": SHARED + "util=60\nother_util=30\nfaulty_util=2147483632\n", "seconds": 6.0, "by": "process"},
    "all of it": {"text": "gpus=1\npid=SELF\nutil=70\n", "seconds": 6.0, "by": "process"},
    "others only": {"text": SHARED + "other_util=30\n", "seconds": 4.0, "by": "process"},
    "no utilization": {"text": SHARED + "no_utilization=1\n", "seconds": 4.0, "by": "process"},
    "share of another namespace": {
        "text": "gpus=1\npid=999999\nother_pid=999998\nutil=60\nother_util=30\n",
        "seconds": 4.0,
        "by": "process",
    },
    "disagreement": {"text": "gpus=1\npower_percent=92\n", "seconds": 5.2},
}


@pytest.fixture(scope="module")
def run(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The answer of each scenario. Many run at once: they mostly sleep."""
    folder = tmp_path_factory.mktemp("scenarios")

    def variables(file: Path, scenario: Mapping[str, Any]) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(library), "NVML_SCENARIO": str(file), "CUDA_VISIBLE_DEVICES": "1,0"}

    return play_all(folder, PROGRAM, SCENARIOS, variables, at_once=9).__getitem__


def test_counter_and_instant_power_are_read_side_by_side(run: Any) -> None:
    answer = run("plain")
    report, domains = answer["report"], answer["describe"]["domains"]
    assert set(domains) == {"gpu0-counter", "gpu0-power"}
    for name in domains:
        assert agrees(report["domains"][name], 100.0, answer["seconds"])
    assert report["total"] == report["domains"]["gpu0-counter"]
    assert report["total"]["method"] == "counter"
    assert answer["conditions"]["nvml"]["gpus"]["GPU-0"]["temperature_c"] == {"min": 55, "max": 55}
    assert answer["conditions"]["nvml"]["gpus"]["GPU-0"]["power_cap_w"] == {"min": 350, "max": 350}
    assert answer["conditions"]["nvml"]["gpus"]["GPU-0"]["application_clock_mhz"] is None
    assert answer["conditions"]["disturbed"] is None


@pytest.mark.parametrize(("scenario", "period_ms"), [("fast", 20), ("plain", 100)])
def test_the_update_period_is_found_by_polling(run: Any, scenario: str, period_ms: int) -> None:
    domains = run(scenario)["describe"]["domains"]
    for domain in domains.values():
        assert domain["period_s"] == pytest.approx(period_ms / 1000, rel=0.3)


def test_a_board_without_a_counter_falls_back_to_power(run: Any) -> None:
    answer = run("no counter")
    assert set(answer["describe"]["domains"]) == {"gpu0-power"}
    assert answer["report"]["total"]["method"] == "integrated"
    assert agrees(answer["report"]["total"], 100.0, answer["seconds"])
    assert "no energy counter" in answer["describe"]["probes"]["nvml"]


@pytest.mark.parametrize(
    ("scenario", "averaging_s"),
    [
        ("hopper", 0.025),
        ("hopper, average only", 1.0),
        ("hopper, old call", 1.0),
        ("Blackwell", 0.1),
        ("Turing, average only", 1.0),
    ],
)
def test_power_comes_from_the_best_reading_there_is(run: Any, scenario: str, averaging_s: float) -> None:
    answer = run(scenario)
    assert answer["describe"]["domains"]["gpu0-power"]["averaging_s"] == averaging_s


def test_a_board_that_reads_nothing_is_refused_not_zero(run: Any) -> None:
    answer = run("nothing")
    assert "neither energy nor power can be read" in answer["error"]


@pytest.mark.parametrize(
    ("scenario", "watts"), [("Grace Hopper", 2 * 400.0), ("two GPUs on one module", 400.0)], ids=str
)
def test_power_of_the_module_is_told_apart_and_never_added_to_that_of_its_gpus(
    run: Any, scenario: str, watts: float
) -> None:
    answer = run(scenario)
    report, domains = answer["report"], answer["describe"]["domains"]
    assert domains["gpu0-module-power"]["scope"] == "module"
    assert domains["gpu0-module-power"]["component"] == "system"
    assert agrees(report["components"]["system"], watts, answer["seconds"])
    assert agrees(report["components"]["gpu"], 300.0, answer["seconds"])
    assert report["total"] == report["components"]["gpu"]
    assert report["warnings"] == []


def test_boards_that_are_no_modules_have_no_such_domain(run: Any) -> None:
    for scenario in ("hopper", "no scopes"):
        assert set(run(scenario)["describe"]["domains"]) == {"gpu0-counter", "gpu0-power"}


def test_gpus_are_matched_by_uuid_not_by_order(run: Any) -> None:
    answer = run("second GPU")
    assert {domain["source"] for domain in answer["describe"]["domains"].values()} == {"gpu:GPU-1"}
    assert agrees(answer["report"]["total"], 200.0, answer["seconds"])


def test_two_gpus_add_up(run: Any) -> None:
    answer = run("both GPUs")
    assert agrees(answer["report"]["components"]["gpu"], 300.0, answer["seconds"])


def test_an_unknown_uuid_is_named(run: Any) -> None:
    answer = run("unknown GPU")
    assert "GPU-3" in answer["error"]
    assert "nvidia-smi -L" in answer["error"]


@pytest.mark.parametrize("scenario", ["slice", "GPU-prefixed MIG uuid", "bare MIG uuid"])
def test_a_mig_slice_reads_its_board_and_says_so(run: Any, scenario: str) -> None:
    """CUDA tells the UUID of a slice without its kind."""
    answer = run(scenario)
    assert "MIG-7 is a slice" in answer["describe"]["probes"]["nvml"]
    assert agrees(answer["report"]["total"], 200.0, answer["seconds"])
    assert "other slices included" in answer["describe"]["probes"]["nvml"]


def test_a_gpu_that_may_not_be_opened_spares_the_others(run: Any) -> None:
    answer = run("one forbidden")
    assert set(answer["describe"]["domains"]) == {"gpu0-counter", "gpu0-power"}
    assert "gpu1 can't be opened" in answer["describe"]["probes"]["nvml"]
    assert "gpu0 can't be opened" in run("all forbidden")["error"]


def test_a_gpu_lost_before_the_start_is_a_reason_not_a_crash(run: Any) -> None:
    assert "the NVIDIA driver refused: GPU is lost" in run("lost before")["error"]


def test_a_power_reading_that_does_not_change_gets_the_period_of_its_counter(run: Any) -> None:
    answer = run("still power")
    domains = answer["describe"]["domains"]
    assert domains["gpu0-power"]["period_s"] == domains["gpu0-counter"]["period_s"]
    assert "gpu0-power is assumed" in answer["describe"]["probes"]["nvml"]


def test_a_gpu_lost_in_mid_trial_turns_its_energies_null_and_spares_the_other(run: Any) -> None:
    answer = run("lost")
    report = answer["report"]
    assert agrees(report["domains"]["gpu0-counter"], 100.0, answer["seconds"])
    for figure in (report["domains"]["gpu1-counter"], report["domains"]["gpu1-power"], report["total"]):
        assert figure["request_j"] is None
        assert "GPU is lost" in figure["reason"]
    assert "gpu1-counter" in report["total"]["reason"]


def test_throttling_and_foreign_processes_spoil_a_window(run: Any) -> None:
    assert "throttled (hardware slowdown)" in run("slowed")["conditions"]["disturbed"]
    assert run("capped")["conditions"]["disturbed"] is None
    shared = run("shared")
    assert shared["conditions"]["disturbed"] == "another process (pid 999998) used GPU 0 (NVIDIA Test Board)"
    assert shared["report"]["total"]["request_j"] is None
    assert shared["report"]["total"]["reason"].endswith(shared["conditions"]["disturbed"])
    assert shared["report"]["components"]["gpu"]["request_j"] is None


@pytest.mark.parametrize(("scenario", "watts"), [("share", 100.0 * 2 / 3), ("all of it", 100.0)])
def test_the_share_of_a_process_is_an_estimate_by_its_utilization(run: Any, scenario: str, watts: float) -> None:
    answer = run(scenario)
    total = answer["report"]["total"]
    assert total["method"] == "estimated"
    assert total == answer["report"]["domains"]["gpu0-share"]
    assert agrees(total, watts, answer["seconds"])
    assert total["request_ci95_j"] < 0.3 * total["request_j"]
    assert agrees(answer["report"]["domains"]["gpu0-counter"], 100.0, answer["seconds"])
    assert "estimated by NVML's utilization by process" in answer["describe"]["probes"]["nvml"]
    assert not answer["report"]["warnings"], "a share is no second reading of the board"
    disturbed = answer["conditions"]["disturbed"]
    assert disturbed == ("another process (pid 999998) used GPU 0 (NVIDIA Test Board)" if scenario == "share" else None)
    assert answer["describe"]["needed_window_s"] > 3


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("no utilization", "NVML has no utilization by process of GPU 0 (NVIDIA Test Board): Not Supported"),
        ("share of another namespace", "NVML does not list the worker on GPU 0, as in a container"),
        ("others only", "did not move"),
    ],
)
def test_a_share_that_can_not_be_told_is_null_with_the_reason(run: Any, scenario: str, reason: str) -> None:
    report = run(scenario)["report"]
    assert report["total"]["request_j"] is None
    assert reason in report["total"]["reason"]
    assert report["domains"]["gpu0-counter"]["request_j"] is not None


def test_processes_of_another_namespace_are_unknown_not_foreign(run: Any) -> None:
    gpus = run("other namespace")["conditions"]
    assert gpus["nvml"]["gpus"]["GPU-0"]["foreign_processes"] is None
    assert gpus["disturbed"] is None


def test_a_driver_that_does_not_answer_is_reported(run: Any) -> None:
    assert "does not answer" in run("no driver")["error"]


def test_counter_and_power_that_disagree_raise_a_warning(run: Any) -> None:
    report = run("disagreement")["report"]
    assert len(report["warnings"]) == 1
    assert report["warnings"][0].startswith("gpu0-power integrates to -")


def test_old_package_of_the_same_name_is_told_from_a_missing_driver(tmp_path: Path) -> None:
    (tmp_path / "pynvml").mkdir()
    (tmp_path / "pynvml" / "__init__.py").write_text("class NVMLError(Exception): pass\n")
    code = """
from harness.core.errors import ProbeUnavailable
from harness.energy.probes import nvml
from harness.energy.probes.base import ProbeContext
try:
    nvml.create().open(ProbeContext())
except ProbeUnavailable as unavailable:
    print(unavailable.reason, unavailable.remedy, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    reason, remedy = done.stdout.splitlines()
    assert reason == f"the old package pynvml hides nvidia-ml-py ({tmp_path / 'pynvml' / '__init__.py'})"
    assert remedy.startswith("pip uninstall --yes pynvml && ")
