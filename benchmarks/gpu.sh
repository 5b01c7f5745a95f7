#!/usr/bin/env bash
# The GPU's tests and all tables of its speed, in at most six minutes on one GPU: benchmarks/gpu.sh [FOLDER for JSON] [--only TABLE ...].
# Without a GPU: a rehearsal, tiny, on the CPU, in about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec python -m benchmarks.gpu_tables "$@"
