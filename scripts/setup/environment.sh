# Sourced by measure.sh and test.sh: makes .venv in the checkout, or takes the one that is there as it is.
#
# Sets PYTHON to the environment's interpreter. Every failure is one line that names the remedy.

die() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

recent_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate candidates=(python3 python3.13 python3.12 python3.11 python3.14)
    [ -n "${JOULEBENCH_PYTHON:-}" ] && candidates=("$JOULEBENCH_PYTHON")
    for candidate in "${candidates[@]}"; do
        if recent_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer was found; install one, or name it: JOULEBENCH_PYTHON=/path/to/python3 bash $0"
}

make_environment() {
    PYTHON="$PWD/.venv/bin/python"
    if [ -x "$PYTHON" ]; then
        recent_enough "$PYTHON" || die ".venv has a Python older than 3.11; remove .venv and run this again"
        # An environment without pip is what an interrupted creation leaves; creating it again completes it.
        "$PYTHON" -m pip --version >/dev/null 2>&1 && return
    fi
    local base
    base=$(find_python) || exit 1
    echo "making .venv with $("$base" --version)"
    "$base" -m venv .venv >/dev/null 2>&1 ||
        die "$base can't make virtual environments; install its venv module (Debian, Ubuntu: apt install python3-venv)"
}

# llama-cpp-python is compiled where it is not installed yet: on all cores, without what reads images and without AMX where it
# faults. What CMAKE_ARGS already says comes last and wins.
need_compiler() {
    "$PWD/.venv/bin/python" -c 'import llama_cpp' >/dev/null 2>&1 && return
    local compiler
    for compiler in "${CC:-cc}" "${CXX:-c++}"; do
        command -v "${compiler%% *}" >/dev/null ||
            die "no compiler ($compiler), and llama-cpp-python is compiled; install one (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)"
    done
    echo "llama-cpp-python is compiled now: this takes minutes, once"
    export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)}"
    export CMAKE_ARGS="-DLLAVA_BUILD=OFF ${CMAKE_ARGS:-}"
    if matrix_unit_faults; then
        echo "this processor shows a matrix unit (AMX) that programs may not use: compiling for plain AVX2"
        export CMAKE_ARGS="-DGGML_NATIVE=OFF $CMAKE_ARGS"
    fi
}

# Whether the processor shows a matrix unit (AMX) that programs may not use, as in some virtual machines: a llama.cpp compiled
# for the processor as it shows itself would die of a signal.
matrix_unit_faults() {
    grep -qw amx_tile "${1:-/proc/cpuinfo}" 2>/dev/null || return
    local folder status=0
    folder=$(mktemp -d)
    { ${CC:-cc} scripts/setup/matrix_unit.c -o "$folder/try" && "$folder/try"; } >/dev/null 2>&1 || status=$?
    rm -r "$folder"
    [ "$status" -ne 0 ]
}

# Installs the checkout with the extras $1 (joined by commas), unless all they need is there already. torch is pinned unless the
# environment has one of its own, such as a CUDA build.
install_extras() {
    "$PYTHON" scripts/setup/satisfied.py "$1" && return
    local constraint=(--constraint scripts/setup/constraints.txt)
    if "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
        constraint=()
    fi
    if ! "$PYTHON" -m pip install --disable-pip-version-check ${constraint[@]+"${constraint[@]}"} \
        --editable ".[$1]" >.venv/pip.log 2>&1; then
        tail -n 5 .venv/pip.log >&2
        die "installing joulebench[$1] failed; .venv/pip.log says why, its last lines are above"
    fi
}

# A llama-cpp-python that dies of a signal, as one from pip's cache may that another machine compiled, is compiled again for
# plain AVX2, and replaces the one in the cache.
need_working_llama() {
    local status=0
    "$PYTHON" scripts/setup/llama_smoke.py >.venv/llama.log 2>&1 || status=$?
    [ "$status" -eq 0 ] && return
    [ "$status" -gt 128 ] || die "llama-cpp-python does not work: $(tail -n 1 .venv/llama.log)"
    echo "llama-cpp-python as compiled for this processor crashes on it; compiling it without AMX and AVX-512 (minutes, once)"
    local version
    version=$("$PYTHON" -c 'import importlib.metadata as m; print(m.version("llama-cpp-python"))')
    "$PYTHON" -m pip cache remove llama_cpp_python >/dev/null 2>&1 || true
    CMAKE_ARGS="${CMAKE_ARGS:-} -DGGML_NATIVE=OFF" "$PYTHON" -m pip install --disable-pip-version-check \
        --force-reinstall --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version" >.venv/pip.log 2>&1 ||
        die "compiling llama-cpp-python failed; .venv/pip.log says why"
    "$PYTHON" scripts/setup/llama_smoke.py >.venv/llama.log 2>&1 ||
        die "llama-cpp-python crashes on this processor; .venv/llama.log says how"
}
