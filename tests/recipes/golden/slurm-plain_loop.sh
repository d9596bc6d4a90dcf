#!/bin/bash
#SBATCH --job-name=plain_loop
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --output=/runs/id/slurm/output.log
#SBATCH --open-mode=append
#SBATCH --no-requeue

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
  ls -d /runs/id/checkpoints/step_* 2>/dev/null | tail -n 1
}
before=$(newest)
srun \
  --nodes=1 \
  --ntasks=1 \
  --ntasks-per-node=1 \
  --cpus-per-task=1 \
  --cpu-bind=none \
  --kill-on-bad-exit=0 \
  --wait=0 \
  python -m launcher run /runs/id/slurm/recipe.yaml --runs /runs --run-id id --resume auto &
step=$!
while kill -0 "$step" 2>/dev/null; do
  wait "$step"
done
wait "$step"
code=$?

# 75 says that the run was stopped and can go on: it is queued again if it was warned, and got further.
if [ "$code" -eq 75 ] && [ -n "$warned" ] && [ "$(newest)" != "$before" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

$ sbatch --parsable /runs/id/slurm/job.sh
