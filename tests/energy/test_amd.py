"""The amd probe through the real package amdsmi, which loads a C library built here. Each scenario is a process of its
own, because the package keeps the library it has loaded."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.energy.driver_scenarios import agrees, play_all

FOUND = importlib.util.find_spec("amdsmi")

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or sys.platform != "linux" or FOUND is None,
    reason="builds a C library with gcc on Linux for the package amdsmi",
)

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, os, sys, time
from dataclasses import asdict
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes.base import ProbeContext
from harness.core.errors import UserError

scenario = os.environ["AMDSMI_SCENARIO"]
text = open(scenario).read().replace("SELF", str(os.getpid()))
open(scenario, "w").write(text)
uuids, during, seconds = json.loads(sys.argv[1]), sys.argv[2], float(sys.argv[3])
if os.environ.get("OLD_NAMES"):
    import amdsmi
    new = amdsmi.amdsmi_get_energy_count
    def old(handle):
        found = new(handle)
        return {"power": found.pop("energy_accumulator"), **found}
    amdsmi.amdsmi_get_energy_count = old

def tell(**answer):
    print(json.dumps(answer))
    sys.exit()

try:
    config = EnergyConfig("amd", max_foreign_load=None)
    meter = Meter.open(config, ProbeContext(gpu_uuids=tuple(uuids), worker_pid=os.getpid(), device="cuda"))
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

SERIAL = "a1b2c3d4e5f607{:02x}"
DRIVER_NOT_LOADED = 34

SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {"text": "gpus=1\n"},
    "ticks of 10 ns": {"text": "gpus=1\ntick_ns=10\n"},
    "no stamps": {"text": "gpus=1\nno_stamp=1\n"},
    "old names": {"text": "gpus=1\nold=1\n", "old_names": "1"},
    "stuck": {"text": "gpus=1\nstuck=1\n"},
    "stuck without power": {"text": "gpus=1\nstuck=1\nno_power=1\n", "seconds": 0.5},
    "guest": {"text": "gpus=1\nno_counter=1\n"},
    "nothing": {"text": "gpus=1\nno_counter=1\nno_power=1\n"},
    "second GPU": {"text": "gpus=2\n", "uuids": ("GPU-" + SERIAL.format(1),)},
    "as torch writes it": {"text": "gpus=2\n", "uuids": ("GPU-" + SERIAL.format(1).encode().hex(),)},
    "by address": {"text": "gpus=2\n", "uuids": ("0000:0d:00.0",)},
    "another maker's": {"text": "gpus=2\n", "uuids": ("GPU-8a7b6c5d-0000-1111-2222-333344445555",)},
    "one of two": {"text": "gpus=1\n", "uuids": (SERIAL.format(0), SERIAL.format(7))},
    "both GPUs": {"text": "gpus=2\n"},
    "partitions": {"text": "gpus=4\npartitions=2\n"},
    "lost": {"text": "gpus=2\n", "during": "lost=1\n", "seconds": 2.0},
    "shared": {"text": "gpus=1\npid=SELF\nother_pid=999998\n"},
    "other namespace": {"text": "gpus=1\npid=999999\nother_pid=999998\n"},
    "no driver": {"text": f"init_error={DRIVER_NOT_LOADED}\n"},
    "another version": {"text": "gpus=1\nlibrary=25\nshifted=1\n"},
    "another version that is confirmed": {"text": "gpus=1\nlibrary=25\n"},
    "another version and nothing to confirm": {"text": "gpus=1\nlibrary=25\nshifted=1\nno_counter=1\n"},
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, with an empty function for every other one that the package looks up."""
    assert FOUND is not None
    assert FOUND.origin is not None
    folder = tmp_path_factory.mktemp("amdsmi")
    source = (ROOT / "tests" / "data" / "amd_smi.c").read_text()
    wrapper = Path(FOUND.origin).with_name("amdsmi_wrapper.py").read_text()
    wanted = set(re.findall(r"_libraries\['libamd_smi\.so'\]\.(\w+)", wrapper))
    own = set(re.findall(r"^int (amdsmi_\w+)\(", source, re.MULTILINE))
    assert own <= wanted
    rest = "".join(f"int {name}(void) {{ return NOT_SUPPORTED; }}\n" for name in sorted(wanted - own))
    (folder / "amd_smi.c").write_text(source + rest)
    command = ["gcc", "-shared", "-fPIC", "-o", str(folder / "libamd_smi.so"), str(folder / "amd_smi.c")]
    subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def run(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The answer of each scenario. Many run at once: they mostly sleep."""
    folder = tmp_path_factory.mktemp("scenarios")

    def variables(file: Path, scenario: Mapping[str, Any]) -> dict[str, str]:
        return {
            "LD_LIBRARY_PATH": str(library),
            "AMDSMI_SCENARIO": str(file),
            "OLD_NAMES": scenario.get("old_names", ""),
        }

    return play_all(folder, PROGRAM, SCENARIOS, variables, at_once=4).__getitem__


def test_counter_and_power_are_read_side_by_side(run: Any) -> None:
    answer = run("plain")
    report, domains = answer["report"], answer["describe"]["domains"]
    assert set(domains) == {"amd0-counter", "amd0-power"}
    for name in domains:
        assert agrees(report["domains"][name], 100.0, answer["seconds"])
        assert domains[name]["period_s"] == pytest.approx(0.02, rel=0.3)
    assert report["total"] == report["domains"]["amd0-counter"]
    gpu = answer["conditions"]["amd"]["gpus"]["0000:0c:00"]
    assert gpu["temperature_c"] == {"min": 61, "max": 61}
    assert gpu["power_limit_w"] == {"min": 750.0, "max": 750.0}
    assert answer["conditions"]["disturbed"] is None


@pytest.mark.parametrize(("scenario", "stamped"), [("plain", True), ("ticks of 10 ns", True), ("no stamps", False)])
def test_readings_are_dated_by_the_counters_own_stamps_where_they_are_true(
    run: Any, scenario: str, stamped: bool
) -> None:
    answer = run(scenario)
    assert answer["describe"]["domains"]["amd0-counter"]["stamped"] is stamped
    assert agrees(answer["report"]["total"], 100.0, answer["seconds"])


def test_older_names_of_the_same_fields(run: Any) -> None:
    """Packages before 6 call the count ``power``; older boards have only an average power."""
    answer = run("old names")
    for figure in answer["report"]["domains"].values():
        assert agrees(figure, 100.0, answer["seconds"])


def test_a_counter_that_stands_still_while_power_is_drawn_is_refused_and_power_integrated(run: Any) -> None:
    answer = run("stuck")
    assert set(answer["describe"]["domains"]) == {"amd0-power"}
    assert answer["report"]["total"]["method"] == "integrated"
    assert agrees(answer["report"]["total"], 100.0, answer["seconds"])
    assert "stands still while it draws" in answer["describe"]["probes"]["amd"]
    assert "stands still" in run("stuck without power")["error"]


def test_a_guest_without_a_counter_falls_back_to_power(run: Any) -> None:
    answer = run("guest")
    assert answer["report"]["total"]["method"] == "integrated"
    assert "no energy counter" in answer["describe"]["probes"]["amd"]


def test_a_board_that_tells_nothing_is_refused_not_zero(run: Any) -> None:
    assert "tells no power either" in run("nothing")["error"]


@pytest.mark.parametrize("scenario", ["second GPU", "as torch writes it", "by address"])
def test_gpus_are_matched_by_their_ids_not_by_order(run: Any, scenario: str) -> None:
    answer = run(scenario)
    assert {domain["source"] for domain in answer["describe"]["domains"].values()} == {"gpu:0000:0d:00"}
    assert agrees(answer["report"]["total"], 200.0, answer["seconds"])


def test_gpus_of_another_maker_are_not_ours(run: Any) -> None:
    assert "none of the GPUs that compute is an AMD GPU" in run("another maker's")["error"]


def test_a_gpu_that_can_not_be_found_is_named_rather_than_left_out(run: Any) -> None:
    assert f"amdsmi lists no GPU {SERIAL.format(7)}" in run("one of two")["error"]


def test_two_gpus_add_up(run: Any) -> None:
    answer = run("both GPUs")
    assert agrees(answer["report"]["components"]["gpu"], 300.0, answer["seconds"])


def test_partitions_share_their_sockets_counter(run: Any) -> None:
    answer = run("partitions")
    assert len(answer["describe"]["components"]["gpu"]) == 2
    assert agrees(answer["report"]["total"], 300.0, answer["seconds"])
    assert "2 partitions" in answer["describe"]["probes"]["amd"]


def test_a_gpu_lost_in_mid_trial_turns_its_energies_null_and_spares_the_other(run: Any) -> None:
    answer = run("lost")
    assert agrees(answer["report"]["domains"]["amd0-counter"], 100.0, answer["seconds"])
    for figure in (answer["report"]["domains"]["amd1-counter"], answer["report"]["total"]):
        assert figure["request_j"] is None
        assert "AMDSMI_STATUS_NOT_FOUND" in figure["reason"]


def test_foreign_processes_spoil_a_window_and_those_of_another_namespace_are_unknown(run: Any) -> None:
    assert "used GPU 0000:0c:00" in run("shared")["conditions"]["disturbed"]
    elsewhere = run("other namespace")["conditions"]
    assert elsewhere["amd"]["gpus"]["0000:0c:00"]["foreign_processes"] is None
    assert elsewhere["disturbed"] is None


def test_a_driver_that_does_not_answer_is_reported(run: Any) -> None:
    assert "does not answer" in run("no driver")["error"]


def test_power_that_a_package_of_another_version_reads_wrongly_is_not_believed(run: Any) -> None:
    answer = run("another version")
    assert set(answer["describe"]["domains"]) == {"amd0-counter"}
    assert "different ROCm versions" in answer["describe"]["probes"]["amd"]
    assert set(run("another version that is confirmed")["describe"]["domains"]) == {"amd0-counter", "amd0-power"}
    assert "different ROCm versions" in run("another version and nothing to confirm")["error"]


def test_without_the_drivers_library_it_says_so_and_prints_nothing() -> None:
    code = "from harness.energy import probes; probes.create('amd').open(probes.ProbeContext())"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": "", "ROCM_PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "ProbeUnavailable: there is no library of the AMD driver (libamd_smi.so)" in done.stderr
    assert done.stdout == ""
