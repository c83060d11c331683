"""The acceptance script from its first step to its table, on the CPU."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import take_interrupts
from tests.scripts.acceptance import command, measured, python_that_says, steps, table

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.timeout(1800)

SCRIPT = command("gpu")
ON_CPU = ["--device", "cpu", "--model", "tiny-test", "--brief"]


def run(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    return measured("gpu", *arguments, **changes)


@dataclass(frozen=True)
class Starts:
    """Two starts into one folder: in the first, one measurement is refused, in the second nothing is in its way."""

    out: Path
    first: subprocess.CompletedProcess[str]
    first_rows: dict[str, dict]
    second: subprocess.CompletedProcess[str]
    idle_start_s: float
    """How long a start takes that has nothing to measure."""
    untouched: bool
    """Whether the second start left alone what the first had measured."""


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Starts:
    out = tmp_path_factory.mktemp("starts") / "out put"
    (out / "steps").mkdir(parents=True)
    (out / "steps" / "sensors.done").touch()
    (out / "sensors.json").write_text('{"probes": [{"name": "nvml", "works": false, "reason": "no driver"}]}')
    python = slow_python(tmp_path_factory.mktemp("python"), "quick", "--nonsense")
    first = run(*ON_CPU, out, JOULEBENCH_PYTHON=str(python))
    rows = table(out)
    python.with_suffix(".mended").touch()
    measured_at = (out / "decode-none" / "trials.jsonl").stat().st_mtime_ns
    second = run(*ON_CPU, out, JOULEBENCH_PYTHON=str(python))
    untouched = (out / "decode-none" / "trials.jsonl").stat().st_mtime_ns == measured_at
    began = time.monotonic()
    run(*ON_CPU, out, JOULEBENCH_PYTHON=str(python))
    return Starts(out, first, rows, second, time.monotonic() - began, untouched)


@pytest.fixture(scope="module")
def finished(starts: Starts) -> Path:
    """A folder in which every step is done; to be copied."""
    return starts.out


def test_step_that_fails_is_named_and_the_others_end_in_a_table(starts: Starts) -> None:
    done, rows = starts.first, starts.first_rows
    assert done.returncode == 1, done.stdout + done.stderr
    assert "steps that failed: quick;" in done.stdout
    assert steps(done) == ["cache", "roofline", "decode-none", "quick", "report"]
    assert rows["decode, none"]["value"] > 0
    assert rows["step at 12 cached tokens"]["value"] > 0
    assert rows["warm-up, cache"]["value"] > 0
    assert rows["step time against cache length"]["value"] is not None
    for what in ("decode, graph", "decode, falcon-7b"):
        assert "not run on this device" in rows[what]["text"]
    for what in (
        "graph over eager",
        "graph of memory roofline",
        "integrated power to counter",
        "held-out error of runtime",
    ):
        assert (rows[what]["value"], rows[what]["met"]) == (None, None)
        assert rows[what]["text"].startswith("not measured: ")
        assert rows[what]["text"] in done.stdout


def test_next_start_makes_what_is_missing_and_what_depends_on_it(starts: Starts) -> None:
    assert starts.second.returncode == 0, starts.second.stdout + starts.second.stderr
    assert steps(starts.second) == ["quick", "fit-quick", "figures", "report"]
    assert starts.untouched
    assert (starts.out / "report.html").is_file()
    assert list((starts.out / "figures").glob("*.png"))
    assert table(starts.out)["held-out error of runtime"]["value"] > 0


def test_folder_holds_the_table_as_printed_and_the_command_that_sends_it_works(starts: Starts, tmp_path: Path) -> None:
    printed = (starts.out / "acceptance.txt").read_text()
    assert printed
    assert printed in starts.second.stdout
    (line,) = [line for line in starts.second.stdout.splitlines() if line.startswith("to send it: ")]
    packing = shlex.split(line.removeprefix("to send it: ").partition(" (")[0])
    subprocess.run(packing, check=True, cwd=tmp_path)
    with tarfile.open(tmp_path / "out put.tar.gz") as packed:
        assert "out put/acceptance.json" in packed.getnames()
    for name in ("acceptance.json", "acceptance.txt"):
        assert str(starts.out.parent) not in (starts.out / name).read_text()


@pytest.mark.slow
def test_long_protocols_are_measured_when_asked_for_and_can_be_added(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    python = slow_python(tmp_path, "precise | */paper", "--nonsense")
    done = run(*ON_CPU, "--full", out, JOULEBENCH_PYTHON=str(python))
    assert steps(done) == ["precise", "paper", "figures", "report"]
    assert "steps that failed: precise paper;" in done.stdout
    assert table(out)["points that count"]["text"] == "4 of 4 of the quick run"


def test_gpu_is_measured_from_what_is_unknown_about_it_on(tmp_path: Path) -> None:
    """The order on a machine with CUDA, as if every measurement failed."""
    out = tmp_path / "out"
    (out / "steps").mkdir(parents=True)
    (out / "steps" / "sensors.done").touch()
    cuda = "*torch.cuda.is_available* | *--dry-run*) exit 0;; */roofline.py*) exit 1;;"
    done = run(out, JOULEBENCH_PYTHON=str(python_that_says(tmp_path, cuda)))
    assert done.returncode == 1, done.stdout + done.stderr
    modes = ["decode-none", "decode-graph", "decode-inductor"]
    assert steps(done) == ["nvidia-smi", "cache", "falcon", "roofline", *modes, "quick"]
    asked = {line.rpartition("/")[2]: line for line in (tmp_path / "asked").read_text().splitlines()}
    assert "--compile graph --probes none --point 128,64 --point 1024,64 --point 3968,64" in asked["cache"]
    assert "--model falcon-7b --compile none" in asked["falcon"]
    assert "--protocol quick" in asked["quick"]


def test_other_options_belong_into_another_folder(finished: Path) -> None:
    other = run(*ON_CPU, "--model", "smollm2-135m", finished)
    assert other.returncode == 2
    assert "was begun with other options (tiny-test cpu true)" in other.stderr


def slow_python(folder: Path, run_name: str, option: str) -> Path:
    """An interpreter that adds an option to the measurement of one run, until ``python.mended`` lies beside it."""
    python = folder / "python"
    change = f'case "$*" in */{run_name}) [ -e "$0.mended" ] || set -- "$@" {option};; esac'
    python.write_text(f'#!/bin/sh\n{change}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def unmake(out: Path, *names: str) -> None:
    """As if these runs had not been measured."""
    for name in names:
        shutil.rmtree(out / name)
        (out / "steps" / f"{name}.done").unlink()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no folder for the output"),
        (["--fast", "out"], "unknown option --fast"),
        (["--minutes", "soon", "out"], "--minutes must be a number"),
        (["--minutes", "1", "out"], "--minutes must be at least 2, not 1"),
        (["--minutes"], "--minutes needs a value"),
        (["--device", "mps", "out"], "--device must be cuda, cuda:1, … or cpu, not mps"),
        (["one", "two"], "not both one and two"),
        (["--device", "cpu", "--model", "meta-llama/Llama-2-7b", "out"], "--model must be one of smollm2-135m, "),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    python = {"JOULEBENCH_PYTHON": sys.executable}
    done = subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True, cwd=tmp_path, env=os.environ | python)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_what_installs_them(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    done = run(*ON_CPU, tmp_path / "out", JOULEBENCH_PYTHON=str(python))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "torch" in line
    assert f"{python} -m pip install" in line
    assert "nvidia-ml-py" in line


def test_without_a_gpu_the_default_device_is_refused(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run(tmp_path / "out")
    assert done.returncode == 2
    assert "torch finds no CUDA GPU" in done.stderr


@pytest.mark.slow
def test_measurement_goes_on_where_the_time_was_up(starts: Starts, tmp_path: Path) -> None:
    """A run that takes longer than the time there is: the second start adds what is missing to what was kept."""
    out = shutil.copytree(starts.out, tmp_path / "out")
    unmake(out, "quick")
    # Time enough to load the model on this machine, and not to measure the 19 windows.
    python = str(slow_python(tmp_path, "quick", f"--min-window {max(1, starts.idle_start_s / 5):.1f}"))
    minutes = (1.75 * starts.idle_start_s + 12) / 60
    first = run(*ON_CPU, "--minutes", f"{minutes:.2f}", out, JOULEBENCH_PYTHON=python)
    assert first.returncode == 75, first.stdout + first.stderr
    assert "run the same command again" in first.stdout
    kept = (out / "quick" / "trials.jsonl").read_text()
    assert kept
    assert not (out / "profile-quick.json").exists(), "a profile of an earlier state stands for nothing"
    second = run(*ON_CPU, out, JOULEBENCH_PYTHON=python)
    assert second.returncode == 0, second.stdout + second.stderr
    assert (out / "quick" / "trials.jsonl").read_text().startswith(kept)
    assert len(json.loads((out / "quick" / "run.json").read_text())["sessions"]) == 2
    rows = table(out)
    assert rows["held-out error of runtime"]["value"] is not None
    assert rows["points that count"]["text"] == "4 of 4 of the quick run"
    assert "is no acceptance" in second.stdout


@pytest.mark.slow
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut off"])
def test_damaged_run_is_put_aside_and_measured_anew(ended: bool, finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    trials = (out / "quick" / "trials.jsonl").read_bytes()
    with (out / "quick" / "run.json").open("r+") as file:
        file.truncate(100)
    if not ended:
        (out / "steps" / "quick.done").unlink()
    done = run(*ON_CPU, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps(done) == ["quick", "fit-quick", "figures", "report"]
    assert (out / "steps" / "quick.failed-1" / "trials.jsonl").read_bytes() == trials


def test_check_that_fails_destroys_nothing(finished: Path, tmp_path: Path) -> None:
    """Packages may break between two starts, a process be killed: what was measured is not to blame."""
    out = shutil.copytree(finished, tmp_path / "out")
    python = tmp_path / "python"
    broken = 'case "$*" in *load_run*) echo "libsomething.so is gone" >&2; exit 1;; esac'
    python.write_text(f'#!/bin/sh\n{broken}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    before = {path: path.read_bytes() for path in out.glob("*/trials.jsonl")}
    done = run(*ON_CPU, out, JOULEBENCH_PYTHON=str(python))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "can't look at" in done.stderr
    assert "libsomething.so is gone" in done.stderr
    assert {path: path.read_bytes() for path in out.glob("*/trials.jsonl")} == before


@pytest.mark.slow
def test_measurement_of_which_nothing_counts_has_failed_and_is_made_anew(finished: Path, tmp_path: Path) -> None:
    """A run whose every trial failed would only end so again: it is kept, and made anew."""
    out = shutil.copytree(finished, tmp_path / "out")
    unmake(out, "decode-none", "cache")
    (out / "steps" / "cache.done").touch()  # a folder that somebody removed
    python = slow_python(tmp_path, "decode-none", "--timeout 0.001")
    first = run(*ON_CPU, out, JOULEBENCH_PYTHON=str(python))
    assert first.returncode == 1, first.stdout + first.stderr
    assert "steps that failed: decode-none;" in first.stdout
    assert "Nothing was measured: timed out" in first.stdout
    assert table(out)["decode, none"]["text"].startswith(
        "not measured: no trial of decode-none counts: joulebench trial"
    )
    assert table(out)["step at 12 cached tokens"]["value"] > 0
    assert (out / "steps" / "decode-none.failed-1" / "trials.jsonl").is_file()
    (tmp_path / "python.mended").touch()
    second = run(*ON_CPU, out, JOULEBENCH_PYTHON=str(python))
    assert second.returncode == 0, second.stdout + second.stderr
    assert table(out)["decode, none"]["value"] > 0


def started(out: Path, python: Path) -> subprocess.Popen[str]:
    """The script as a process group of its own, in the middle of its first measurement."""
    (out / "steps").mkdir(parents=True)
    for step in ("sensors", "roofline"):
        (out / "steps" / f"{step}.done").touch()
    script = subprocess.Popen(
        [*SCRIPT, *ON_CPU, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JOULEBENCH_PYTHON": str(python)},
        start_new_session=True,
        preexec_fn=take_interrupts,
    )
    assert script.stdout
    assert "cache" in script.stdout.readline()
    wait_until((out / "cache" / "run.json").exists)
    return script


def wait_until(condition: Callable[[], bool], timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("signalled", "group", "code"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)], ids=["Ctrl-C", "TERM"]
)
def test_signal_ends_the_script_and_the_measurement(
    signalled: signal.Signals, group: bool, code: int, tmp_path: Path
) -> None:
    """The terminal sends Ctrl-C to all processes in the foreground; a scheduler tells the script alone to end."""
    out = tmp_path / "out"
    script = started(out, slow_python(tmp_path, "cache", "--min-window 20"))
    (os.killpg if group else os.kill)(script.pid, signalled)
    output, _ = script.communicate(timeout=60)
    assert script.returncode == code, output
    assert "decode-none" not in output
    assert "Traceback" not in output
    assert json.loads((out / "cache" / "run.json").read_text())["sessions"][-1]["ended"] == "interrupted"


def test_nothing_is_measured_beside_a_step_that_a_killed_script_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    python = slow_python(tmp_path, "cache", "--min-window 20")
    script = started(out, python)
    try:
        script.kill()
        script.wait()
        second = run(*ON_CPU, out, JOULEBENCH_PYTHON=str(python))
        assert second.returncode == 2
        (line,) = second.stderr.splitlines()
        assert "is being measured" in line
        assert second.stdout == ""
    finally:
        os.killpg(script.pid, signal.SIGKILL)
        script.communicate()
