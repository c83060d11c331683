# Sourced by gpu/acceptance.sh and mac/acceptance.sh: measures a machine in steps, each made once, into a folder.
#
# The script sets `repository`, `minutes` and `brief`, defines `usage`, and then calls, in this order: parse_options,
# find_python, need_packages, claim, step and measured as often as it likes, fit_and_draw, and conclude.
# Runs with macOS's bash 3.2 too, which takes "${array[@]}" of an empty array for unset.
# shellcheck shell=bash disable=SC2154

me=${0#"$repository/"}
out=

refuse() {
    printf 'acceptance.sh: error: %s\n' "$1" >&2
    exit 2
}

# parse_options VALUED FLAGS ARGUMENTS…: sets the variables that are called like the options, and out. VALUED and FLAGS are
# names with a space on either side.
parse_options() {
    local valued=$1 flags=$2 name
    shift 2
    while [ $# -gt 0 ]; do
        name=${1#--}
        case $1 in
        --help)
            usage
            exit 0
            ;;
        --*)
            if [[ $valued == *" $name "* ]]; then
                [ $# -ge 2 ] || refuse "$1 needs a value; see --help"
                printf -v "$name" %s "$2"
                shift
            elif [[ $flags == *" $name "* ]]; then
                printf -v "$name" true
            else
                refuse "unknown option $1; see --help"
            fi
            ;;
        -*) refuse "unknown option $1; see --help" ;;
        *)
            [ -z "$out" ] || refuse "one folder for the output, not both $out and $1"
            out=$1
            ;;
        esac
        shift
    done
    [ -n "$out" ] || refuse "no folder for the output; say bash $me OUT"
    [[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || refuse "--minutes must be a number, not $minutes"
    # The sensors take half a minute at one go.
    $brief || awk -v minutes="$minutes" 'BEGIN { exit minutes < 2 }' || refuse "--minutes must be at least 2, not $minutes"
}

# find_python: sets python, and joulebench, which runs this checkout as it is.
find_python() {
    python=${JOULEBENCH_PYTHON:-python3}
    command -v "$python" >/dev/null || refuse "there is no $python; name an interpreter: JOULEBENCH_PYTHON=/path/to/python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        refuse "$python is older than Python 3.11; name another: JOULEBENCH_PYTHON=/path/to/python3"
    export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
    joulebench=("$python" -P -m harness)
}

# need_packages NEEDED WISHED: refuses without the modules NEEDED, and says what is left out without those WISHED; sets
# missing to those that aren't there.
need_packages() {
    local name needed=() wished=()
    missing=$("$python" -P -c 'import importlib.util as u, sys
print(*(name for name in sys.argv[1].split() if u.find_spec(name) is None))' "$1 $2")
    for name in $missing; do
        [[ " $2 " == *" $name "* ]] && wished+=("$(package "$name")") || needed+=("$(package "$name")")
    done
    [ ${#needed[@]} -eq 0 ] ||
        refuse "$python lacks ${needed[*]}; install with: $python -m pip install ${needed[*]}${wished[*]+ ${wished[*]}}"
    [ ${#wished[@]} -eq 0 ] || echo "without ${wished[*]} some results are left out"
}

# package MODULE: what installs it.
package() {
    case $1 in
    pynvml) echo nvidia-ml-py ;;
    llama_cpp) echo llama-cpp-python ;;
    zeus_apple_silicon) echo zeus-apple-silicon ;;
    *) echo "$1" ;;
    esac
}

# lacks MODULE: whether need_packages missed it.
lacks() { [[ " $missing " == *" $1 "* ]]; }

# refuse_other_options ASKED: what was asked for is part of the folder: another model or device belongs into another one.
refuse_other_options() {
    local asked=$out/steps/asked
    [ ! -s "$asked" ] || [ "$(cat "$asked")" = "$1" ] ||
        refuse "$out was begun with other options ($(cat "$asked")); use them or another folder"
}

# claim ASKED: makes the folder this start's own, and starts its clock.
claim() {
    mkdir -p "$out/steps" || refuse "can't write into $out"
    out=$(cd "$out" && pwd)
    # Two starts into one folder would measure each other. Steps inherit the lock: one that outlives a killed script
    # keeps it.
    exec 9>"$out/steps/lock"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null ||
        refuse "$out is being measured by another start of this script, or a step that it left; wait for it"
    refuse_other_options "$1"
    echo "$1" >"$out/steps/asked.part"
    mv "$out/steps/asked.part" "$out/steps/asked"
    deadline=$((SECONDS + $(awk -v minutes="$minutes" 'BEGIN { printf "%d", 60 * minutes }')))
}

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
    "$python" "$repository/scripts/acceptance/limited.py" "$left" "$@" >"$log.out" 2>>"$log" &
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

# look_at NAME: sets state to absent, unreadable, empty (no trial is of use) or counts.
look_at() {
    local status=0
    state=absent
    [ -e "$out/$1" ] || return 0
    "$python" -P -c '
import sys
from harness.core.errors import UserError
from harness.runs.records import load_run
try:
    run = load_run(sys.argv[1])
except UserError:
    sys.exit(11)
sys.exit(13 if any(trial.usable for trial in run.trials) else 12)' "$out/$1" 2>"$out/steps/look.log" || status=$?
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

# measured NAME OPTIONS…: a run into $out/NAME. Only runs that ended and have trials of use are looked at later, so that
# one that failed costs no other its own; what was made of an earlier state of it is made again.
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
    ! fits "$name" || rm -f "$out/steps/figures.done"
    step "$name" - "${joulebench[@]}" measure "${@:2}" -o "$out/$name"
    if [ -e "$out/steps/$name.done" ]; then
        # A measurement of which no trial is of use has failed.
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

# fits NAME: whether the run has points enough for a model.
sweeps=" quick precise paper "
fits() { [[ $sweeps == *" $1 "* ]]; }

# fit_and_draw: profiles, pictures and the page, of the runs that ended.
fit_and_draw() {
    local run runs=() fitted=()
    for run in ${usable[@]+"${usable[@]}"}; do
        runs+=("$out/$run")
        if fits "$run"; then
            fitted+=("$out/$run")
            step "fit-$run" "$out/fit-$run.json" "${joulebench[@]}" fit "$out/$run" --json -o "$out/profile-$run.json"
        fi
    done
    if [ ${#fitted[@]} -gt 0 ] && ! lacks matplotlib; then
        step figures - "${joulebench[@]}" figures "${fitted[@]}" --models --allow-mixed -o "$out/figures"
    fi
    if [ ${#runs[@]} -gt 0 ]; then
        step report - "${joulebench[@]}" report "${runs[@]}" --allow-mixed -o "$out/report.html"
    fi
}

# conclude TABLE NOTE: prints the table and how to send the folder, and ends with exit code 1 where a step failed.
conclude() {
    local name
    "$python" "$repository/scripts/acceptance/$1" "$out"
    [ -z "$2" ] || echo "$2"
    name=$(basename "$out")
    printf 'to send it: tar czf %q -C %q %q (its sensors.json and steps/ may name you and your folders)\n' \
        "$name.tar.gz" "$(dirname "$out")" "$name"
    if [ ${#failed[@]} -gt 0 ]; then
        echo "steps that failed: ${failed[*]}; $out/steps says why; the same command tries them again"
        exit 1
    fi
}
