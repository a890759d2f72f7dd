#!/bin/bash
# One long run on many ranks: sbatch slurm_ranks.sh RECIPE [--seed N]
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
: "${MLCORE_RUNS:?name a folder that all nodes share; the checkpoint is kept there}"
export OMP_NUM_THREADS=1

# The nodes meet at a port of the first one; the job's number keeps two jobs on a node apart.
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))

# srun starts one torchrun on each node, which starts one rank a core. After a loss all start again, from the checkpoint.
# One rank a GPU: --nproc-per-node=gpu, and --gpus-per-node above.
for attempt in 1 2 3 4; do
  echo "attempt $attempt"
  srun --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$SLURM_CPUS_PER_TASK" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID-$attempt" --rdzv-endpoint="$first:$port" \
    -m mlcore run "$@" --profile record --resume && exit
done
exit 1
