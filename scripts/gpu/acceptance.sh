#!/usr/bin/env bash
# What a CUDA machine can do, measured: what is unknown of it first, its roofline, decoding in three modes, a profile.
#
#   bash scripts/gpu/acceptance.sh [OPTIONS] OUT
#
# Needs Python with torch, transformers and joulebench's other packages; no network, no installation of the checkout.
# Stops after --minutes with exit code 75; the same command goes on. Everything it writes is under OUT.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

usage() {
    cat <<TEXT
usage: bash scripts/gpu/acceptance.sh [OPTIONS] OUT

Measures a CUDA machine into the folder OUT and prints a table. The same command goes on where it stopped; all of it takes
about 30 minutes on a recent GPU.

  --minutes N    stop cleanly after N minutes of steps, at least 2, with exit code 75 while some are left (default 9)
  --model NAME   preset to measure (default llama-2-7b)
  --device NAME  cuda, cuda:1, …; cpu shows that the script works, and is no acceptance (default cuda)
  --full         also the protocols precise and paper, which take hours; can be added to a folder later
  --brief        a few short points without energy, for trying the script out
  --help         show this

Python is python3, or what JOULEBENCH_PYTHON names. Exit codes: 0 every step ran, 1 some step failed: the same command
tries it again, 2 something is missing or misspelt, 75 the time was up: run it again.
TEXT
}

minutes=9 model=llama-2-7b device=cuda full=false brief=false
# shellcheck source=scripts/acceptance/steps.sh
source "$repository/scripts/acceptance/steps.sh"
parse_options " minutes model device " " full brief " "$@"
[[ $device =~ ^(cuda(:[0-9]+)?|cpu)$ ]] || refuse "--device must be cuda, cuda:1, … or cpu, not $device"
[ "${device%%:*}" = cuda ] && cuda=true || cuda=false

find_python
need_packages "torch transformers numpy pandas scipy typer rich psutil pydantic pynvml" "matplotlib"
if $cuda; then
    "$python" -P -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
        refuse "torch finds no CUDA GPU; check nvidia-smi, and that torch is a CUDA build"
fi
# The shapes of presets are known here, and with them the bytes that a decode step reads.
presets=$("$python" -P -c 'from backends.presets import PRESETS; print(*PRESETS)')
[[ " $presets " == *" $model "* ]] || refuse "--model must be one of ${presets// /, }, not $model"
refuse_other_options "$model $device $brief"
dtype=bfloat16
$cuda || dtype=float32
on=(--model "$model" --device "$device" --dtype "$dtype")
refusal=$("${joulebench[@]}" measure "${on[@]}" --dry-run --point 8,8 2>&1 >/dev/null) ||
    refuse "$(tail -n 1 <<<"$refusal" | sed 's/^joulebench: error: //')"
claim "$model $device $brief"

if $cuda; then
    step nvidia-smi "$out/nvidia-smi.txt" nvidia-smi -q
fi
load=(--load)
if $brief; then load=(); fi
step sensors "$out/sensors.json" "${joulebench[@]}" doctor ${load[@]+"${load[@]}"} --json

cache=(--probes none --point '128,64' --point '1024,64' --point '3968,64' --max-trials 3)
falcon=(--model falcon-7b --compile none --point '32,128' --max-trials 3)
decode=(--protocol precise --point '32,256' --max-trials 5)
quick=(--protocol quick) precise=(--protocol precise)
paper=(--protocol paper --no-kv-cache --input-tokens '8-2048*2' --output-tokens '8-512*2')
if $brief; then
    # No waiting for idle power, and no trial marked because the machine does something else.
    on+=(--probes none --max-foreign-load 1 --threads 1)
    cache=(--point '8,8' --point '128,8' --min-window 0.05 --max-trials 3)
    decode=(--point '8,16' --min-window 0.05 --max-trials 3)
    quick=(--point '32,4' --point '64,4' --point '32,32' --point '64,32' --min-window 0.05 --max-trials 3)
    precise=("${quick[@]}" --point '8,8')
    paper=("${quick[@]}" --no-kv-cache)
fi
# Elsewhere there are no CUDA graphs, and what is compiled there says nothing of them.
modes=(none graph inductor) graph=graph
$cuda || modes=(none) graph=none

measured cache "${on[@]}" --compile "$graph" "${cache[@]}"
if $cuda && ! $brief; then
    measured falcon "${on[@]}" "${falcon[@]}"
fi
step roofline "$out/roofline.json" "$python" "$repository/scripts/bench/roofline.py" --device "$device" --json
for mode in "${modes[@]}"; do
    measured "decode-$mode" "${on[@]}" --compile "$mode" "${decode[@]}"
done
measured quick "${on[@]}" --compile "$graph" "${quick[@]}"
if $full; then
    measured precise "${on[@]}" --compile "$graph" "${precise[@]}"
    measured paper "${on[@]}" "${paper[@]}"
fi
fit_and_draw
note=
$cuda || note="measured on $device: this shows that the script works, and is no acceptance"
conclude gpu_table.py "$note"
