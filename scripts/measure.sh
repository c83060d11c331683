#!/usr/bin/env bash
# Measure this machine: makes .venv, installs, runs real inference, says what came out.
# Options are those of `joulebench measure`; without any, the default model with the quick protocol.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment
echo "installing joulebench with torch and transformers (minutes the first time, seconds later)"
install_extra transformers

.venv/bin/joulebench measure "$@"
