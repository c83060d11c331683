"""The set-up scripts and the wheel: what a new user runs before anything else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.runs.records import read_trials
from tests.helpers import FOUR_POINTS, ROOT, environment


def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts need, without an environment."""
    copy = tmp_path / "check out"
    copy.mkdir()
    for name in ("scripts", "harness", "backends", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def run(copy: Path, script: str, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(copy / "scripts" / script), *options],
        capture_output=True,
        text=True,
        env={**os.environ, **changes},
        timeout=120,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, (done.stdout, done.stderr)
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("script", ["measure.sh", "test.sh"])
def test_old_python_is_refused(script: str, tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert "no Python 3.11 or newer" in one_line(run(checkout(tmp_path), script, JOULEBENCH_PYTHON=str(old)))


@pytest.mark.parametrize("command", [["test.sh"], ["measure.sh", "--backend", "llama-cpp"]])
def test_missing_compiler_is_named(command: list[str], tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    environment_of_its_own(copy, without="llama_cpp")
    assert "no compiler" in one_line(run(copy, *command, CC="no-such-compiler"))


@pytest.mark.parametrize(
    ("shown", "trial", "native"),
    [
        ("avx2", "kill -ILL $$", True),
        ("avx2 amx_tile amx_int8", "exit 0", True),
        ("avx2 amx_tile amx_int8", "exit 1", False),
        ("avx2 amx_tile amx_int8", "kill -ILL $$", False),
    ],
)
def test_llama_cpp_is_compiled_for_what_programs_may_use(shown: str, trial: str, native: bool, tmp_path: Path) -> None:
    """The trial program is what the stand-in for a compiler makes of matrix_unit.c."""
    copy = checkout(tmp_path)
    (copy / ".venv").mkdir()
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {shown} fma\n")
    for name, script in (
        ("cc", f'echo \'#!/bin/sh\n{trial}\' > "$3"\nchmod +x "$3"'),
        (
            "python",
            f'case "$*" in *"pip wheel"*) echo "$CMAKE_ARGS; $*" > "{tmp_path}/asked" ;; *satisfied*) exit 1 ;; esac',
        ),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    script = f"""set -euo pipefail
source scripts/setup/environment.sh
matrix_unit_faults "{tmp_path}/cpuinfo" && faults=true || faults=false
matrix_unit_faults() {{ $faults; }}
need_compiler
PYTHON="{tmp_path}/python" install_extras llama-cpp
"""
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=copy,
        capture_output=True,
        text=True,
        env={**os.environ, "CC": str(tmp_path / "cc"), "CMAKE_ARGS": "-DGGML_CUDA=on"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "compiled now" in done.stdout
    asked = (tmp_path / "asked").read_text()
    assert "-DGGML_CUDA=on" in asked
    assert ("-DGGML_NATIVE=OFF" not in asked) == native
    assert "llama-cpp-python>=" in asked


def test_missing_venv_module_is_named(tmp_path: Path) -> None:
    bare = tmp_path / "python-bare"
    bare.write_text(f'#!/bin/sh\n[ "$2" = venv ] && exit 1\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    assert "python3-venv" in one_line(run(checkout(tmp_path), "measure.sh", JOULEBENCH_PYTHON=str(bare)))


def environment_of_its_own(copy: Path, without: str = "") -> None:
    """A .venv in the copy that shares this environment's packages and imports joulebench from the copy."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(copy / ".venv")], check=True)
    (packages,) = (copy / ".venv" / "lib").glob("python*/site-packages")
    ours = Path(pytest.__file__).parents[1]
    (packages / "shared.pth").write_text(f"{copy}\n{ours}\n")
    (packages / "joulebench.py").write_text("from harness.cli.joulebench import *")
    program = copy / ".venv" / "bin" / "joulebench"
    program.write_text(f'#!/bin/sh\nexec "{copy}/.venv/bin/python" -m harness "$@"\n')
    program.chmod(0o755)
    if without:
        (packages / f"{without}.py").write_text("raise ImportError")
        (packages / "shared.pth").write_text(f"{copy}\n")


def test_existing_environment_is_taken_as_it_is_offline(tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    environment_of_its_own(copy)
    options = ["--backend", "fake", "-m", "fake", "--probes", "none", "--max-foreign-load", "1", *FOUR_POINTS]
    for expected in ("trials are in", "nothing is left to measure"):
        done = run(copy, "measure.sh", *options, "-o", str(tmp_path / "run"), PIP_NO_INDEX="1", PIP_FIND_LINKS="")
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    assert len(read_trials(tmp_path / "run")) > 4
    assert not (copy / ".venv" / "pip.log").exists(), "nothing was installed"


@pytest.mark.parametrize("mended", [True, False])
def test_a_llama_cpp_that_crashes_is_compiled_again(mended: bool, tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    (copy / ".venv").mkdir()
    stub = tmp_path / "python-stub"
    stub.write_text(
        f"""#!/bin/sh
case "$*" in
  *llama_smoke*) [ -e "{tmp_path}/compiled" ] && {"exit 0" if mended else "true"}; kill -ILL $$ ;;
  *"pip wheel"*) echo "$CMAKE_ARGS $*" > "{tmp_path}/compiled" ;;
  *version*) echo 0.3.36 ;;
esac
"""
    )
    stub.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f'set -euo pipefail; source scripts/setup/environment.sh; PYTHON="{stub}"; need_working_llama'],
        cwd=copy,
        capture_output=True,
        text=True,
        env={**os.environ, "CMAKE_ARGS": "-DGGML_CUDA=on"},
        timeout=60,
    )
    asked = (tmp_path / "compiled").read_text()
    assert "-DGGML_CUDA=on -DGGML_NATIVE=OFF" in asked
    assert "llama-cpp-python==0.3.36" in asked
    assert done.returncode == (0 if mended else 1), done.stderr
    assert ("crashes on this processor" in done.stderr) != mended


def test_wheel_has_everything_and_measures(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=checkout(tmp_path),
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("joulebench-*.whl")
    site = tmp_path / "site"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    assert (site / "bin" / "joulebench").exists()

    def python(*arguments: str) -> str:
        variables = {**environment(), "PYTHONPATH": str(site)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert python("-c", "import harness; print(harness.__file__)").startswith(str(site))
    same = "import joulebench as jb, harness; print(jb.fit is harness.fit, jb.Profile is harness.Profile, jb.__file__)"
    assert python("-c", same).split() == ["True", "True", str(site / "joulebench.py")]
    assert python("-m", "joulebench", "--version") == python("-m", "harness", "--version")
    assert "m1-pro-llama-2-7b" in python("-m", "harness", "profiles", "list")
    assert "llama-2-7b" in python("-c", "from backends.presets import PRESETS; print(*PRESETS)")
    options = ["--backend", "fake", "-m", "fake", "--probes", "none", "--max-foreign-load", "1", "--point", "8,4"]
    assert "trials are in run" in python("-m", "harness", "measure", "-o", "run", *options)
