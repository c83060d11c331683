"""What a run is compared with when it has been measured."""

import json
import re
import shlex
from pathlib import Path

from harness.modelling.profile import Profile
from harness.showing.matches import comparison_lines
from tests.helpers import ROOT, joulebench

RUN = ROOT / "tests" / "data" / "run-first"


def changed(tmp_path: Path, **identity: object) -> Profile:
    """A shipped profile on a machine of its own."""
    content = json.loads(Profile.load("m1-pro-llama-2-7b").dump())
    content["name"] = "mine"
    content["identity"] |= {"system": "mine", **identity}
    return Profile.parse(json.dumps(content))


def test_shipped_profiles_that_match_are_compared() -> None:
    *against, sizes, threshold = comparison_lines("m1-pro-llama-2-7b", ["joulebench"])
    assert [line.split(":")[0].removeprefix("against ") for line in against] == [
        "palmetto-a100-llama-2-7b",
        "palmetto-v100-llama-2-7b",
        "swing-a100-llama-2-7b",
    ]
    said = re.fullmatch(
        r"against swing-a100-llama-2-7b: ([\d.]+)× the runtime \(([\d.]+)–([\d.]+)×\) and "
        r"([\d.]+)× the energy \(([\d.]+)–([\d.]+)×, not significant\) at 32 in, 32 out",
        against[-1],
    )
    assert said, against[-1]
    runtime, low, high, *_ = map(float, said.groups())
    small, large = (Profile.load(f"{name}-llama-2-7b") for name in ("m1-pro", "swing-a100"))
    assert abs(runtime / float(small.runtime_s(32, 32) / large.runtime_s(32, 32)) - 1) < 0.01
    assert low < runtime < high
    # The commands are true ones.
    for line in (sizes, threshold):
        _, _, command = line.partition("joulebench ")
        assert joulebench(*shlex.split(command)).returncode == 0


def test_without_a_match_the_commands_that_make_one_are_named() -> None:
    why, paper, backend = comparison_lines(RUN, ["python", "-m", "harness"])
    assert why == "No shipped profile ran smollm2-135m."
    assert "python -m harness measure --protocol paper -m llama-2-7b (about 14 GB of memory" in paper
    for command in backend.partition(": ")[2].split(" && "):
        program, rest = command[:20], shlex.split(command)[3:]
        assert program == "python -m harness me" or rest[0] == "compare"
        if rest[0] == "measure":
            done = joulebench(*rest, "--dry-run")
            assert done.returncode == 0, done.stderr
    # The run is in a precision that the other backend has too: only that is left to measure.
    assert backend.count(" measure ") == 1
    assert backend.endswith(f"compare {RUN} runs/llama-cpp-float32")


def test_another_load_is_compared_and_said(tmp_path: Path) -> None:
    *against, _, _ = comparison_lines(changed(tmp_path, concurrency=8), ["joulebench"])
    assert len(against) == 4
    assert all(line.endswith("at 32 in, 32 out, 8 in flight here and 1 there") for line in against)


def test_estimated_energy_leaves_runtime_to_compare(tmp_path: Path) -> None:
    content = json.loads(changed(tmp_path).dump())
    for part in (content["energy"], *content["components"].values()):
        part["method"] = "estimated"
    first, *rest = comparison_lines(Profile.parse(json.dumps(content)), ["joulebench"])
    assert first.endswith("at 32 in, 32 out; energy isn't compared: energy is estimated here and measured there")
    assert "energy (" not in first
    assert not any("threshold" in line for line in rest)


def test_a_run_that_can_not_be_fitted_says_why() -> None:
    (line,) = comparison_lines(ROOT / "tests" / "data" / "run-1", ["joulebench"])
    assert line.startswith("no comparison: ")
    assert "measure at least 4" in line
