#!/bin/bash
# Many runs at once: sbatch slurm_sweep.sh 'maml-*' [--seeds N]
#SBATCH --ntasks=32
#SBATCH --cpus-per-task=1
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
: "${MLCORE_RUNS:?name a folder that all nodes share; the checkpoints are kept there}"
export OMP_NUM_THREADS=1

# This script runs on the first node, and so does the scheduler.
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
dask scheduler --port="$port" --no-dashboard &
until (: >"/dev/tcp/$first/$port") 2>/dev/null; do
  kill -0 $!  # a scheduler that ended ends this script
  sleep 1
done

# One worker a task, of one thread. Slurm sets the limit of memory, not Dask.
srun dask worker "tcp://$first:$port" --nthreads=1 --no-dashboard --memory-limit=0 --death-timeout=60 \
  --local-directory="${TMPDIR:-/tmp}" &
mlcore sweep "$@" --profile record --scheduler "tcp://$first:$port"
