"""Estimated energy is named as such wherever it is printed or written."""

import csv
import json
from pathlib import Path

import pytest

from tests.helpers import ROOT, joulebench

PAIR = ("first.json", "second.json")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two profiles of one run whose energy was estimated."""
    folder = tmp_path_factory.mktemp("profiles")
    for file in PAIR:
        name = file.removesuffix(".json")
        done = joulebench("fit", ROOT / "tests/data/run-first", "--name", name, "-o", folder / file)
        assert done.returncode == 0, done.stderr
        assert "(estimated)" in done.stdout
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "first.json", "-p", "8", "-n", "8"],
        ["compare", *PAIR],
        ["threshold", "--small", "first.json", "--large", "second.json", "--workload", "alpaca"],
        ["route", "--profile", "first.json", "--profile", "second.json", "--workload", "alpaca"],
        ["profiles", "show", "first.json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_printed_results_say_it(arguments: list[str], profiles: Path) -> None:
    done = joulebench(*arguments, cwd=profiles)
    assert done.returncode == 0, done.stderr
    assert "estimated" in done.stdout
    if arguments[0] != "profiles":
        assert "estimated" in str(json.loads(joulebench(*arguments, "--json", cwd=profiles).stdout))


def test_rules_and_tables_for_other_programs_say_it(profiles: Path) -> None:
    options = ["--profile", "first.json", "--profile", "second.json", "--workload", "alpaca", "--export", "rule.json"]
    assert joulebench("route", *options, cwd=profiles).returncode == 0
    systems = json.loads((profiles / "rule.json").read_text())["systems"]
    assert {system["energy_method"] for system in systems.values()} == {"estimated"}
    assert joulebench("export", "first.json", "--format", "csv", "-o", "table.csv", cwd=profiles).returncode == 0
    with (profiles / "table.csv").open() as stream:
        methods = {(row["quantity"], row["method"]) for row in csv.DictReader(stream)}
    assert methods == {("runtime", ""), ("energy", "estimated"), ("cpu_energy", "estimated")}
