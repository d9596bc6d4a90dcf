"""A job for Slurm, as `launcher submit` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.cli.request import Request, read_request
from launcher.launch.slurm import slurm_job
from launcher.launch.slurm_fit import node_machine, refuse_folder
from launcher.launch.submission import Submission
from launcher.recipe.files import without_dots
from launcher.rundir.layout import RunDirectory
from launcher.runners import slurm


def read(recipe: Path, overrides: Sequence[str], runs: Path) -> Request:
    """The recipe with its plan for the machines of the cluster.

    Raises:
        RequestError: it cannot run there.
    """
    request = read_request(recipe, overrides, node_machine)
    refuse_folder(runs.absolute())
    return request


def job(request: Request, run: RunDirectory, *, resume: bool = False) -> Submission:
    """The job of a run, which a dry run prints."""
    return slurm_job(request.plan, RunDirectory(without_dots(run.path)))


def send(request: Request, submission: Submission, run: RunDirectory) -> slurm.Job:
    """Hand the job to Slurm.

    Raises:
        SlurmError: Slurm is not there, or does not take it.
    """
    return slurm.submit(submission, run)
