#!/bin/bash
#SBATCH --job-name=digits
#SBATCH --array=0-3%2
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --output=/runs/digits-sweep/slurm/task.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180

# The run of this task of the array, by its number.
runs=(
  global-128-device-cpu-nodes-2-nproc_per_node-1-lr-0.01
  global-256-device-cpu-nodes-2-nproc_per_node-1-lr-0.01
  global-128-device-cpu-nodes-2-nproc_per_node-1-lr-0.003
  global-256-device-cpu-nodes-2-nproc_per_node-1-lr-0.003
)
run=/runs/digits-sweep/${runs[$SLURM_ARRAY_TASK_ID]}
exec >>"$run"/slurm/output.log 2>&1

# What is sent to the processes of this script's group does not reach srun, which would kill the ranks on SIGTERM.
set -m
warned=
step=
warn() {
  warned=yes
  [ -z "$step" ] || kill -USR1 "$step"
}
trap warn USR1   # the time is nearly over, or others need the machines: the run ends at its next update
trap : TERM      # Slurm tells the ranks too; this script waits for them

newest() {
  ls -d "$run"/checkpoints/step_* 2>/dev/null | tail -n 1
}
before=$(newest)
srun \
  --nodes=2 \
  --ntasks=2 \
  --ntasks-per-node=1 \
  --cpus-per-task=1 \
  --cpu-bind=none \
  --kill-on-bad-exit=0 \
  --wait=0 \
  python -m launcher run "$run"/slurm/recipe.yaml --runs /runs/digits-sweep --run-id "${run##*/}" --resume auto &
step=$!
while kill -0 "$step" 2>/dev/null; do
  wait "$step"
done
wait "$step"
code=$?

# 75 says that the run was stopped and can go on: it is queued again if it was warned, and got further.
if [ "$code" -eq 75 ] && [ -n "$warned" ] && [ "$(newest)" != "$before" ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"

$ sbatch --parsable /runs/digits-sweep/slurm/job.sh
