#!/usr/bin/env bash
# The study of docs/results.md: text -> systems x seeds side by side -> scores, requested and needed capacity -> tables, figures.
#   scripts/study.sh [claim|causes|reach|rates|width|m4_tuned|m15|many|m4_d256 ...] [-- OPTIONS OF smoe-mt study]       (default: claim)
# Restartable: what is finished is not done again, a training continues where it stopped. On a GPU: -- --gpu-jobs 8
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
[ ! -f "$here/../setup.py" ] || cd "$here/.." # from an installed wheel: in the current folder
. "$here/environment.sh"

plans=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    plans+=("$1")
    shift
done
[ $# -eq 0 ] || shift
for plan in "${plans[@]:-claim}"; do
    smoe-mt study "$plan" "$@"
done
