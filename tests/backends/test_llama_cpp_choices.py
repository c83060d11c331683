"""What llama.cpp computes on unless told: threads, GPUs, and a build of the user's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.base import BackendError, Config, InvalidConfig
from backends.llama_cpp.threads import default_threads
from tests.helpers import environment

llama_cpp = pytest.importorskip("llama_cpp")


def hybrid(sysfs: Path) -> Path:
    """Two performance cores of two threads each, processors 0 to 3, and four efficiency cores, 4 to 7."""
    for folder, cpus in (("cpu_core", "0-3"), ("cpu_atom", "4-7")):
        (sysfs / "devices" / folder).mkdir(parents=True)
        (sysfs / "devices" / folder / "cpus").write_text(cpus + "\n")
    for processor, siblings in enumerate(["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"]):
        topology = sysfs / "devices" / "system" / "cpu" / f"cpu{processor}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    return sysfs


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's lists of processors")
def test_hybrid_intel_computes_on_performance_cores_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert default_threads(hybrid(tmp_path)) == 2
    assert default_threads(tmp_path / "no hybrid") == 6
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert default_threads(tmp_path) == 1


def test_apple_silicon_computes_on_performance_cores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def sysctl(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "8\n", "")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", sysctl)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    assert default_threads() == 8
    assert asked == [["/usr/sbin/sysctl", "-n", "hw.perflevel0.physicalcpu"]]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with two GPUs; the names of those that a model was loaded onto."""
    from backends.llama_cpp import backend, library

    loaded: list[str] = []
    gpus = tuple(library.GpuDevice("cuda", number, f"board {number}") for number in (0, 1))
    monkeypatch.setattr(library, "gpus", lambda: gpus)
    monkeypatch.setattr(
        backend.LlamaCpp, "_load_model", lambda self, path, used: loaded.extend(gpu.description for gpu in used)
    )
    return loaded


@pytest.mark.parametrize(
    ("device", "boards"),
    [
        ("cuda", ["board 0"]),
        ("auto", ["board 0"]),
        ("cuda:1", ["board 1"]),
        ("cuda:0,1", ["board 0", "board 1"]),
        ("cpu", []),
    ],
)
def test_device_names_exactly_the_gpus_that_compute(device: str, boards: list[str], two_gpus: list[str]) -> None:
    from backends.llama_cpp import backend

    # No real library has put a layer onto these boards, or loaded a model at all.
    with pytest.raises(BackendError):
        backend.create().load(Config(model="tiny-test", device=device))
    assert two_gpus == boards


@pytest.mark.parametrize(("device", "said"), [("cuda:2", "the last one is cuda:1"), ("cpu:0", "no device 'cpu:0'")])
def test_gpus_that_are_not_there_are_refused(device: str, said: str, two_gpus: list[str]) -> None:
    from backends.llama_cpp import backend

    with pytest.raises(InvalidConfig, match=said):
        backend.create().resolve(Config(model="tiny-test", device=device))


@pytest.mark.parametrize("named", ["folder", "library"])
def test_build_of_the_users_own_is_used_and_recorded(named: str, tmp_path: Path) -> None:
    own = tmp_path / "build"
    own.mkdir()
    for library in (Path(llama_cpp.__file__).parent / "lib").iterdir():
        (own / library.name).symlink_to(library.resolve())
    path = own if named == "folder" else own / "libllama.so"
    code = """
from backends.base import Config, Request
from backends.llama_cpp import backend
runtime = backend.create()
loaded = runtime.load(Config(model="tiny-test", device="cpu", threads=1))
runtime.prepare(Request(8, 4, 0))
print(runtime.run(Request(8, 4, 0)).output_tokens, loaded.settings["library"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(), "LLAMA_CPP_LIB_PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", str(own)]


@pytest.mark.parametrize(
    ("files", "missing"), [((), "libllama"), (("libllama.a",), "libllama"), (("libllama.so", "libggml.a"), "libggml")]
)
def test_folder_without_a_shared_library_is_refused(tmp_path: Path, files: tuple[str, ...], missing: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    done = subprocess.run(
        [sys.executable, "-m", "harness", "measure", "--backend", "llama-cpp", "-m", "tiny-test", "--dry-run"],
        env={**environment(), "LLAMA_CPP_LIB_PATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert f"no {missing} in {tmp_path}" in done.stderr


def test_an_empty_name_of_a_library_is_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from backends.llama_cpp.library import library; print(library().__name__)"],
        env={**environment(), "LLAMA_CPP_LIB_PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "llama_cpp\n", done.stderr
