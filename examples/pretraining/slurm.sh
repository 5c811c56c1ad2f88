#!/usr/bin/env bash
# Pretraining on several nodes under Slurm: one torchrun a node, which starts one process a GPU.
#
#     sbatch --nodes 8 examples/pretraining/slurm.sh @examples/pretraining/large_8k.args data-bin --save-dir runs/large
#
# Everything after the script's name goes to roberta-train. The folder of --save-dir must be one that all nodes share.
# Shortly before the time is up the run finishes its update, saves, and the job goes back into the queue; --resume lets
# it go on from there. A node that fails ends the attempt; torchrun begins another from the newest checkpoint.
#SBATCH --job-name=roberta
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=roberta-%j.log
set -uo pipefail

export GPUS=${SLURM_GPUS_ON_NODE:-8}
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-8} / GPUS))
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240 # seconds to finish an update and save it
export ENDPOINT=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500
export AGENT=/tmp/roberta-$SLURM_JOB_ID.pid # of torchrun, on each node

stopped=
stop() {
    stopped=yes
    # torchrun alone is told, and tells its processes: they take a second signal for an order to end at once.
    srun --overlap --ntasks-per-node=1 bash -c 'kill -TERM "$(cat "$AGENT")"'
}
trap stop TERM

srun --ntasks-per-node=1 --kill-on-bad-exit=0 bash -c '
    echo $$ >"$AGENT"
    exec torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$GPUS" --max-restarts 3 \
        --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$ENDPOINT" \
        --no-python roberta-train "$@" --resume' roberta-train "$@" &
training=$!

wait "$training"
status=$?
if [ -n "$stopped" ]; then # the signal ended the first wait
    wait "$training"
    status=$?
    [ "$status" = 0 ] || exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
