#!/usr/bin/env bash
# Everything that must hold: style, types, tests. Makes .venv with all extras first. Options go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment
need_compiler
install_extras dev
need_working_llama
# Without one of these its tests would be skipped, as they are in an environment that was made for less.
.venv/bin/python -c 'import accelerate, duckdb, gguf, matplotlib, plotly, pyarrow, torch, torchao, transformers' ||
    die "a package that was just installed can't be imported; remove .venv and run this again"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Two at a time, because many tests wait; those of one file share what they have set up.
.venv/bin/python -m pytest -q -n 2 --dist loadfile "$@"
