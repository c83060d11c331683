"""The command line: start-up, refusals, exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from backends.transformers.backend import OLDEST_TRANSFORMERS
from tests.helpers import FAKE, FOUR_POINTS, JOULEBENCH, ROOT, environment, joulebench, refused, take_interrupts

HEAVY = ("torch", "transformers", "llama_cpp", "pynvml", "numpy", "pandas", "matplotlib", "scipy", "duckdb")


@pytest.mark.parametrize("arguments", [["--help"], ["measure", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = f"""
import sys
sys.argv[1:] = {arguments}
from harness.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment(), check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_version() -> None:
    assert joulebench("--version").stdout.strip() == "joulebench 0.1.0"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--backend", "vllm"], "llama-cpp"),
        (["--protocol", "thorough"], "quick, paper, precise"),
        (["-p", "8-64"], "8-2048*2"),
        (["-n", "zero"], "zero"),
        (["--point", "8"], "128,256"),
        (["-m", "gpt-9"], "gpt-9"),
        (["--device", "cuda"], "cuda"),
        (["--quant", "Q3"], "Q3"),
        (["--point", "8000,500"], "context of 8192"),
        (["--grid", "-p", "8"], "--output-tokens"),
        (["--timeout", "-1"], "--timeout"),
        (["--probes", "wattmeter"], "wattmeter"),
        (["--calibrate", "nonsense"], "nonsense"),
        (["--min-window", "9", "--max-window", "3"], "--max-window"),
        (["--batch-size", "none"], "requests in flight"),
        (["--timeout", "inf"], "--timeout"),
        (["--min-window", "nan"], "--min-window"),
        (["--cpu-watts", "inf"], "--cpu-watts"),
        (["--probes", "auto,estimate"], "auto"),
        (["--no-such-option"], "--no-such-option"),
        (["-m", "fake:refuse=1"], "refuses to load"),
        (["-m", "fake:colour=red"], "colour"),
    ],
)
def test_bad_input_ends_in_one_line(options: list[str], expected: str, tmp_path: Path) -> None:
    model = [] if "-m" in options else ["-m", "fake"]
    done = joulebench(*FAKE, *model, "-o", tmp_path / "run", *options)
    assert expected in refused(done)
    assert not (tmp_path / "run").exists(), "a refusal leaves nothing behind"


@pytest.mark.parametrize("command", ["trials"])
def test_directory_without_a_run_is_refused(command: str, tmp_path: Path) -> None:
    assert "holds no run" in refused(joulebench(command, tmp_path))
    assert "holds no run" in refused(joulebench(command, tmp_path / "absent"))
    (tmp_path / "run.json").write_text("{")
    assert "can't be read" in refused(joulebench(command, tmp_path))
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    assert "upgrade joulebench" in refused(joulebench(command, tmp_path))
    (tmp_path / "run.json").write_text("[]")
    assert "schema_version" in refused(joulebench(command, tmp_path))


def test_backend_that_is_not_installed_names_the_command_that_installs_it(tmp_path: Path) -> None:
    """A package that raises ImportError stands first on the path in place of the real one."""
    for package in ("torch", "transformers", "llama_cpp"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not here')")
    for backend, package in (("transformers", "torch"), ("llama-cpp", "llama-cpp-python")):
        done = subprocess.run(
            [sys.executable, "-m", "harness", "measure", "--backend", backend, "-o", str(tmp_path / "run")],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        )
        assert f"pip install '{package}>=" in refused(done)


def test_what_messages_tell_to_install_is_what_the_package_asks_for() -> None:
    """No index has joulebench, so that its extras can't be installed by name."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {part.partition(";")[0] for extra in declared.values() for part in extra}
    told = []
    for path in (file for folder in ("harness", "backends") for file in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        assert "joulebench[" not in text, path
        calls = re.findall(r"(?<!def )pip_install\(([^)]*)\)", text)
        told += [name for call in calls for name in re.findall(r"[\"']([a-z][^\"'{]*)[\"']", call)]
    assert {"duckdb>=1.1", "llama-cpp-python>=0.3.30"} <= set(told) <= wanted
    assert f"transformers>={OLDEST_TRANSFORMERS}" in wanted


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", "--dry-run", *FOUR_POINTS, cwd=tmp_path)
    assert done.returncode == 0
    assert "4 points" in done.stdout
    assert "about" in done.stdout
    assert not list(tmp_path.iterdir())


def test_trials_are_read_back_in_every_format(tmp_path: Path) -> None:
    done = joulebench(*FAKE, "-m", "fake", "-o", tmp_path / "run", "--point", "8,4")
    assert done.returncode == 0, done.stderr
    table = joulebench("trials", tmp_path / "run").stdout
    assert all(word in table for word in ("warmup", "measure", "drift", "tokens"))
    rows = json.loads(joulebench("trials", tmp_path / "run", "--format", "json").stdout)
    lines = joulebench("trials", tmp_path / "run", "--format", "csv").stdout.splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[0].split(",")[0] == "trial_id"
    assert {row["purpose"] for row in rows} == {"warmup", "measure", "drift"}
    assert all(row["energy_j"] is None for row in rows), "what was not measured is null"
    # Known cost of the fake machine: 10 ms + 0.1 ms a token + 10 ns a token², then 3 steps of 5 ms + 1 µs a token.
    expected_s = 0.010 + 8e-4 + 64e-8 + 3 * 0.005 + (9 + 10 + 11) * 1e-6
    assert all(abs(row["runtime_s"] - expected_s) < 1e-6 for row in rows)


def test_default_directory_resumes(tmp_path: Path) -> None:
    for expected in ("trials are in runs/fake-fake-quick", "nothing is left to measure"):
        done = joulebench(*FAKE, "-m", "fake", "--point", "8,4", cwd=tmp_path)
        assert done.returncode == 0
        assert expected in done.stdout


def test_interrupt_is_said_in_a_line(tmp_path: Path) -> None:
    """Typer alone would end with the exit code and no word."""
    pipe = tmp_path / "profile.json"
    os.mkfifo(pipe)
    command = [*JOULEBENCH, "predict", str(pipe), "-p", "8", "-n", "8"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=take_interrupts,
    )
    try:
        # Opening waits for the reader, which then waits for what is never written.
        with pipe.open("w"):
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "joulebench: error: interrupted\n")


@pytest.mark.parametrize("wrong", [["--calibrate", "foo"], ["--probes", "foo"], ["--probes", ""], ["-p", ""]])
def test_dry_run_refuses_what_a_run_refuses(wrong: list[str], tmp_path: Path) -> None:
    command = [*FAKE, "-m", "fake", *wrong, "-o", tmp_path / "run"]
    assert refused(joulebench(*command, "--dry-run")) == refused(joulebench(*command))


def test_name_of_nothing_is_no_profile() -> None:
    assert "name is empty" in refused(joulebench("predict", "", "-p", "8", "-n", "8"))
