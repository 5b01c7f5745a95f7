#!/usr/bin/env bash
# All systems on one text with equal updates, and what can be made of their runs: trainings side by side on the cores or GPUs at hand
# -> scores -> one table with parameters, measured FLOPs, speed and differences, and figures.
#   scripts/systems.sh [--scale quickstart|small|paper] [KEY=VALUE ...] [OPTIONS OF smoe-mt study]      (default: quickstart)
#   scripts/systems.sh optimization.max_update=1000 --only '*/seed1'
# Restartable: what is finished is not done again, a training continues where it stopped. On GPUs: --gpu-jobs 8
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
[ ! -f "$here/../setup.py" ] || cd "$here/.." # from an installed wheel: in the current folder
. "$here/environment.sh"

plan=systems
if [ "${1:-}" = --scale ]; then
    case "${2:-}" in
    quickstart) ;;
    small | paper) plan="systems_$2" ;;
    *)
        echo "error: --scale is quickstart, small or paper, not '${2:-}'" >&2
        exit 2
        ;;
    esac
    shift 2
fi
exec smoe-mt study "$plan" "$@"
