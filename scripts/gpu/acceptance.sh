#!/usr/bin/env bash
# What a CUDA machine can do, measured: its sensors, its roofline, decoding in three modes, three protocols, a profile.
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

Measures a CUDA machine into the folder OUT and prints a table. The same command goes on where it stopped.

  --minutes N    stop cleanly after N minutes of steps, at least 2, with exit code 75 while some are left (default 9)
  --model NAME   preset to measure (default llama-2-7b)
  --device NAME  cuda, cuda:1, …; cpu shows that the script works, and is no acceptance (default cuda)
  --brief        a few short points without energy instead of the protocols, for trying the script out
  --help         show this

Python is python3, or what JOULEBENCH_PYTHON names. Exit codes: 0 every step ran, 1 some step failed: the same command
tries it again, 2 something is missing or misspelt, 75 the time was up: run it again.
TEXT
}

refuse() {
    printf 'acceptance.sh: error: %s\n' "$1" >&2
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
[ -n "$out" ] || refuse "no folder for the output; say bash scripts/gpu/acceptance.sh OUT"
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || refuse "--minutes must be a number, not $minutes"
# The sensors take half a minute at one go.
$brief || awk -v minutes="$minutes" 'BEGIN { exit minutes < 2 }' || refuse "--minutes must be at least 2, not $minutes"
[[ $device =~ ^(cuda(:[0-9]+)?|cpu)$ ]] || refuse "--device must be cuda, cuda:1, … or cpu, not $device"

python=${JOULEBENCH_PYTHON:-python3}
command -v "$python" >/dev/null || refuse "there is no $python; name an interpreter: JOULEBENCH_PYTHON=/path/to/python3"

# The step under way is told to end, and keeps what it has.
child=
finish() {
    trap '' INT TERM HUP
    [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null && wait "$child"; } || true
    exit "$1"
}
trap 'finish 130' INT
trap 'finish 143' TERM
trap 'finish 129' HUP

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    refuse "$python is older than Python 3.11; name another: JOULEBENCH_PYTHON=/path/to/python3"
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
joulebench=("$python" -P -m harness)
missing=$("$python" -P -c '
import importlib.util as u
names = "torch transformers numpy pandas scipy typer rich psutil pydantic pynvml matplotlib plotly".split()
print(*(name for name in names if u.find_spec(name) is None))')
needed=() wished=()
for name in $missing; do
    case $name in
    matplotlib | plotly) wished+=("$name") ;;
    pynvml) needed+=(nvidia-ml-py) ;;
    *) needed+=("$name") ;;
    esac
done
[ ${#needed[@]} -eq 0 ] ||
    refuse "$python lacks ${needed[*]}; install with: $python -m pip install ${needed[*]}${wished[*]+ ${wished[*]}}"
[ ${#wished[@]} -eq 0 ] || echo "without ${wished[*]} pictures are left out"
if [ "${device%%:*}" = cuda ]; then
    "$python" -P -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
        refuse "torch finds no CUDA GPU; check nvidia-smi, and that torch is a CUDA build"
fi
dtype=bfloat16
[ "${device%%:*}" = cuda ] || dtype=float32
measure=("${joulebench[@]}" measure --model "$model" --device "$device" --dtype "$dtype")
# The shapes of presets are known here, and with them the bytes that a decode step reads.
presets=$("$python" -P -c 'from backends.presets import PRESETS; print(*PRESETS)')
[[ " $presets " == *" $model "* ]] || refuse "--model must be one of ${presets// /, }, not $model"
refusal=$("${measure[@]}" --dry-run --point 8,8 2>&1 >/dev/null) ||
    refuse "$(tail -n 1 <<<"$refusal" | sed 's/^joulebench: error: //')"
mkdir -p "$out/steps" || refuse "can't write into $out"
out=$(cd "$out" && pwd)

# Two starts into one folder would measure each other. Steps inherit the lock: one that outlives a killed script
# keeps it. Where there is no flock nothing is locked.
exec 9>"$out/steps/lock"
if command -v flock >/dev/null && ! flock -n 9; then
    refuse "$out is being measured by another start of this script, or a step that it left; wait for it"
fi

# What was asked for is part of the folder: another model or device belongs into another one.
asked="$model $device $brief"
if [ ! -s "$out/steps/asked" ]; then
    echo "$asked" >"$out/steps/asked.part"
    mv "$out/steps/asked.part" "$out/steps/asked"
elif [ "$(cat "$out/steps/asked")" != "$asked" ]; then
    refuse "$out was begun with other options ($(cat "$out/steps/asked")); use them or another folder"
fi

deadline=$((SECONDS + $(awk -v minutes="$minutes" 'BEGIN { printf "%d", 60 * minutes }')))

# step NAME OUTPUT COMMAND…: run a command once. OUTPUT, if not -, is the file its stdout becomes when it succeeds.
failed=()
step() {
    local name=$1 output=$2 log=$out/steps/$1.log status=0 left
    shift 2
    [ -e "$out/steps/$name.done" ] && return
    left=$((deadline - SECONDS))
    [ "$left" -ge 5 ] || stop
    echo "$(date +%H:%M:%S) $name"
    # A measurement that is told to end keeps its trials, and goes on in the next start. Beside the script, so that
    # this can be told to end at any time.
    timeout --foreground --signal=TERM --kill-after=60 "$left" "$@" >"$log.out" 2>>"$log" &
    child=$!
    wait "$child" || status=$?
    child=
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

stop() {
    echo "the time is up; run the same command again to go on"
    exit 75
}

# look_at NAME: sets state to absent, unreadable, empty (no trial counts) or counts.
look_at() {
    local status=0
    state=absent
    [ -e "$out/$1" ] || return 0
    "$python" -P -c '
import sys
from harness.core.errors import UserError
from harness.runs.records import load_trials
try:
    trials = load_trials(sys.argv[1])
except UserError:
    sys.exit(11)
counts = (trials["purpose"] == "measure") & (trials["status"] == "ok")
sys.exit(13 if counts.any() else 12)' "$out/$1" 2>"$out/steps/look.log" || status=$?
    case $status in
    11) state=unreadable ;;
    12) state=empty ;;
    13) state=counts ;;
    *) refuse "$python can't look at $out/$1: $(tail -n 1 "$out/steps/look.log")" ;;
    esac
}

# put_aside NAME: a run that is worth nothing, so that it can be made anew. It is kept.
put_aside() {
    local number=1
    while [ -e "$out/steps/$1.failed-$number" ]; do number=$((number + 1)); done
    aside=$out/steps/$1.failed-$number
    mv "$out/$1" "$aside"
    rm -f "$out/steps/$1.done"
}

# measured NAME OPTIONS…: a run into $out/NAME. Only runs that ended and have trials that count become profiles and
# pictures, so that one that failed costs no other its own; what was made of an earlier state of it is made again.
usable=()
measured() {
    local name=$1
    look_at "$name"
    if [ $state = counts ] && [ -e "$out/steps/$name.done" ]; then
        usable+=("$name")
        return
    fi
    [ $state != unreadable ] || put_aside "$name"
    rm -f "$out/steps/$name.done" "$out/steps/fit-$name.done" "$out/fit-$name.json" "$out/profile-$name.json"
    rm -f "$out/steps/report.done"
    case $name in decode-*) ;; *) rm -f "$out/steps/figures.done" ;; esac
    step "$name" - "${measure[@]}" "${@:2}" -o "$out/$name"
    if [ -e "$out/steps/$name.done" ]; then
        # A measurement of which no trial counts has failed.
        usable+=("$name")
        return
    fi
    look_at "$name"
    if [ $state = empty ]; then
        # Its trials would be taken for done, and it would end so again.
        put_aside "$name"
        echo "  kept for a look: ${joulebench[*]} trials $aside"
    fi
}

if [ "${device%%:*}" = cuda ]; then
    step nvidia-smi "$out/nvidia-smi.txt" nvidia-smi -q
fi
load=(--load)
if $brief; then load=(); fi
step sensors "$out/sensors.json" "${joulebench[@]}" doctor ${load[@]+"${load[@]}"} --json
step roofline "$out/roofline.json" "$python" "$repository/scripts/bench/roofline.py" --device "$device" --json

decode=(--protocol precise --point 32,256 --max-trials 5)
quick=(--protocol quick) precise=(--protocol precise)
paper=(--protocol paper --no-kv-cache --input-tokens '8-2048*2' --output-tokens '8-512*2')
if $brief; then
    # No waiting for idle power, and no trial marked because the machine does something else.
    measure+=(--probes none --max-foreign-load 1 --threads 1)
    decode=(--point 8,16 --min-window 0.05 --max-trials 3)
    quick=(--point 32,4 --point 64,4 --point 32,32 --point 64,32 --min-window 0.05 --max-trials 3)
    precise=("${quick[@]}" --point 8,8)
    paper=("${quick[@]}" --no-kv-cache)
fi
modes=(none graph inductor) graph=graph
# Elsewhere there are no CUDA graphs.
[ "${device%%:*}" = cuda ] || modes=(none inductor) graph=none
for mode in "${modes[@]}"; do
    measured "decode-$mode" --compile "$mode" "${decode[@]}"
done
measured quick --compile "$graph" "${quick[@]}"
measured precise --compile "$graph" "${precise[@]}"
measured paper "${paper[@]}"
runs=() sweeps=()
for run in ${usable[@]+"${usable[@]}"}; do
    runs+=("$out/$run")
    case $run in
    decode-*) ;;
    *)
        sweeps+=("$out/$run")
        step "fit-$run" "$out/fit-$run.json" "${joulebench[@]}" fit "$out/$run" --json -o "$out/profile-$run.json"
        ;;
    esac
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

"$python" "$repository/scripts/gpu/acceptance_table.py" "$out"
[ "${device%%:*}" = cuda ] || echo "measured on $device: this shows that the script works, and is no acceptance"
if [ ${#failed[@]} -gt 0 ]; then
    echo "steps that failed: ${failed[*]}; $out/steps says why; the same command tries them again"
    exit 1
fi
