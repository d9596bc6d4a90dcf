"""`launcher logs`: what the jobs of a run have printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import RunOrJobArgument, RunsOption

_LOOK = 0.5  # seconds between two looks at the file
_ASK = 5.0  # seconds between two questions to Slurm


def logs(
    run: RunOrJobArgument,
    runs: RunsOption = Path("runs"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
) -> None:
    """Show what the jobs of a run have printed; each rank has a log of its own in the run's logs."""
    import time

    from launcher.runners.follow import LineFollower
    from launcher.runners.slurm import SlurmError, job_of, job_run

    directory = job_run(run, runs)
    job = job_of(directory)
    if not follow and not directory.slurm_log.exists():
        raise SlurmError(f"Job {job.number} has printed nothing yet. Ask how it stands: launcher status {job.number}")
    lines = LineFollower(directory.slurm_log)
    asked, active = float("-inf"), follow
    while True:
        if active and time.monotonic() - asked > _ASK:
            asked = time.monotonic()
            state = job.state()
            active = state is not None and state.active
        for line in lines.new():
            typer.echo(line)
        if not active:
            return
        time.sleep(_LOOK)
