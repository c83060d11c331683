#!/usr/bin/env bash
# Check style and types, and run the tests; before that, make .venv with all extras. Options go to pytest, except --slow as the
# first one: it adds the tests marked slow.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup/environment.sh

make_environment
need_compiler
install_extras dev
need_working_llama
# Without one of these its tests would be skipped, as they are in an environment that was made for less.
.venv/bin/python -c 'import accelerate, duckdb, gguf, matplotlib, pyarrow, torch, torchao, transformers' \
    >.venv/import.log 2>&1 || die "a package that tests need can't be imported: $(tail -n 1 .venv/import.log)"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Four at a time, because many tests wait; those of one file share what they have set up. Not the files with the fewest
# tests last, as xdist likes: they are the longest, and one would run alone at the end.
chosen=(-m "not slow")
if [ "${1:-}" = --slow ]; then
    chosen=()
    shift
fi
.venv/bin/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder ${chosen[@]+"${chosen[@]}"} "$@"
