#!/usr/bin/env bash
# Measure this machine: make .venv, install, run real inference, print the result, draw it and write a report.
# Options are those of `joulebench measure`; without any, the default model with the quick protocol.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
source scripts/setup/environment.sh

extras=transformers,figures,workloads,apple
case "$*" in *llama-cpp*)
    extras=$extras,llama-cpp
    need_compiler
    ;;
esac
case "$*" in *mlx*) extras=$extras,mlx ;; esac
make_environment
echo "installing joulebench[$extras] (minutes the first time, seconds later)"
install_extras "$extras"
case "$extras" in *llama-cpp*) need_working_llama ;; esac

joulebench=$PWD/.venv/bin/joulebench
cd "$here"
exec "$joulebench" measure --pictures "$@"
