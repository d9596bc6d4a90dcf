"""A plan as a batch script for Slurm. Pure: nothing is asked, written or sent here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import ExitCode
from launcher.launch.elsewhere import as_planned, code_folders
from launcher.launch.submission import Submission
from launcher.plan.planner import Plan
from launcher.recipe.dump import recipe_to_yaml
from launcher.recipe.slurm_rules import gpus_in_gres
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
  scontrol requeue %(job)s
fi
exit "$code"
"""


@dataclass(frozen=True)
class Names:
    """What a batch script calls the run that it runs, each as a word of the shell.

    Attributes:
        checkpoints: the folder of its checkpoints.
        recipe: its recipe file.
        run_id: its id.
        job: its job, as `scontrol requeue` takes it.
    """

    checkpoints: str
    recipe: str
    run_id: str
    job: str


def slurm_job(plan: Plan, run: RunDirectory, python: str = sys.executable) -> Submission:
    """The job that runs a plan, on as many machines as it has.

    Every machine runs `launcher run`, which makes the run go on where it stands: what Slurm starts again needs no
    other command.

    Args:
        plan: the plan, for a machine as `node_machine` describes it.
        run: the directory of the run.
        python: the interpreter to start on every machine, where there is no container.
    """
    names = Names(
        checkpoints=shlex.quote(str(run.checkpoints)),
        recipe=shlex.quote(str(run.slurm_recipe)),
        run_id=shlex.quote(run.path.name),
        job='"$SLURM_JOB_ID"',
    )
    script = batch_script(options_of(plan, run.slurm_log), names, step_command(plan, run.path.parent, names, python))
    files = {run.slurm_recipe: recipe_text(plan), run.slurm_script: script}
    return Submission(("sbatch", "--parsable", str(run.slurm_script)), files)


def batch_script(options: Iterable[str], names: Names, step: str, preamble: str = "") -> str:
    """The text of a batch script.

    Args:
        options: of sbatch.
        names: what it calls its run.
        step: the command that starts the launchers.
        preamble: what goes before all that is the same for every job.
    """
    filled = {"checkpoints": names.checkpoints, "srun": step, "code": ExitCode.REQUEUE, "job": names.job}
    lines = "\n".join(f"#SBATCH {option}" for option in options)
    return f"#!/bin/bash\n{lines}\n{preamble}{_SCRIPT % filled}"


def recipe_text(plan: Plan) -> str:
    """The recipe that every machine of a job is given."""
    return recipe_to_yaml(as_planned(plan))


def options_of(plan: Plan, log: Path) -> Iterator[str]:
    """The options of sbatch, in the form of its lines.

    Args:
        plan: the plan.
        log: the file that takes what the job prints.
    """
    recipe, slurm = plan.recipe, plan.recipe.launch.slurm
    yield f"--job-name={recipe.name}"
    yield f"--nodes={plan.topology.nodes}"
    yield "--ntasks-per-node=1"
    yield f"--cpus-per-task={_cores(plan)}"
    if _gpus(plan) and gpus_in_gres(recipe) is None:
        yield f"--gpus-per-node={_gpus(plan)}"
    for name, value in (
        ("mem", slurm.memory),
        ("time", slurm.time),
        ("partition", slurm.partition),
        ("account", slurm.account),
    ):
        if value is not None:
            yield f"--{name}={value}"
    yield f"--output={_quoted(str(log).replace('%', '%%'))}"
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


def step_command(plan: Plan, runs: Path, names: Names, python: str) -> str:
    """The command that starts `launcher run` once on every machine, an option on each of its lines.

    None of them is killed because another has ended: who leads sees that, and ends the run with a word.

    Args:
        plan: the plan.
        runs: the folder of all runs.
        names: what the script calls its run.
        python: the interpreter, where there is no container.
    """
    nodes, slurm = plan.topology.nodes, plan.recipe.launch.slurm
    inside: list[str] = []
    if slurm.container is not None:
        mounts = [f"{folder}:{folder}" for folder in _folders(plan, runs)]
        mounts += [mount if ":" in mount else f"{mount}:{mount}" for mount in slurm.mounts]
        inside = [f"--container-image={slurm.container}", f"--container-mounts={','.join(mounts)}"]
        python = _IN_CONTAINER
    options = [
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={_cores(plan)}",
        "--cpu-bind=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        *inside,
    ]
    program = f"{shlex.quote(python)} -m launcher run {names.recipe} --runs {shlex.quote(str(runs))}"
    lines = ["srun", *map(shlex.quote, options), f"{program} --run-id {names.run_id} --resume auto"]
    return " \\\n  ".join(lines)


def _cores(plan: Plan) -> int:
    """Cores of a machine: what its ranks and their data-loading processes keep busy."""
    chosen = plan.recipe.launch.slurm.cpus_per_node
    return chosen or plan.topology.nproc_per_node * (1 + plan.recipe.data.workers)


def _gpus(plan: Plan) -> int:
    if plan.topology.device == "cpu":
        return 0
    return plan.recipe.launch.slurm.gpus_per_node or plan.topology.nproc_per_node


def _folders(plan: Plan, runs: Path) -> list[str]:
    """The folders that a container must have: that of all runs, and those that they read."""
    return list(dict.fromkeys([str(runs), *map(str, code_folders(plan.recipe))]))


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text
