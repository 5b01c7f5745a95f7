#!/usr/bin/env bash
# Everything that must hold before a change is merged, in a virtual environment made for it where none is active:
# format, lint, types, tests, the documentation site.
#   scripts/test.sh           all of it
#   scripts/test.sh --fast    format, lint, and the tests that are not marked slow or ranks: under two minutes on 2 cores
# Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export SMOE_MT_EXTRAS="[test,docs]"
. scripts/environment.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

fast=0
if [ "${1:-}" = --fast ]; then
    fast=1
    shift
fi

ruff format --check .
ruff check .
if [ "$fast" = 1 ]; then
    # A file's tests stay in one process: they share what they have trained.
    python -m pytest -q -m "not slow and not ranks" --numprocesses 2 --dist loadfile "$@"
    exit
fi
mypy
python -m pytest -q --durations=10 -m "not ranks" --numprocesses 2 --dist loadfile "$@"
python -m pytest -q --durations=5 -m ranks "$@" || [ $? = 5 ] # 5: no test of these was asked for
bash scripts/docs.sh
