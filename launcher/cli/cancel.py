"""`launcher cancel`: end the job of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import RunOrJobArgument, RunsOption


def cancel(
    run: RunOrJobArgument,
    runs: RunsOption = Path("runs"),
    now: Annotated[bool, typer.Option("--now", help="Do not wait for an update and a checkpoint.")] = False,
) -> None:
    """End the job of a run: at its next update, with a checkpoint, and it is not queued again.

    Of one that has ended, what Kubernetes still has is deleted.
    """
    from launcher.cli.run_here import shown_path
    from launcher.rundir.status import RunStatus
    from launcher.runners.jobs import clear_away, job_of, job_run
    from launcher.words import plural

    directory = job_run(run, runs)
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
