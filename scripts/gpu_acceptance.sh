#!/usr/bin/env bash
# What a CUDA machine can do, measured: its sensors, its roofline, decoding in three modes, three protocols, a profile.
#
#   bash scripts/gpu_acceptance.sh [OPTIONS] OUT
#
# Needs Python with torch, transformers and joulebench's other packages; no network, no installation of the checkout.
# Stops after --minutes with exit code 75; the same command goes on. Everything it writes is under OUT.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)

usage() {
    cat <<TEXT
usage: bash scripts/gpu_acceptance.sh [OPTIONS] OUT

Measures a CUDA machine into the folder OUT and prints a table. The same command goes on where it stopped.

  --minutes N    stop cleanly after N minutes, with exit code 75 while steps are left (default 9)
  --model NAME   preset to measure (default llama-2-7b)
  --device NAME  cuda, cuda:1, …; cpu shows that the script works, and is no acceptance (default cuda)
  --brief        a few short points without energy instead of the protocols, for trying the script out
  --help         show this

Python is python3, or what JOULEBENCH_PYTHON names. Exit codes: 0 every step ran, 1 some step failed,
2 something is missing or misspelt, 75 the time was up: run it again.
TEXT
}

refuse() {
    printf 'gpu_acceptance.sh: error: %s\n' "$1" >&2
    exit 2
}

minutes=9 model=llama-2-7b device=cuda brief=false out=
while [ $# -gt 0 ]; do
    case $1 in
    --minutes | --model | --device)
        [ $# -ge 2 ] || refuse "$1 needs a value; see --help"
        printf -v "${1#--}" %s "$2"
        shift
        ;;
    --brief) brief=true ;;
    --help)
        usage
        exit 0
        ;;
    -*) refuse "unknown option $1; see --help" ;;
    *)
        [ -z "$out" ] || refuse "one folder for the output, not both $out and $1"
        out=$1
        ;;
    esac
    shift
done
[ -n "$out" ] || refuse "no folder for the output; say bash scripts/gpu_acceptance.sh OUT"
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || refuse "--minutes must be a number, not $minutes"
[[ $device =~ ^(cuda(:[0-9]+)?|cpu)$ ]] || refuse "--device must be cuda, cuda:1, … or cpu, not $device"
deadline=$((SECONDS + $(awk -v minutes="$minutes" 'BEGIN { printf "%d", 60 * minutes }')))

python=${JOULEBENCH_PYTHON:-python3}
command -v "$python" >/dev/null || refuse "there is no $python; name an interpreter: JOULEBENCH_PYTHON=/path/to/python3"
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
joulebench=("$python" -P -m harness.cli)
missing=$("$python" -P -c '
import importlib.util as u
names = "torch transformers numpy pandas scipy typer rich psutil pydantic pynvml matplotlib plotly".split()
print(*(name for name in names if u.find_spec(name) is None))') || refuse "$python does not run; name another: JOULEBENCH_PYTHON"
needed=()
for name in $missing; do
    case $name in
    matplotlib | plotly) echo "without $name its pictures are left out" ;;
    pynvml) needed+=(nvidia-ml-py) ;;
    *) needed+=("$name") ;;
    esac
done
[ ${#needed[@]} -eq 0 ] || refuse "$python lacks ${needed[*]}; install with: $python -m pip install ${needed[*]}"
if [ "${device%%:*}" = cuda ]; then
    "$python" -P -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        refuse "torch finds no CUDA GPU; check nvidia-smi, and that torch is a CUDA build"
fi
mkdir -p "$out/steps" || refuse "can't write into $out"
out=$(cd "$out" && pwd)

# What was asked for is part of the folder: another model or device belongs into another one.
asked="$model $device $brief"
if [ -e "$out/steps/asked" ] && [ "$(cat "$out/steps/asked")" != "$asked" ]; then
    refuse "$out was begun with other options ($(cat "$out/steps/asked")); use them or another folder"
fi
echo "$asked" >"$out/steps/asked"

# step NAME OUTPUT COMMAND…: run a command once. OUTPUT, if not -, is the file its stdout becomes when it succeeds.
failed=()
step() {
    local name=$1 output=$2 log=$out/steps/$1.log status=0 left
    shift 2
    [ -e "$out/steps/$name.done" ] && return
    left=$((deadline - SECONDS))
    [ "$left" -ge 5 ] || stop
    echo "$(date +%H:%M:%S) $name"
    # A measurement that is told to end keeps its trials, and goes on in the next start. In the foreground Ctrl-C
    # reaches it, too.
    timeout --foreground --signal=TERM --kill-after=60 "$left" "$@" >"$log.out" 2>>"$log" || status=$?
    if [ "$status" -eq 0 ]; then
        if [ "$output" = - ]; then cat "$log.out" >>"$log"; else cp "$log.out" "$output"; fi
        touch "$out/steps/$name.done"
    elif [ "$status" -eq 124 ] || [ "$SECONDS" -ge "$deadline" ]; then
        stop
    else
        failed+=("$name")
        echo "  failed: $(tail -n 1 "$log")"
    fi
}

trap 'exit 130' INT
trap 'exit 143' TERM

stop() {
    echo "the time is up; run the same command again to go on"
    exit 75
}

if [ "${device%%:*}" = cuda ]; then
    step nvidia-smi "$out/nvidia-smi.txt" nvidia-smi -q
    dtype=bfloat16
else
    dtype=float32
fi
load=(--load)
if $brief; then load=(); fi
step sensors "$out/sensors.json" "${joulebench[@]}" doctor ${load[@]+"${load[@]}"} --json
step roofline "$out/roofline.json" "$python" "$repository/scripts/roofline.py" --device "$device" --json

measure=("${joulebench[@]}" measure --model "$model" --device "$device" --dtype "$dtype")
decode=(--protocol precise --point 32,256 --max-trials 5)
quick=(--protocol quick) precise=(--protocol precise)
paper=(--protocol paper --no-kv-cache --input-tokens '8-2048*2' --output-tokens '8-512*2')
if $brief; then
    # No waiting for idle power, and no trial discarded because the machine does something else.
    measure+=(--probes none --max-foreign-load 1 --threads 1)
    decode=(--point 8,16 --min-window 0.05 --max-trials 3)
    quick=(--point 8,4 --point 64,4 --point 8,16 --point 64,16 --min-window 0.05 --max-trials 3)
    precise=("${quick[@]}" --point 32,8)
    paper=("${quick[@]}" --no-kv-cache)
fi
modes=(none graph inductor) graph=graph
# Elsewhere there are no CUDA graphs.
[ "${device%%:*}" = cuda ] || modes=(none inductor) graph=none
for mode in "${modes[@]}"; do
    step "decode-$mode" - "${measure[@]}" --compile "$mode" "${decode[@]}" -o "$out/decode-$mode"
done
step quick - "${measure[@]}" --compile "$graph" "${quick[@]}" -o "$out/quick"
step precise - "${measure[@]}" --compile "$graph" "${precise[@]}" -o "$out/precise"
step paper - "${measure[@]}" "${paper[@]}" -o "$out/paper"
for run in quick precise paper; do
    step "fit-$run" "$out/fit-$run.json" "${joulebench[@]}" fit "$out/$run" --json -o "$out/profile-$run.json"
done
# What could not be run has no run.json, and must not cost the pictures of the rest.
runs=() sweeps=()
for run in "${modes[@]/#/decode-}" quick precise paper; do
    [ -e "$out/$run/run.json" ] || continue
    runs+=("$out/$run")
    case $run in decode-*) ;; *) sweeps+=("$out/$run") ;; esac
done
if [ ${#sweeps[@]} -gt 0 ]; then
    case " $missing " in *" matplotlib "*) ;; *)
        step figures - "${joulebench[@]}" figures "${sweeps[@]}" --models --allow-mixed -o "$out/figures"
        ;;
    esac
fi
if [ ${#runs[@]} -gt 0 ]; then
    case " $missing " in *" plotly "*) ;; *)
        step report - "${joulebench[@]}" report "${runs[@]}" --allow-mixed -o "$out/report.html"
        ;;
    esac
fi

"$python" "$repository/scripts/acceptance_table.py" "$out"
if [ ${#failed[@]} -gt 0 ]; then
    echo "steps that failed: ${failed[*]}; $out/steps says why; the same command tries them again"
    exit 1
fi
