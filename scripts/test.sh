#!/usr/bin/env bash
# Everything that must hold: style, types, tests. Makes .venv with all extras first.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment
if ! "$PYTHON" -c 'import llama_cpp' >/dev/null 2>&1; then
    for compiler in "${CC:-cc}" "${CXX:-c++}"; do
        command -v "$compiler" >/dev/null ||
            die "no compiler ($compiler), and llama-cpp-python is compiled; install one (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)"
    done
    echo "llama-cpp-python is compiled now: this takes minutes, once"
fi
install_extra dev

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/pytest -q "$@"
