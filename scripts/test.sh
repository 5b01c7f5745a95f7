#!/usr/bin/env bash
# Lint, types and tests, in a virtual environment made for them where none is active. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
SMOE_MT_EXTRAS="[test]"
. scripts/environment.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
mypy
python -m pytest -q --durations=10 "$@"
