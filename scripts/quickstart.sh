#!/usr/bin/env bash
# The main job, from nothing to a table and figures, on one machine:
#   l10n text of four languages -> a dense model, a vanilla MoE and an SMoE model, equal updates -> scores, translations,
#   requested capacity. Restartable: what is finished is not done again; the variables below can be set outside.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
[ ! -f "$here/../setup.py" ] || cd "$here/.." # from an installed wheel: in the current folder
. "$here/environment.sh"

data="${DATA:-data/quickstart}" # the data folder
runs="${RUNS:-runs/quickstart}" # checkpoints, logs, scores, figures
model="${MODEL:-smoe_2_6}"      # any of configs/model with strata
updates="${UPDATES:-3000}"      # of each model

[ -f "$(smoe-mt path configs)/model/$model.yaml" ] || {
    echo "error: MODEL=$model is no file of $(smoe-mt path configs)/model" >&2
    exit 2
}

cores="$(getconf _NPROCESSORS_ONLN)"
dense="$runs/dense"
vanilla="$runs/vanilla"
sparse="$runs/$model"

step() { printf '\n== %s  [%s, %d min after the start]\n' "$1" "$(date +%H:%M)" $((SECONDS / 60)); }

pids=()
trap '[ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

train() { # MODEL RUN: train unless that is finished; fairseq continues from checkpoint_last.pt
    local name="$1" run="$2" job
    if [ -e "$run/finished-$updates" ]; then
        echo "$run is trained" >&3
        return
    fi
    smoe-mt train --config quickstart "model=$name" "task.data=$data" "checkpoint.save_dir=$run" \
        "optimization.max_update=$updates" > >(sed -u "s/^/$name | /" >&3) 2>&1 &
    job=$!
    trap 'kill "$job" 2>/dev/null' TERM
    wait "$job" || return 1
    touch "$run/finished-$updates"
}

translate() { # RUN ...: the hypotheses of what is trained, on a core that is free early; step 3 takes them, or says what is wrong
    local run split job
    for run in "$@"; do
        [ -e "$run/finished-$updates" ] || continue
        for split in test test_udhr; do
            smoe-mt evaluate "$run" --data "$data" --split "$split" --processes 1 >/dev/null 2>&1 &
            job=$!
            trap 'kill "$job" 2>/dev/null; exit 143' TERM
            wait "$job" || true
        done
    done
}

start() { # COMMAND ...: in the background
    (
        trap - EXIT
        "$@"
    ) &
    pids+=($!)
}

display() { # one line for each model that trains, whose output goes to descriptor 3
    exec 3> >(if python -c "import smoe_mt" 2>/dev/null; then exec python -m smoe_mt.training.side_by_side; else exec cat; fi)
    shown=$!
}

finish() { # wait for what was started; a failure of one is a failure of all
    local failed=0 pid
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    pids=()
    exec 3>&-
    wait "$shown" || true
    [ "$failed" = 0 ] || { echo "error: training failed; the lines above say why" >&2; exit 1; }
}

step "1/4  data: Northern Sotho, Malay, Tagalog and Catalan with English"
smoe-mt prepare --corpus l10n --benchmark m4 --vocab-size 8000 --out "$data"

step "2/4  training: dense, vanilla and $model side by side, $updates updates each"
display
if [ "$cores" -ge 3 ]; then
    export OMP_NUM_THREADS=$((cores / 3))
    start train dense "$dense"
    start train vanilla "$vanilla"
    start train "$model" "$sparse"
else # the sparse model is trained some minutes before the two others
    export OMP_NUM_THREADS=1
    dense_and_vanilla() { train dense "$dense" && train vanilla "$vanilla"; }
    sparse_and_hypotheses() { train "$model" "$sparse" && translate "$sparse" "$dense"; }
    start dense_and_vanilla
    start sparse_and_hypotheses
fi
finish
export OMP_NUM_THREADS="$cores"

step "3/4  scores: every direction, beam 5, held-out text and the Declaration of Human Rights"
smoe-mt evaluate "$dense" "$vanilla" "$sparse" --data "$data" --split test --samples 5 --compare
smoe-mt evaluate "$dense" "$vanilla" "$sparse" --data "$data" --split test_udhr

step "4/4  what the strata do: requested capacity; all of it on one page"
smoe-mt analyse "$sparse" --data "$data" --split test
smoe-mt report "$dense" "$vanilla" "$sparse" --data "$data" --split test --out "$runs/report.html"

step "done"
echo "report: $runs/report.html    checkpoints, scores and figures: $runs    data: $data    curves: tensorboard --logdir $runs"
