"""What several tests need: the command line in a subprocess, and short plans."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JOULEBENCH = [sys.executable, "-m", "harness"]

# Other programs on a test machine must not decide which trials count.
FAKE = ["measure", "--backend", "fake", "--probes", "none", "--max-foreign-load", "1"]
FOUR_POINTS = ["--point", "8,8", "--point", "64,8", "--point", "8,64", "--point", "64,64"]


def environment() -> dict[str, str]:
    """Environment of a subprocess that finds this checkout from any directory."""
    inherited = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def take_interrupts() -> None:
    """For a subprocess that is to be interrupted: tests that run in the background inherit interrupts as ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def joulebench(*arguments: object, cwd: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [*JOULEBENCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(),
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal; fails when it is not exactly one line with exit code 2."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("joulebench: error: ")
    assert "Traceback" not in done.stdout
    return lines[0]


def install_guest(folder: Path, group: str, module: str, source: str) -> None:
    """What pip leaves of a package ``guest``: one module, and an entry point of ``group`` to its ``create``."""
    (folder / f"{module}.py").write_text(source)
    metadata = folder / "guest-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\nguest = {module}:create\n")


def imported_by(code: str, package: str) -> set[str]:
    """Modules of a package, beneath it, that a fresh interpreter has imported once it has run ``code``."""
    code += f"\nimport sys\nprint(*(name for name in sys.modules if name.startswith('{package}.')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(), timeout=120
    )
    return {name.removeprefix(f"{package}.") for name in done.stdout.split()}
