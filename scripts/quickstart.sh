#!/usr/bin/env bash
# The main job, from nothing to a table and figures, on one machine:
#   l10n text of four languages with English -> a dense model and its SMoE twin, equal updates -> scores, translations,
#   requested capacity. Restartable: what is finished is not done again; the variables below can be set outside.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
[ ! -f "$here/../setup.py" ] || cd "$here/.." # from an installed wheel: in the current folder
. "$here/environment.sh"

data="${DATA:-data/quickstart}"       # the data folder
runs="${RUNS:-runs/quickstart}"       # checkpoints, logs, scores, figures
model="${MODEL:-smoe_2_2}"            # any of configs/model
updates="${UPDATES:-2000}"            # of each model
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"

branch=$((updates / 2))               # update at which the SMoE model leaves its dense twin
dense="$runs/dense"
sparse="$runs/$model"

step() { printf '\n== %s  [%s, %d min after the start]\n' "$1" "$(date +%H:%M)" $((SECONDS / 60)); }

train() { # RUN UPDATES OVERRIDES...: train unless it is finished; fairseq goes on from checkpoint_last.pt
    local run="$1" last="$2"
    shift 2
    if [ -e "$run/finished-$last" ]; then
        echo "$run is trained"
        return
    fi
    smoe-mt train --config quickstart "task.data=$data" "checkpoint.save_dir=$run" "$@"
    touch "$run/finished-$last"
}

step "1/5  data: Northern Sotho, Malay, Tagalog and Catalan with English"
smoe-mt prepare --corpus l10n --benchmark m4 --vocab-size 4000 --out "$data"

step "2/5  the dense twin, $updates updates"
train "$dense" "$updates" model=dense "optimization.max_update=$updates" "checkpoint.save_interval_updates=$branch"

step "3/5  $model: the dense twin's first $branch updates, then $((updates - branch)) of its own"
upcycled="$(ls "$dense"/checkpoint_*_"$branch".pt)"
# The learning rate goes on along the twin's line: half of the peak at half of the updates, 0 at the end.
train "$sparse" "$updates" "model=$model" "model.init_experts_from=$upcycled" common.seed=2 \
    "optimization.max_update=$((updates - branch))" 'optimization.lr=[0.0025]' lr_scheduler.warmup_updates=50 \
    "checkpoint.save_interval_updates=$branch"

step "4/5  scores: every direction, beam 5, held-out text and the Declaration of Human Rights"
smoe-mt evaluate "$dense" "$sparse" --data "$data" --split test --samples 5
smoe-mt evaluate "$dense" "$sparse" --data "$data" --split test_udhr

step "5/5  what the strata do: requested capacity"
smoe-mt analyse "$sparse" --data "$data" --split test

step "done"
echo "checkpoints, scores and figures: $runs    data: $data    curves: tensorboard --logdir $runs"
