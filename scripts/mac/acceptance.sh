#!/usr/bin/env bash
# What a Mac can do, measured: two power sources beside each other, both backends on GPU and CPU, numbers of threads.
#
#   bash scripts/mac/acceptance.sh [OPTIONS] OUT
#
# Needs Python with torch, transformers, llama-cpp-python and joulebench's other packages; no network, no installation of the
# checkout. Stops after --minutes with exit code 75; the same command goes on. Everything it writes is under OUT.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

usage() {
    cat <<TEXT
usage: bash scripts/mac/acceptance.sh [OPTIONS] OUT

Measures a Mac into the folder OUT and prints a table. The same command goes on where it stopped; all of it takes about ten
minutes. Leave the Mac alone meanwhile, on its power supply.

  --minutes N    stop cleanly after N minutes of steps, at least 2, with exit code 75 while some are left (default 12)
  --brief        a tiny model and few short trials, with estimated energy in one run; for trying the script out anywhere
  --help         show this

powermetrics runs as root: where that isn't allowed, the script says which line allows it and goes on with ioreport alone.
Python is python3, or what JOULEBENCH_PYTHON names. Exit codes: 0 every step ran, 1 some step failed: the same command
tries it again, 2 something is missing or misspelt, 75 the time was up: run it again.
TEXT
}

minutes=12 brief=false
# shellcheck source=scripts/acceptance/steps.sh
source "$repository/scripts/acceptance/steps.sh"
parse_options " minutes " " brief " "$@"
[ "$(uname -s)" = Darwin ] && mac=true || mac=false
$mac || $brief || refuse "this measures a Mac; with --brief it can be tried out on any system"

find_python
need_packages "torch transformers numpy pandas scipy typer rich psutil pydantic" "llama_cpp gguf zeus_apple_silicon"
claim "$brief"

load=(--load)
if $brief; then load=(); fi
step sensors "$out/sensors.json" "${joulebench[@]}" doctor ${load[@]+"${load[@]}"} --json

# Which of the two sources work here, and what would make the other work.
sources=$("$python" -P -c '
import json, sys
names = ("powermetrics", "ioreport")
try:
    probes = json.load(open(sys.argv[1]))["probes"]
except OSError:
    probes = []
found = [probe for probe in probes if probe["name"] in names]
print(",".join(probe["name"] for probe in found if probe["works"]) or "none")
for probe in found:
    if not probe["works"]:
        why = "; ".join(filter(None, (probe["reason"], probe["remedy"])))
        print("without {}: {}".format(probe["name"], why), file=sys.stderr)' "$out/sensors.json" 2>"$out/steps/sources.log")
if $mac; then
    cat "$out/steps/sources.log"
    [ ! -s "$out/steps/sources.log" ] || echo "once it works, measure into another folder"
fi

small=smollm2-135m larger=qwen2.5-0.5b
# Six seconds are enough for batches that come every 2.1 s to be seen, and for ten minutes to do.
energy=(--probes "$sources" --point '64,128' --runs 3 --min-window 5 --max-window 6)
speed=(--probes none --point '64,128' --runs 3)
if $brief; then
    small=tiny-test
    speed=(--probes none --point '8,16' --runs 2 --min-window 0.05 --max-foreign-load 1)
    energy=("${speed[@]}")
fi
pairs=(transformers/cpu)
lacks llama_cpp || lacks gguf || pairs+=(llama-cpp/cpu)
if $mac; then
    pairs=(transformers/mps "${pairs[@]}")
    lacks llama_cpp || lacks gguf || pairs+=(llama-cpp/metal)
fi

for pair in "${pairs[@]}"; do
    on=(--backend "${pair%/*}" --device "${pair#*/}")
    if $brief && [ "$pair" = llama-cpp/cpu ]; then
        # The estimate in one run: each that has energy reads idle power for half a minute.
        measured "${pair/\//-}" "${on[@]}" --model "$small" "${energy[@]}" --probes estimate
    else
        measured "${pair/\//-}" "${on[@]}" --model "$small" "${energy[@]}"
    fi
done
if [[ " ${pairs[*]} " == *" llama-cpp/cpu "* ]]; then
    counts=$("$python" -P -c '
import os
from backends.llama_cpp.threads import default_threads
fast = default_threads()
print(*sorted({max(1, fast // 2), fast, os.cpu_count() or 1}))')
    for count in $counts; do
        measured "threads-$count" --backend llama-cpp --device cpu --model "$small" --threads "$count" "${speed[@]}"
    done
fi
if ! $brief; then
    for pair in "${pairs[@]}"; do
        measured "larger-${pair/\//-}" --backend "${pair%/*}" --device "${pair#*/}" --model "$larger" "${speed[@]}"
    done
fi
fit_and_draw
note=
$mac && ! $brief || note="measured briefly: this shows that the script works, and is no acceptance"
conclude mac_table.py "$note"
