"""`launcher status`: how runs stand, and their jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import RunsOption


def status(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN|JOB]", help="Run or job; default: all that were submitted.")
    ] = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """Show how a run stands, and its job."""
    from launcher.cli.run_here import shown_path
    from launcher.rundir.layout import RunDirectory
    from launcher.rundir.status import RunStatus
    from launcher.runners.jobs import find_job, job_runs, submitted_runs

    found = job_runs(run, runs) if run is not None else submitted_runs(runs)
    jobs = [find_job(one) for one in found]
    told = [job.state() if job else None for job in jobs]

    def progress(one: RunDirectory, elsewhere: bool) -> str:
        status = RunStatus.read(one)
        if status is None:
            return "its files are in the cluster: see the logs of its job" if elsewhere else "not begun"
        text = f"{status.state} after update {status.update:,}, {status.samples_seen:,} samples"
        return text + (f" ({status.failure.exception})" if status.failure else "")

    for one, job, state in zip(found, jobs, told, strict=True):
        typer.echo(f"run: {shown_path(one.path)}")
        typer.echo(f"state: {progress(one, job is not None and job.engine in ('Kubernetes', 'SkyPilot'))}")
        known = job and f"job: {job.number}, {state or f'which {job.engine} knows no more'}"
        typer.echo(known or "job: it was not submitted")
    if not found:
        typer.echo(f"No run in {runs} was submitted.")
