#!/bin/bash
# An array job: each task captions one shard on one machine. When its time is nearly up it stops in order and is queued
# again; the same after a machine was taken away or died. Each time it goes on where it was.
#   SHARDS=64 sbatch --array=0-63 scripts/examples/slurm.sh PICTURES --output OUT [options of caption.run]
#   python -m caption.merge OUT --output ALL     # when all tasks have ended
# Submit it from the folder of this checkout, and download the model once before (--limit 1 on a login node).
#SBATCH --job-name=caption
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=caption-%A_%a.log
set -u

# Not SLURM_ARRAY_TASK_COUNT: that is 2 when tasks 3 and 7 of 64 are submitted again.
: "${SHARDS:?say how many shards the job has: SHARDS=64 sbatch --array=0-63 ...}"
[ -f .venv/bin/activate ] && source .venv/bin/activate

requeue=
stop() { kill -TERM "$run" 2>/dev/null; }
trap 'requeue=yes; stop' USR1 # three minutes before the time limit
trap stop TERM                # cancelled; or preempted, then Slurm itself queues the job again

# Newer versions of srun do not take over --cpus-per-task by themselves.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" python -m caption.run "$@" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" --grace 120 &
run=$!
wait "$run"
while kill -0 "$run" 2>/dev/null; do wait "$run"; done # a signal ends a wait, not the run
wait "$run"                                            # bash has kept its exit code
code=$?

if [ "$requeue" ] && [ "$code" = 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
