"""Whether a job is to go on with a run that has begun."""

from __future__ import annotations

from launcher.cli.request import Request
from launcher.errors import RunDirectoryHeldError, RunDirectoryUnusableError
from launcher.rundir.layout import RunDirectory
from launcher.runners.new_run import has_begun
from launcher.runners.resume import has_changed
from launcher.runners.submitted import submitted


def goes_on(run: RunDirectory, request: Request, *, resume: bool) -> bool:
    """Whether a job is to go on with a run that has begun; it is refused here where it would be where it runs.

    Args:
        run: the directory of the run.
        request: the recipe with its plan for where it will run.
        resume: whether it may.

    Raises:
        RunDirectoryHeldError: the run has a job already.
        RunDirectoryUnusableError: the directory holds a run already, and that is not wanted.
        RequestError: the recipe is not the one that the run was begun with.
    """
    job = submitted(run)
    state = job.state() if job is not None else None
    if job is not None and state is not None and state.active:
        raise RunDirectoryHeldError(
            f"{run.path} has job {job.name} already, which is {state.state}. "
            f"Wait for it, end it (launcher cancel {job.name}), or choose another --run-id."
        )
    if not has_begun(run):
        return False
    if not resume:
        raise RunDirectoryUnusableError(
            f"{run.path} holds a run already. Go on with it by --resume auto, or choose another --run-id."
        )
    has_changed(run, request.plan, fork=False)
    return True
