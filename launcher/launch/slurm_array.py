"""Many runs as one array of jobs for Slurm, a task for each. Pure: nothing is asked, written or sent here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from launcher.errors import Mistake, RequestError
from launcher.launch.slurm import Names, batch_script, options_of, recipe_text, step_command
from launcher.launch.submission import Submission
from launcher.plan.planner import Plan
from launcher.rundir.layout import RunDirectory

# A task of an array that is named by SLURM_JOB_ID may be named with all others: the first has the number of the array.
_NAMES = Names(
    checkpoints='"$run"/checkpoints',
    recipe='"$run"/slurm/recipe.yaml',
    run_id='"${run##*/}"',
    job='"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"',
)
_PREAMBLE = """
# The run of this task of the array, by its number.
runs=(
%(ids)s
)
run=%(folder)s/${runs[$SLURM_ARRAY_TASK_ID]}
exec >>"$run"/slurm/output.log 2>&1
"""


def slurm_array(
    planned: Sequence[tuple[Plan, RunDirectory]], at_once: int | None = None, python: str = sys.executable
) -> Submission:
    """The array whose tasks each run one plan, as a job of its own would.

    Args:
        planned: the plans and their directories, all in one folder, which gets the script.
        at_once: how many may run at the same time; None for as many as Slurm has machines for.
        python: the interpreter to start on every machine, where there is no container.

    Raises:
        RequestError: the runs need different machines, which one array cannot ask for.
    """
    folder = planned[0][1].path.parent
    array = RunDirectory(folder)
    log = array.slurm / "task.log"
    asked = [[*options_of(plan, log), step_command(plan, folder, _NAMES, python)] for plan, _ in planned]
    for other in asked[1:]:
        _refuse_differences(asked[0], other)
    limit = f"%{at_once}" if at_once is not None else ""
    *options, step = asked[0]
    preamble = _PREAMBLE % {
        "ids": "\n".join(f"  {shlex.quote(run.path.name)}" for _, run in planned),
        "folder": shlex.quote(str(folder)),
    }
    options.insert(1, f"--array=0-{len(planned) - 1}{limit}")
    script = batch_script(options, _NAMES, step, preamble)
    files = {run.slurm_recipe: recipe_text(plan) for plan, run in planned}
    return Submission(("sbatch", "--parsable", str(array.slurm_script)), {**files, array.slurm_script: script})


def _refuse_differences(first: Sequence[str], other: Sequence[str]) -> None:
    lines = [[line for option in asked for line in option.split(" \\\n  ")] for asked in (first, other)]
    only = [[line for line in mine if line not in theirs] for mine, theirs in (lines, lines[::-1])]
    if only != [[], []]:
        said = " and ".join(" ".join(some) or "none" for some in only)
        raise RequestError(
            [Mistake("--to slurm", f"an array asks for the same in each of its tasks, and here it would be {said}",
                     "Make a sweep for each, with a --sweep-id of its own")]
        )  # fmt: skip


def task_of(answer: str, number: int) -> str:
    """The job of one task, in the words of what sbatch has answered for the array.

    Args:
        answer: the number of the array, and its cluster after a semicolon where Slurm has named one.
        number: of the task.
    """
    array, semicolon, cluster = answer.partition(";")
    return f"{array}_{number}{semicolon}{cluster}"
