"""A job for Slurm from the choice of its run to its number, as the user sees it."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from launcher.cli.going_on import goes_on
from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.run_here import RunChoice, announce, chosen_directory, shown_path
from launcher.errors import ExitCode
from launcher.launch.slurm import SlurmJob, slurm_job
from launcher.rundir.layout import RunDirectory
from launcher.runners.new_run import fresh_id
from launcher.runners.resume import is_done, unfinished_run
from launcher.runners.slurm import SlurmError, submit


def preview_job(request: Request, choice: RunChoice) -> SlurmJob:
    """The job that would be submitted, without making the directory of its run.

    Args:
        request: the recipe with its plan for the machines of the cluster.
        choice: which run it is.
    """
    name = request.plan.recipe.name
    run_id = choice.run_id or (unfinished_run(choice.runs, name) if choice.resume else None)
    run = RunDirectory((choice.runs / (run_id or fresh_id(name, datetime.now()))).absolute())
    return slurm_job(request.plan, run)


def submit_job(request: Request, choice: RunChoice) -> int:
    """Submit a job; the exit code.

    Args:
        request: the recipe with its plan for the machines of the cluster.
        choice: which run it is.

    Raises:
        RunDirectoryHeldError: the run has a job already.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already and that is not wanted.
        RequestError: the recipe is not the one that the run was begun with.
        SlurmError: Slurm is not there, or does not take the job.
    """
    run, console = chosen_directory(choice, request.plan.recipe.name), lasting_console(soft_wrap=True)
    try:
        if goes_on(run, request, resume=choice.resume) and is_done(run):
            console.print(f"done: {shown_path(run.path)} has gone to its end")
            return ExitCode.DONE
        announce(console, request.plan, run)
        job = submit(slurm_job(request.plan, run), run)
    except SlurmError:
        for path in (run.slurm_recipe, run.slurm_script):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds a run, and stays
            run.slurm.rmdir()
            run.path.rmdir()
        raise
    number = job.number
    console.print(f"job: {number} (launcher status {number}, launcher logs -f {number}, launcher cancel {number})")
    return ExitCode.DONE
