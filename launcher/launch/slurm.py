"""A plan as a batch script for Slurm. Pure: nothing is asked, written or sent here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import ExitCode
from launcher.launch.elsewhere import placed
from launcher.launch.submission import Submission
from launcher.plan.planner import Plan
from launcher.recipe.dump import recipe_to_yaml
from launcher.rundir.layout import RunDirectory

_IN_CONTAINER = "python3"  # its Python is not the one here
# %(...)s is filled in; the rest is the same for every job.
_SCRIPT = r"""
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
  ls -d %(checkpoints)s/step_* 2>/dev/null | tail -n 1
}
before=$(newest)
%(srun)s &
step=$!
while kill -0 "$step" 2>/dev/null; do
  wait "$step"
done
wait "$step"
code=$?

# %(code)d says that the run was stopped and can go on: it is queued again if it was warned, and got further.
if [ "$code" -eq %(code)d ] && [ -n "$warned" ] && [ "$(newest)" != "$before" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def slurm_job(plan: Plan, run: RunDirectory, python: str = sys.executable) -> Submission:
    """The job that runs a plan, on as many machines as it has.

    Every machine runs `launcher run`, which makes the run go on where it stands: what Slurm starts again needs no
    other command.

    Args:
        plan: the plan, for a machine as `node_machine` describes it.
        run: the directory of the run.
        python: the interpreter to start on every machine, where there is no container.
    """
    filled = {
        "checkpoints": shlex.quote(str(run.checkpoints)),
        "srun": _command(_srun(plan, run, python)),
        "code": ExitCode.REQUEUE,
    }
    options = "\n".join(f"#SBATCH {option}" for option in _options(plan, run))
    script = f"#!/bin/bash\n{options}\n{_SCRIPT % filled}"
    files = {run.slurm_recipe: recipe_to_yaml(placed(plan)), run.slurm_script: script}
    return Submission(("sbatch", "--parsable", str(run.slurm_script)), files)


def _options(plan: Plan, run: RunDirectory) -> Iterator[str]:
    """The options of sbatch, in the form of its lines."""
    recipe, slurm = plan.recipe, plan.recipe.launch.slurm
    yield f"--job-name={recipe.name}"
    yield f"--nodes={plan.topology.nodes}"
    yield "--ntasks-per-node=1"
    yield f"--cpus-per-task={_cores(plan)}"
    if _gpus(plan):
        yield f"--gpus-per-node={_gpus(plan)}"
    for name, value in (
        ("mem", slurm.memory),
        ("time", slurm.time),
        ("partition", slurm.partition),
        ("account", slurm.account),
    ):
        if value is not None:
            yield f"--{name}={value}"
    yield f"--output={_quoted(str(run.slurm_log).replace('%', '%%'))}"
    yield "--open-mode=append"
    if recipe.checkpoint.wanted and recipe.task is not None:
        yield "--requeue"
        yield f"--signal=B:USR1@{recipe.launch.signal_before}"
    else:
        yield "--no-requeue"  # there is nothing that it could go on from
    for name, value in slurm.options.items():
        if value is True:
            yield f"--{name}"
        elif value is not False:
            yield f"--{name}={_quoted(str(value))}"


def _srun(plan: Plan, run: RunDirectory, python: str) -> list[str]:
    """The command that starts `launcher run` once on every machine.

    None of them is killed because another has ended: who leads sees that, and ends the run with a word.
    """
    nodes, slurm = plan.topology.nodes, plan.recipe.launch.slurm
    inside: list[str] = []
    if slurm.container is not None:
        mounts = [f"{folder}:{folder}" for folder in _folders(plan, run)]
        mounts += [mount if ":" in mount else f"{mount}:{mount}" for mount in slurm.mounts]
        inside = [f"--container-image={slurm.container}", f"--container-mounts={','.join(mounts)}"]
        python = _IN_CONTAINER
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={_cores(plan)}",
        "--cpu-bind=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        *inside,
        *(python, "-m", "launcher", "run", str(run.slurm_recipe)),
        *("--runs", str(run.path.parent), "--run-id", run.path.name, "--resume", "auto"),
    ]


def _command(words: list[str]) -> str:
    """A command on several lines, an option on each until its program."""
    options = [word for word in words[1:] if word.startswith("--") and "=" in word]
    rest = words[1 + len(options) :]
    return " \\\n  ".join([words[0], *(shlex.quote(option) for option in options), shlex.join(rest)])


def _cores(plan: Plan) -> int:
    """Cores of a machine: what its ranks and their data-loading processes keep busy."""
    chosen = plan.recipe.launch.slurm.cpus_per_node
    return chosen or plan.topology.nproc_per_node * (1 + plan.recipe.data.workers)


def _gpus(plan: Plan) -> int:
    if plan.topology.device == "cpu":
        return 0
    return plan.recipe.launch.slurm.gpus_per_node or plan.topology.nproc_per_node


def _folders(plan: Plan, run: RunDirectory) -> list[str]:
    """The folders that a container must have: that of all runs, and that of the task or the script."""
    recipe = plan.recipe
    code = [recipe.task.entry.rpartition(":")[0]] if recipe.task else []
    code += [recipe.script.path] if recipe.script else []
    parents = [str(Path(path).parent) for path in code if Path(path).is_absolute()]
    return list(dict.fromkeys([str(run.path.parent), *parents]))


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text
