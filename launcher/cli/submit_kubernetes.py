"""A job for Kubernetes from the choice of its run to its name, as the user sees it."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from launcher.cli.going_on import goes_on
from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.run_here import RunChoice, announce, chosen_directory, shown_path
from launcher.errors import ExitCode, RequestError
from launcher.launch.kubernetes import KubernetesJob, kubernetes_job
from launcher.launch.kubernetes_fit import refuse_code
from launcher.rundir.layout import RunDirectory
from launcher.runners.kubernetes import ClusterJob, KubernetesError, submit, withdraw
from launcher.runners.new_run import fresh_id, refuse_no_name
from launcher.runners.resume import is_done, unfinished_run


def preview_kubernetes(request: Request, choice: RunChoice) -> KubernetesJob:
    """The job that would be submitted, without making the directory of its run.

    Args:
        request: the recipe with its plan for the machines of the cluster.
        choice: which run it is.

    Raises:
        RequestError: its pods would not find its code.
    """
    name = request.plan.recipe.name
    run_id = choice.run_id or (unfinished_run(choice.runs, name) if choice.resume else None)
    run_id = run_id or fresh_id(name, datetime.now())
    refuse_no_name(run_id)
    return _job(request, RunDirectory((choice.runs / run_id).absolute()))


def submit_kubernetes(request: Request, choice: RunChoice) -> int:
    """Submit a job; the exit code.

    Args:
        request: the recipe with its plan for the machines of the cluster.
        choice: which run it is.

    Raises:
        RequestError: its pods would not find its code, or the recipe is not the one that the run was begun with.
        RunDirectoryHeldError: the run has a job already.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already and that is not wanted.
        KubernetesError: Kubernetes is not there, or does not take the job.
    """
    preview_kubernetes(request, choice)  # what is refused leaves no folder
    run, console = chosen_directory(choice, request.plan.recipe.name), lasting_console(soft_wrap=True)
    asked = request.plan.recipe.launch.kubernetes
    try:
        if goes_on(run, request, resume=choice.resume) and is_done(run):
            console.print(f"done: {shown_path(run.path)} has gone to its end")
            return ExitCode.DONE
        announce(console, request.plan, run)
        name = submit(_job(request, run), run, asked.kind, asked.namespace or "", _number(run)).name
    except KubernetesError:
        withdraw(run)
        raise
    console.print(f"job: {name} (launcher status {name}, launcher logs -f {name}, launcher cancel {name})")
    return ExitCode.DONE


def _job(request: Request, run: RunDirectory) -> KubernetesJob:
    folder = Path(os.path.normpath(request.loaded.path.absolute())).parent
    try:
        refuse_code(request.plan.recipe, folder)
    except RequestError as error:
        raise error.located(request.loaded.marks) from None
    return kubernetes_job(request.plan, run, folder, _number(run))


def _number(run: RunDirectory) -> int:
    """How often the run will have been submitted: the job before may still be there, under its name."""
    before = ClusterJob.of(run)
    return before.number + 1 if before else 1
