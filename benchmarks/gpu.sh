#!/usr/bin/env bash
# The GPU's tests and tables, in at most 10 minutes: benchmarks/gpu.sh [FOLDER for JSON [updates]]. Without a GPU: a rehearsal, tiny,
# on the CPU. "updates": only the updates a second of `smoe-mt train`, with and without CUDA graphs, in about 200 seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-gpu_tables}"
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

run() {
    echo "\$ python -m $*"
    python -m "$@"
}

updates() {
    run benchmarks.bench_updates "$@" --json "$out/updates_fp32.json"
    if [ "$1 $2" = "--device cuda" ]; then
        run benchmarks.bench_updates "$@" --dtype bf16 --optimizer fused_adam --ways plain graphs --seconds 25 \
            --json "$out/updates_bf16_fused.json"
    fi
}

where=cpu
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then where=cuda; fi
if [ "${2:-}" = updates ]; then
    if [ $where = cuda ]; then updates --device cuda; else updates --device cpu --ways plain graphs --seconds 30 --log-interval 2; fi
    exit
fi
run pytest -q -p no:cacheprovider tests/moe/kernels/test_triton_gpu.py tests/moe/test_gpu.py \
    tests/training/test_cuda_recorder.py
if [ $where = cuda ]; then
    block=(--device cuda --dtype bf16 --one-hot-up-to 0)
    for backend in triton grouped; do
        run benchmarks.bench_block "${block[@]}" --backend "$backend" --embed-dim 1024 --ffn-dim 4096 \
            --tokens 4096 16384 --eval-tokens 500 --json "$out/block_1024_$backend.json"
        run benchmarks.bench_block "${block[@]}" --backend "$backend" --embed-dim 512 --ffn-dim 2048 --experts 8 \
            --systems vanilla smoe_4_4_4_4 --tokens 3250 --eval-tokens 500 --json "$out/block_512_$backend.json"
    done
    run benchmarks.bench_train --device cuda --dtype bf16 --tokens 8192 --systems smoe_2_2_2_2 --json "$out/train_base.json"
    run benchmarks.bench_train --device cuda --dtype bf16 --tokens 8192 --size tiny --vocabulary 8000 \
        --systems smoe_2_2_2_2 --json "$out/train_tiny.json"
    updates --device cuda
else
    echo "no GPU: a rehearsal on the CPU; its times say nothing"
    run benchmarks.bench_block --device cpu --backend loop --embed-dim 16 --ffn-dim 32 --tokens 64 --eval-tokens 8 \
        --one-hot-up-to 0 --runs 1 --json "$out/rehearsal.json"
    run benchmarks.bench_train --device cpu --size tiny --vocabulary 200 --tokens 64 --length 8 --runs 1 --json "$out/train.json"
    updates --device cpu --ways plain graphs --seconds 30 --log-interval 2
fi
