"""`launcher cancel`: end the job of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import RunOrJobArgument, RunsOption

if TYPE_CHECKING:
    from launcher.rundir.layout import RunDirectory


def cancel(
    run: RunOrJobArgument,
    runs: RunsOption = Path("runs"),
    now: Annotated[bool, typer.Option("--now", help="Do not wait for an update and a checkpoint.")] = False,
) -> None:
    """End the job of a run: at its next update, with a checkpoint, and it is not queued again; or all of an array.

    Of one that has ended, what Kubernetes still has is deleted.
    """
    from launcher.runners.jobs import job_runs

    # The last first: what waits for machines is behind what has them, and would begin.
    for directory in reversed(job_runs(run, runs)):
        _end(directory, now=now)


def _end(directory: RunDirectory, *, now: bool) -> None:
    from launcher.cli.run_here import shown_path
    from launcher.rundir.status import RunStatus
    from launcher.runners.jobs import clear_away, job_of
    from launcher.words import plural

    job = job_of(directory)
    before, forgotten = job.state(), f"which {job.engine} knows no more"
    if before is None or not before.active:
        typer.echo(f"job: {job.number}, {before or forgotten}: there is nothing to end")
        if left := clear_away(job):
            typer.echo(f"deleted: {plural(left, 'object')} that {job.engine} still had of it")
        return
    after = job.end(now=now, say=typer.echo)
    typer.echo(f"job: {job.number}, {after or forgotten}")
    status = RunStatus.read(directory)
    if status is not None:
        typer.echo(f"state: {status.state} after update {status.update:,}")
    typer.echo(f"run: {shown_path(directory.path)}")
