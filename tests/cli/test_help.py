"""The help: short lines, headings, ``-h`` everywhere, and no number of a table cut on a narrow terminal."""

import re

import pytest
import typer

from harness.cli import SECTIONS, app
from tests.helpers import ROOT, joulebench

RUN = ROOT / "tests" / "data" / "run-first"
TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm"}


def paths() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [(name,), *((name, inner) for inner in getattr(command, "commands", ()))]
    return found


@pytest.mark.parametrize("path", paths(), ids=lambda path: " ".join(path) or "joulebench")
def test_help_of_every_command(path: tuple[str, ...]) -> None:
    short, long = (joulebench(*path, option, COLUMNS="80") for option in ("-h", "--help"))
    assert short.returncode == 0, short.stderr
    assert short.stdout == long.stdout
    lines = short.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    # Neither a type for a flag, which takes no value, nor typer's own names of types.
    assert not re.search(r"<|>", short.stdout.replace("x>=", ""))


def test_commands_stand_under_headings() -> None:
    said = joulebench("--help").stdout
    headings = re.findall(r"^(\w+):$", said, re.MULTILINE)
    assert headings == [*SECTIONS, "Options"]
    commands = re.findall(r"^  (\w+) ", said.partition("Measure:")[2].partition("Options:")[0], re.MULTILINE)
    assert set(commands) == {path[0] for path in paths() if path}


def test_examples_of_the_help_are_understood() -> None:
    examples = re.findall(r"^ +joulebench (.+)$", joulebench("--help").stdout, re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        command, *arguments = example.split()
        wanted = [*arguments, "--dry-run", "--backend", "fake", "-m", "fake"] if command == "measure" else arguments
        done = joulebench(command, *wanted)
        assert done.returncode == 0, done.stderr


def plain(output: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


@pytest.mark.parametrize("columns", ["80", "40"])
@pytest.mark.parametrize("terminal", [{}, TERMINAL], ids=["pipe", "terminal"])
def test_numbers_of_a_workload_are_whole(columns: str, terminal: dict[str, str]) -> None:
    wide = plain(joulebench("workload", "show", "alpaca", COLUMNS="200").stdout)
    narrow = plain(joulebench("workload", "show", "alpaca", COLUMNS=columns, **terminal).stdout)
    assert "…" not in narrow
    numbers = re.findall(r"[\d,.]+", wide)
    assert re.findall(r"[\d,.]+", narrow) == numbers
    if columns == "40":
        assert max(map(len, narrow.split("source:")[0].splitlines())) <= 40


@pytest.mark.parametrize("columns", ["80", "40"])
def test_numbers_of_long_requests_are_whole(columns: str, tmp_path: pytest.TempPathFactory) -> None:
    """Nine quantiles of six digits are wider than 80 columns."""
    trace = tmp_path / "trace.csv"  # type: ignore[operator]
    trace.write_text("input_tokens,output_tokens\n" + "".join(f"{123_456 + i},{654_321 + i}\n" for i in range(20)))
    shown = plain(joulebench("workload", "show", trace, COLUMNS=columns, **TERMINAL).stdout)
    assert "…" not in shown
    assert "777,815" in shown


@pytest.mark.parametrize("columns", ["80", "40"])
def test_numbers_of_trials_are_whole(columns: str) -> None:
    wide = plain(joulebench("trials", RUN, COLUMNS="200", **TERMINAL).stdout)
    narrow = plain(joulebench("trials", RUN, COLUMNS=columns, **TERMINAL).stdout)
    assert "…" not in narrow
    assert "not shown on so narrow a terminal: J/token" in " ".join(narrow.split())
    assert "not shown" not in wide
    first = next(line for line in wide.splitlines() if "warmup" in line).split()
    cells = next(line for line in narrow.splitlines() if "warmup" in line).split()
    assert set(cells) <= set(first)
    if columns == "80":
        assert max(map(len, narrow.splitlines()[:20])) <= 80


@pytest.mark.parametrize("columns", ["80", "40"])
def test_names_and_errors_of_profiles_are_whole(columns: str) -> None:
    wide = plain(joulebench("profiles", "list", COLUMNS="200", **TERMINAL).stdout)
    narrow = plain(joulebench("profiles", "list", COLUMNS=columns, **TERMINAL).stdout)
    row = next(line for line in narrow.splitlines() if "palmetto-a100-mistral-7b" in line)
    assert row.split() == next(line for line in wide.splitlines() if "palmetto-a100-mistral-7b" in line).split()
