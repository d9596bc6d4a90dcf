"""A job for Slurm from the choice of its run to its number, as the user sees it."""

from __future__ import annotations

from datetime import datetime

from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.run_here import RunChoice, announce, chosen_directory, shown_path
from launcher.errors import ExitCode, RunDirectoryHeldError, RunDirectoryUnusableError
from launcher.launch.slurm import SlurmJob, slurm_job
from launcher.rundir.layout import RunDirectory
from launcher.runners.new_run import fresh_id, has_begun
from launcher.runners.resume import has_changed, is_done, unfinished_run
from launcher.runners.slurm import Job, SlurmError, submit, withdraw


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
        if _goes_on(run, request, resume=choice.resume) and is_done(run):
            console.print(f"done: {shown_path(run.path)} has gone to its end")
            return ExitCode.DONE
        announce(console, request.plan, run)
        job = submit(slurm_job(request.plan, run), run)
    except SlurmError:
        withdraw(run)
        raise
    number = job.number
    console.print(f"job: {number} (launcher status {number}, launcher logs -f {number}, launcher cancel {number})")
    return ExitCode.DONE


def _goes_on(run: RunDirectory, request: Request, *, resume: bool) -> bool:
    """Whether the job is to go on with a run that has begun; it is refused here where it would be on its machines."""
    job = Job.of(run)
    state = job.state() if job is not None else None
    if job is not None and state is not None and state.active:
        raise RunDirectoryHeldError(
            f"{run.path} has job {job.number} already, which is {state.state}. "
            f"Wait for it, end it (launcher cancel {job.number}), or choose another --run-id."
        )
    if not has_begun(run):
        return False
    if not resume:
        raise RunDirectoryUnusableError(
            f"{run.path} holds a run already. Go on with it by --resume auto, or choose another --run-id."
        )
    has_changed(run, request.plan, fork=False)
    return True
