"""A GPU that the NVIDIA driver lists and the runtime can't use is said before the CPU is measured in its place."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.helpers import JOULEBENCH, build_nvml, environment, needs_gcc

pytestmark = needs_gcc


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the driver lists one GPU."""
    folder = build_nvml(tmp_path_factory.mktemp("nvml"))
    (folder / "scenario").write_text("gpus=1\n")
    return {"LD_LIBRARY_PATH": str(folder), "NVML_SCENARIO": str(folder / "scenario")}


def measured(backend: str, out: Path, variables: dict[str, str], *options: str) -> tuple[str, str | None]:
    """What ``measure`` prints, and what its session notes."""
    command = [*JOULEBENCH, "measure", "--backend", backend, "-m", "tiny-test", "--probes", "none", "-o", str(out)]
    command += ["--max-foreign-load", "1", "--point", "4,4", "--runs", "1", "--min-window", "0.01", *options]
    cache = {"JOULEBENCH_CACHE_DIR": str(out.parent / "cache")}
    done = subprocess.run(command, env={**environment(), **cache, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    session = json.loads((out / "run.json").read_text())["sessions"][0]
    return " ".join(done.stdout.split()), session["unused_gpus"]


@pytest.mark.parametrize(
    ("backend", "package", "reason", "remedy"),
    [
        ("transformers", "torch", "is a build without CUDA", "pip install --force-reinstall 'torch>=2.6'"),
        ("llama-cpp", "llama_cpp", "has no GPU support", 'CMAKE_ARGS="-DGGML_CUDA=on" pip install'),
    ],
)
def test_the_gpu_and_the_remedy_are_named(
    backend: str, package: str, reason: str, remedy: str, nvml: dict[str, str], tmp_path: Path
) -> None:
    library = pytest.importorskip(package)
    if backend == "transformers" and library.version.cuda is not None:
        pytest.skip("torch is a build with CUDA")
    if backend == "llama-cpp" and library.llama_supports_gpu_offload():
        pytest.skip("llama-cpp-python is a build with GPU support")
    said, noted = measured(backend, tmp_path / "run", nvml)
    assert noted
    assert noted in said
    assert noted.startswith("The CPU is measured, not NVIDIA Test Board, which can't be used: ")
    assert reason in noted
    assert remedy in noted
    assert said.index(noted) < said.index("warm-up")


def test_nothing_is_said_where_the_cpu_was_asked_for_or_no_gpu_is_there(nvml: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert measured("transformers", tmp_path / "asked", nvml, "--device", "cpu")[1] is None
    assert measured("transformers", tmp_path / "none", {})[1] is None
