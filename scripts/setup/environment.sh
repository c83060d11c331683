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

# llama-cpp-python is compiled where it is not installed yet: compiles is set then.
need_compiler() {
    "$PWD/.venv/bin/python" -c 'import llama_cpp' >/dev/null 2>&1 && return
    local compiler
    for compiler in "${CC:-cc}" "${CXX:-c++}"; do
        command -v "${compiler%% *}" >/dev/null ||
            die "no compiler ($compiler), and llama-cpp-python is compiled; install one (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)"
    done
    compiles=true
}

# Whether the processor shows a matrix unit (AMX) that programs may not use, as in some virtual machines: a llama.cpp compiled
# for the processor as it shows itself would die of a signal.
matrix_unit_faults() {
    grep -qw amx_tile "${1:-/proc/cpuinfo}" 2>/dev/null || return
    local folder status=0
    folder=$(mktemp -d)
    # Where the try itself can't be compiled nothing is known; what is compiled later is tried in any case.
    if ${CC:-cc} scripts/setup/matrix_unit.c -o "$folder/try" >/dev/null 2>&1; then { "$folder/try" || status=$?; } >/dev/null 2>&1; fi
    rm -r "$folder"
    [ "$status" -ne 0 ]
}

# Compiles the llama-cpp-python of requirement $1 into .venv/wheels, with CMAKE_ARGS and the option $2, without what is not
# loaded here. Not by way of pip's cache, which would hand such a build to other projects; what was compiled for this processor
# with these options is kept beside joulebench's other files.
compile_llama() {
    local options="${CMAKE_ARGS:-} ${2:-}" parts=scripts/setup/llama_parts.cmake key
    key=$({ echo "$options" && cat "$parts" && grep -m 1 ^flags /proc/cpuinfo; } 2>/dev/null | cksum || true)
    rm -rf .venv/wheels
    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE=$(printf %q "$PWD/$parts") $options" \
        CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)}" \
        "$PYTHON" -m pip wheel --disable-pip-version-check --no-deps --no-binary llama-cpp-python --wheel-dir .venv/wheels \
        --cache-dir "${XDG_CACHE_HOME:-$HOME/.cache}/joulebench/wheels/${key%% *}" "$1" >.venv/pip.log 2>&1 ||
        die "compiling llama-cpp-python failed; .venv/pip.log says why"
}

# Installs the checkout with the extras $1 (joined by commas), unless all they need is there already. torch is pinned unless the
# environment has one of its own, such as a CUDA build.
install_extras() {
    "$PYTHON" scripts/setup/satisfied.py "$1" && return
    local constraint=(--constraint scripts/setup/constraints.txt)
    if "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
        constraint=()
    fi
    if [ -n "${compiles:-}" ]; then
        local option=
        if matrix_unit_faults; then
            option=-DGGML_NATIVE=OFF
            echo "this processor shows a matrix unit (AMX) that programs may not use: compiling for plain AVX2"
        fi
        echo "llama-cpp-python is compiled now: this takes minutes, once"
        compile_llama "$(grep -o 'llama-cpp-python>=[0-9.]*' pyproject.toml)" $option
    fi
    if ! "$PYTHON" -m pip install --disable-pip-version-check ${constraint[@]+"${constraint[@]}"} \
        --find-links .venv/wheels --editable ".[$1]" >.venv/pip.log 2>&1; then
        tail -n 5 .venv/pip.log >&2
        die "installing joulebench[$1] failed; .venv/pip.log says why, its last lines are above"
    fi
}

# A llama-cpp-python that dies of a signal, as one may that was compiled elsewhere, is compiled again for plain AVX2.
need_working_llama() {
    local status=0
    "$PYTHON" scripts/setup/llama_smoke.py >.venv/llama.log 2>&1 || status=$?
    [ "$status" -eq 0 ] && return
    [ "$status" -gt 128 ] || die "llama-cpp-python does not work: $(tail -n 1 .venv/llama.log)"
    echo "llama-cpp-python as compiled for this processor crashes on it; compiling it without AMX and AVX-512 (minutes, once)"
    local version
    version=$("$PYTHON" -c 'import importlib.metadata as m; print(m.version("llama-cpp-python"))')
    compile_llama "llama-cpp-python==$version" -DGGML_NATIVE=OFF
    "$PYTHON" -m pip install --disable-pip-version-check --force-reinstall --no-deps .venv/wheels/llama_cpp_python-*.whl \
        >.venv/pip.log 2>&1 || die "installing llama-cpp-python failed; .venv/pip.log says why"
    "$PYTHON" scripts/setup/llama_smoke.py >.venv/llama.log 2>&1 ||
        die "llama-cpp-python crashes on this processor; .venv/llama.log says how"
}
