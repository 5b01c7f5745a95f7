#!/usr/bin/env bash
# One of the paper's benchmarks from text to report: prepare -> train -> average -> evaluate -> analyse -> report.
# Called by m4.sh, m15.sh and opus100.sh. Restartable: what is finished is not done again, a training continues where it stopped.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
benchmark="$1"
shift

case "$benchmark" in
m4) all_rows=dense,vanilla,switch,eom,cmr,stacking_2_4,smoe_4_4,stacking_4_2,smoe_2_2_2_2 ;;
m15) all_rows=dense,vanilla,switch,eom,cmr,smoe_4_12,smoe_12_4,smoe_8_8,smoe_4_4_8,smoe_8_4_4,smoe_4_4_4_4,vanilla_32 ;;
opus100) all_rows=dense,vanilla,switch,eom,cmr,smoe_4_12,smoe_4_4_4_4 ;;
*) echo "error: no benchmark $benchmark: m4, m15 or opus100" >&2; exit 2 ;;
esac

usage() {
    cat <<HELP
usage: scripts/$benchmark.sh [--rows dense,smoe_2_2_2_2|all] [--scale paper|small] [--corpus CORPUS] [--gpus N]
                     [--seed N] [--data FOLDER] [--runs FOLDER] [-- KEY=VALUE ...]

  --rows    rows of the paper's table, by the names of configs/model (default: all of them:
            $all_rows)
  --scale   paper: the published size and schedule, for GPUs; small: d 256, 3 + 3 layers, for a CPU (default: paper where there
            is a GPU, else small)
  --corpus  public, l10n, tsv:DIR or moses:DIR, as in smoe-mt prepare (default: public; small: l10n)
  --gpus    GPUs for a row (default: all; 0: CPU, on which rows are trained side by side, a thread or more each)
  --seed    of the training (default: 1); each seed has a folder of its own
  --data    the data folder (default: data/$benchmark-CORPUS-SCALE)
  --runs    checkpoints, scores, figures and the report (default: runs/$benchmark/SCALE)
  KEY=VALUE Hydra overrides for every row, such as optimization.max_update=2000
HELP
}

rows=all scale="" corpus="" gpus="" seed=1 data="" runs="" overrides=()
while [ $# -gt 0 ]; do
    case "$1" in
    --help | -h) usage; exit 0 ;;
    --) shift; overrides=("$@"); break ;;
    --rows | --scale | --corpus | --gpus | --seed | --data | --runs)
        [ $# -gt 1 ] || { echo "error: $1 needs a value (scripts/$benchmark.sh --help lists the options)" >&2; exit 2; }
        printf -v "${1#--}" %s "$2"
        shift 2
        ;;
    *) echo "error: unknown argument $1 (scripts/$benchmark.sh --help lists the options)" >&2; exit 2 ;;
    esac
done

[ ! -f "$here/../setup.py" ] || cd "$here/.." # from an installed wheel: in the current folder
. "$here/environment.sh"

[ -n "$gpus" ] || gpus="$(python -c 'import torch; print(torch.cuda.device_count())')"
[ -n "$scale" ] || scale="$([ "$gpus" -gt 0 ] && echo paper || echo small)"
[ -n "$corpus" ] || corpus="$([ "$scale" = small ] && echo l10n || echo public)"
data="${data:-data/$benchmark-$(basename "${corpus#*:}")-$scale}"
runs="${runs:-runs/$benchmark/$scale}"
[ "$rows" != all ] || rows="$all_rows"
IFS=, read -ra rows <<<"$rows"
for row in "${rows[@]}"; do
    [ -f "$(smoe-mt path configs)/model/$row.yaml" ] || {
        echo "error: unknown row $row: choose among $all_rows" >&2
        exit 2
    }
done
[ -f "$(smoe-mt path configs)/scale/$scale.yaml" ] || { echo "error: unknown scale $scale: paper or small" >&2; exit 2; }

step() { printf '\n== %s  [%s, %d min after the start]\n' "$1" "$(date +%H:%M)" $((SECONDS / 60)); }
folder() { echo "$runs/$1/seed$seed"; }

cores="$(getconf _NPROCESSORS_ONLN)"
side_by_side=1
if [ "$gpus" -eq 0 ]; then
    side_by_side=$((cores < ${#rows[@]} ? cores : ${#rows[@]}))
    export CUDA_VISIBLE_DEVICES=""
else
    overrides=("distributed_training.distributed_world_size=$gpus" "${overrides[@]}")
fi
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

train() { # ROW
    local run; run="$(folder "$1")"
    if [ -e "$run/finished" ]; then
        echo "$1 | trained already: $run"
        return
    fi
    OMP_NUM_THREADS=$((cores / side_by_side > 0 ? cores / side_by_side : 1)) \
        smoe-mt train --config "$benchmark" "model=$1" "scale=$scale" "task.data=$data" "common.seed=$seed" \
        "checkpoint.save_dir=$run" "${overrides[@]}" 2>&1 | sed -u "s/^/$1 | /"
    touch "$run/finished"
}

step "1/6  data: $benchmark from $corpus"
pieces=() # the paper's number; of a small model the embedding would be most
[ "$scale" != small ] || pieces=(--vocab-size 8000)
smoe-mt prepare --benchmark "$benchmark" --corpus "$corpus" "${pieces[@]}" --out "$data"

step "2/6  training: ${rows[*]}, $scale"
running=0
for row in "${rows[@]}"; do
    if [ "$running" -eq "$side_by_side" ]; then
        wait -n || { echo "error: training failed; the lines above say why" >&2; exit 1; }
        running=$((running - 1))
    fi
    train "$row" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || { echo "error: training failed; the lines above say why" >&2; exit 1; }
    running=$((running - 1))
done

step "3/6  averages of each row's last checkpoints"
averages=() sparse=()
for row in "${rows[@]}"; do
    average="$(folder "$row")/checkpoint_average.pt"
    regular=("$(folder "$row")"/checkpoint_[0-9]*_[0-9]*.pt)
    last=$((${#regular[@]} < 3 ? ${#regular[@]} : 3))
    [ -e "$average" ] || smoe-mt checkpoint average "$(folder "$row")" --last "$last" --out "$average"
    averages+=("$average")
    case "$row" in dense) ;; *) sparse+=("$average") ;; esac
done

step "4/6  scores: every direction of test, beam 5"
smoe-mt evaluate "${averages[@]}" --data "$data" --split test

if [ ${#sparse[@]} -gt 0 ]; then
    step "5/6  what the strata do: requested capacity, load"
    for average in "${sparse[@]}"; do smoe-mt analyse "$average" --data "$data" --split test; done
fi

step "6/6  report"
smoe-mt report "${averages[@]}" --data "$data" --split test --out "$runs/report.html"

step "done"
echo "report: $runs/report.html    checkpoints, scores, figures: $runs    data: $data"
