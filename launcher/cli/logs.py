"""`launcher logs`: what the jobs of a run have printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import RunOrJobArgument, RunsOption


def logs(
    run: RunOrJobArgument,
    runs: RunsOption = Path("runs"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
) -> None:
    """Show what the jobs of a run have printed; each rank has a log of its own in the run's logs."""
    from launcher.runners.submitted import job_of, job_run

    for line in job_of(job_run(run, runs)).lines(follow):
        typer.echo(line)
