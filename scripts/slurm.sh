#!/usr/bin/env bash
# One training on the nodes of a SLURM job: a torchrun on each, which starts a rank for each of its GPUs.
#   sbatch --nodes 2 scripts/slurm.sh --config m15 model=smoe_4_12 task.data=$PWD/data/m15
# What follows is given to `smoe-mt train`. RANKS_PER_NODE=16 instead of the GPUs; MAX_RESTARTS=1: number of times that a run of which a
# rank died continues at once. Shortly before its time is over, or when it is preempted, the job saves and queues itself again.
#SBATCH --job-name=smoe-mt
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=2-00:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Seconds that torchrun gives its ranks to end their update and to save.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}"

first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${RANKS_PER_NODE:-gpu}" \
  --max-restarts "${MAX_RESTARTS:-0}" --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-endpoint "$first_node:${RENDEZVOUS_PORT:-29400}" -m smoe_mt.cli train "$@" &
step=$!

leaving=""
leave() {
  leaving=yes
  kill -TERM "$step" 2>/dev/null || true
}
trap leave USR1 TERM

code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ends a wait
  code=0
  wait "$step" || code=$?
done
if [ -n "$leaving" ] && [ "$code" -ne 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 75
fi
exit "$code"
