"""What several tests need: the command line in this process and in a subprocess, and short plans."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from backends.base import Backend, Config, InvalidConfig
from harness.cli import main

ROOT = Path(__file__).resolve().parents[1]
JOULEBENCH = [sys.executable, "-m", "harness"]

# Other programs on a test machine must not decide which trials count.
FAKE = ["measure", "--backend", "fake", "--probes", "none", "--max-foreign-load", "1"]
FOUR_POINTS = ["--point", "8,8", "--point", "64,8", "--point", "8,64", "--point", "64,64"]

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or sys.platform != "linux", reason="builds a C library with gcc on Linux"
)

HIDDEN_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Those that Python shows to nobody who doesn't ask for them."""


def environment() -> dict[str, str]:
    """Environment of a subprocess that finds this checkout from any directory."""
    inherited = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


@contextlib.contextmanager
def others_computing(count: int = 1) -> Iterator[list[int]]:
    """Processes that compute; by their ids."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def take_interrupts() -> None:
    """For a subprocess that is to be interrupted: tests that run in the background inherit interrupts as ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """``measure`` takes over what ends it; afterwards these are pytest's again."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def joulebench(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, through its ``main``, with some environment variables changed.

    In this process, because a start of Python with all imports takes longer than most commands. A warning counts as
    written to stderr, where a user would see it.
    """
    command = ["joulebench", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, {**environment(), **variables}, clear=True),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        signals_kept(),
        warnings.catch_warnings(record=True) as warned,
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except Exception:
            code = 1
            traceback.print_exc()
    shown = [str(w.message) for w in warned if not issubclass(w.category, HIDDEN_WARNINGS)]
    errors = "".join(f"{line}\n" for line in shown) + err.getvalue()
    return subprocess.CompletedProcess(command, 0 if code is None else int(str(code)), out.getvalue(), errors)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal; fails when it is not exactly one line with exit code 2."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("joulebench: error: ")
    assert "Traceback" not in done.stdout
    return lines[0]


def refusal_of(backend: Backend, config: Config) -> str:
    """The one line in which a backend refuses a configuration, whether it is asked to resolve or to load it."""
    messages = set()
    for action in (backend.resolve, backend.load):
        with pytest.raises(InvalidConfig) as refused:
            action(config)
        messages.add(str(refused.value))
    (message,) = messages
    assert "\n" not in message
    return message


@contextlib.contextmanager
def stub_server(*options: str) -> Iterator[str]:
    """The server of ``tests/stub_server.py`` as a process of its own; yields its URL."""
    command = [sys.executable, "-m", "tests.stub_server", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.kill()


def build_nvml(folder: Path) -> Path:
    """The stand-in for NVML in a folder for ``LD_LIBRARY_PATH``; ``NVML_SCENARIO`` names the file that drives it."""
    source, target = ROOT / "tests" / "data" / "nvml.c", folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(target), str(source)], check=True, timeout=60)
    return folder


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
