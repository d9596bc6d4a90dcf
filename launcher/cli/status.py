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
    """Show how a run stands, and its job; exit code 2 where an engine did not answer."""
    from launcher.cli.run_here import shown_path
    from launcher.errors import ExitCode, LauncherError
    from launcher.rundir.layout import RunDirectory
    from launcher.rundir.status import RunStatus
    from launcher.runners.jobs import SubmittedJob, find_job, job_runs, submitted_runs

    found = job_runs(run, runs) if run is not None else submitted_runs(runs)
    silent = False

    def asked(job: SubmittedJob) -> str:
        nonlocal silent
        try:
            return f"{job.state() or f'which {job.engine} knows no more'}"
        except LauncherError as error:
            silent = True
            return f"{job.engine} does not answer: {error}"

    def progress(one: RunDirectory, elsewhere: bool) -> str:
        status = RunStatus.read(one)
        if status is None:
            return "its files are in the cluster: see the logs of its job" if elsewhere else "not begun"
        text = f"{status.state} after update {status.update:,}, {status.samples_seen:,} samples"
        return text + (f" ({status.failure.exception})" if status.failure else "")

    for one in found:
        job = find_job(one)
        typer.echo(f"run: {shown_path(one.path)}")
        elsewhere = job is not None and job.engine in ("Kubernetes", "SkyPilot")
        typer.echo(f"state: {progress(one, elsewhere)}")
        typer.echo(f"job: {job.number}, {asked(job)}" if job else "job: it was not submitted")
    if not found:
        typer.echo(f"No run in {runs} was submitted.")
    if silent:
        raise typer.Exit(ExitCode.REQUEST)
