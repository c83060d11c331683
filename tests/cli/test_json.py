"""``--json``: valid JSON and nothing else on stdout, on every command that answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from harness.cli import app
from tests.helpers import FAKE, ROOT, joulebench, refused

DATA = ROOT / "tests" / "data"
RUN = DATA / "run-first"
PAIR = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")
WITHOUT = {("profiles", "schema"), ("rule", "schema"), ("meter",)}
"""Commands that print nothing but JSON, and one that serves until it is ended."""

COMMANDS = {
    ("measure",): [*FAKE, "-m", "fake", "-o", "run", "--point", "8,4", "--runs", "1"],
    ("doctor",): ["doctor"],
    ("trials",): ["trials", RUN],
    ("fit",): ["fit", RUN, "-o", "profile.json"],
    ("predict",): ["predict", PAIR[0], "-p", "8,64", "-n", "8"],
    ("compare",): ["compare", *PAIR],
    ("attribute",): ["attribute", DATA / "mixed-load.csv", "--profile", DATA / "profile-schema-3.json"],
    ("export",): ["export", PAIR[0], "-o", "table.json"],
    ("figures",): ["figures", PAIR[0], "-o", "figures"],
    ("report",): ["report", RUN, "-o", "report.html"],
    ("threshold",): ["threshold", *PAIR],
    ("route",): ["route", *PAIR],
    ("simulate",): ["simulate", PAIR[0], "--rate", "1/h", "--requests", "50"],
    ("paper",): ["paper", "-o", "paper"],
    ("profiles", "list"): ["profiles", "list"],
    ("profiles", "show"): ["profiles", "show", PAIR[0]],
    ("profiles", "validate"): ["profiles", "validate", DATA / "profile-schema-1.json"],
    ("workload", "show"): ["workload", "show", "alpaca"],
}


def commands() -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {(name, what): part for what, part in inner.items()} if inner else {(name,): command}
    return found


def test_every_command_that_answers_has_the_option() -> None:
    has = {path for path, command in commands().items() if any("--json" in one.opts for one in command.params)}
    assert has == commands().keys() - WITHOUT
    # Building a workload needs a tokenizer of its own; tests/deciding has one.
    assert has == COMMANDS.keys() | {("workload", "build")}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_stdout_is_json(path: tuple[str, ...], tmp_path: Path) -> None:
    done = joulebench(*COMMANDS[path], "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("path", [("export",), ("figures",), ("report",), ("paper",)], ids=" ".join)
def test_files_written_are_listed(path: tuple[str, ...], tmp_path: Path) -> None:
    done = joulebench(*COMMANDS[path], "--json", cwd=tmp_path)
    files = json.loads(done.stdout)["files"]
    assert files
    assert {tmp_path / name for name in files} == {name for name in tmp_path.rglob("*") if name.is_file()}


def test_measure_sends_progress_to_stderr(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", "-o", "run", "--point", "8,4", "--point", "16,8", "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert "loading fake" in done.stderr
    # Known cost of the fake machine: 10 ms + 0.1 ms a token + 10 ns a token², then 3 steps of 5 ms + 1 µs a token.
    runtime_s = 0.010 + 8e-4 + 64e-8 + 3 * 0.005 + (9 + 10 + 11) * 1e-6
    first, second = result["points"]
    assert (first["input_tokens"], first["output_tokens"], second["input_tokens"]) == (8, 4, 16)
    assert first["runtime_s"]["mean"] == pytest.approx(runtime_s, rel=1e-6)
    assert first["energy_j"] is None
    assert result["headline"]["runtime_s"]["mean"] in (first["runtime_s"]["mean"], second["runtime_s"]["mean"])
    assert result["drift"]["change"] == pytest.approx(0, abs=1e-9)


def test_plan_as_json_measures_nothing(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", "--dry-run", "--json", "-p", "8,16", "-n", "4", cwd=tmp_path)
    assert sorted(json.loads(done.stdout)["plan"]["points"]) == [[8, 32, 1], [16, 32, 1], [32, 4, 1]]
    assert not list(tmp_path.iterdir())


def test_json_of_trials_is_their_format() -> None:
    assert joulebench("trials", RUN, "--json").stdout == joulebench("trials", RUN, "--format", "json").stdout
    assert "leave one out" in refused(joulebench("trials", RUN, "--json", "--format", "csv"))


def test_columns_have_unit_and_meaning() -> None:
    """The description of a run's columns names those that its CSV has."""
    header = joulebench("trials", RUN, "--format", "csv").stdout.splitlines()[0].split(",")
    described = json.loads(joulebench("trials", RUN, "--columns", "--json").stdout)
    assert [column["name"] for column in described] == header
    assert all(column["meaning"] for column in described)
    units = {column["name"]: column["unit"] for column in described}
    assert [units[name] for name in ("runtime_s", "energy_j", "cpu_energy_ci95_j", "status", "input_tokens")] == [
        *("s", "J", "J", None, "tokens")
    ]
    assert units["decode_tokens_per_s"] == "tokens/s"
    assert units["energy_per_output_token_j"] == "J/token"


def test_columns_need_no_run() -> None:
    described = json.loads(joulebench("trials", "--columns", "--json").stdout)
    assert "COMPONENT_energy_j" in {column["name"] for column in described}
    table = joulebench("trials", "--columns").stdout
    assert all(column["name"] in table for column in described)
    assert len(joulebench("trials", "--columns", "--format", "csv").stdout.splitlines()) == len(described) + 1
    assert "name a run directory" in refused(joulebench("trials"))
