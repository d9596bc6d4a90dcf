"""A job from the choice of its run to what its engine calls it, as the user sees it; the same for every engine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.run_here import RunChoice, announce, chosen_directory, shown_path
from launcher.errors import ExitCode, RunDirectoryHeldError, RunDirectoryUnusableError
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory
from launcher.runners.jobs import SubmittedJob, find_job
from launcher.runners.new_run import fresh_id, has_begun, refuse_no_name
from launcher.runners.not_taken import as_before_unless_taken
from launcher.runners.resume import has_changed, is_done, unfinished_run
from launcher.runners.runs_option import runs_option

_Submission = TypeVar("_Submission", bound=Submission)


def preview_job(request: Request, choice: RunChoice, job_of: Callable[[RunDirectory], Submission]) -> str:
    """What would be submitted, as shell commands that do the same when pasted; a comment where nothing would be.

    Args: as for `submit_job`.

    Raises:
        RunDirectoryHeldError: the run has a job already.
        RunDirectoryUnusableError: its id is no name, or the directory holds a run already and that is not wanted.
        RequestError: the recipe is not the one that the run was begun with.
        LauncherError: the run has a job, and its engine does not say how that stands.
    """
    run = chosen_run(request, choice)
    if _goes_on(run, request, resume=choice.resume) and is_done(run):
        return f"# done: {shown_path(run.path)} has gone to its end"
    return job_of(run).as_shell()


def chosen_run(request: Request, choice: RunChoice) -> RunDirectory:
    """The run that would be submitted, without making its directory.

    Args:
        request: the recipe with its plan.
        choice: which run it is.

    Raises:
        RunDirectoryUnusableError: its id is no name.
    """
    name = request.plan.recipe.name
    run_id = choice.run_id
    if run_id is None and choice.resume:
        run_id = unfinished_run(choice.runs, name)
    if run_id is None:
        run_id = fresh_id(name, datetime.now())
    refuse_no_name(run_id)
    return RunDirectory((choice.runs / run_id).absolute())


def submit_job(
    request: Request,
    choice: RunChoice,
    job_of: Callable[[RunDirectory], _Submission],
    send: Callable[[_Submission, RunDirectory], SubmittedJob | None],
) -> int:
    """Submit a job; the exit code.

    Args:
        request: the recipe with its plan for the machines of the engine.
        choice: which run it is.
        job_of: the job of a run.
        send: hands a job to the engine, which may answer to its own commands alone (None); what it refuses, or what is
            interrupted, leaves no directory behind.

    Raises:
        RunDirectoryHeldError: the run has a job already.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already and that is not wanted.
        RequestError: the recipe is not the one that the run was begun with.
        PerhapsTakenError: the engine may have taken the job, and has not said what it calls it.
        LauncherError: the engine is not there, or does not take the job.
    """
    made = [folder for folder in (choice.runs, *choice.runs.parents) if not folder.exists()]
    run, console = chosen_directory(choice, request.plan.recipe.name), lasting_console(soft_wrap=True)
    before = find_job(run)
    with as_before_unless_taken([run.path, *made], taken=lambda: find_job(run) != before) as files:
        if _goes_on(run, request, resume=choice.resume) and is_done(run):
            console.print(f"done: {shown_path(run.path)} has gone to its end")
            return ExitCode.DONE
        announce(console, request.plan, run)
        submission = job_of(run)
        files.remember(submission.files)
        job = send(submission, run)
    if job is None:
        return ExitCode.DONE
    ask = f"{job.number}{runs_option(run.path.parent)}"
    console.print(f"job: {job.number} (launcher status {ask}, launcher logs -f {ask}, launcher cancel {ask})")
    return ExitCode.DONE


def _goes_on(run: RunDirectory, request: Request, *, resume: bool) -> bool:
    """Whether the job is to go on with a run that has begun; it is refused here where it would be on its machines."""
    job = find_job(run)
    if job is not None and job.engine == "SkyPilot":  # whose jobs and their files are not seen from here
        if not resume:
            raise RunDirectoryUnusableError(
                f"{run.path} was submitted already, and sky jobs queue says how it stands. Go on with it by "
                "--resume auto when it has ended, or choose another --run-id."
            )
        job = None
    state = job.state() if job is not None else None
    if job is not None and state is not None and state.active:
        raise RunDirectoryHeldError(
            f"{run.path} has job {job.number} already, which is {state}. "
            f"Wait for it, end it (launcher cancel {job.number}{runs_option(run.path.parent)}), "
            "or choose another --run-id."
        )
    if not has_begun(run):
        return False
    if not resume:
        raise RunDirectoryUnusableError(
            f"{run.path} holds a run already. Go on with it by --resume auto, or choose another --run-id."
        )
    has_changed(run, request.plan, fork=False)
    return True
